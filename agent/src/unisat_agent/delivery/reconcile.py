"""Two databases that drifted become equal again: a hub restored from a backup, a lost spool.

Counts are compared per range of seq, halving a range where they differ until it is small enough
to list; what one side lacks is adopted by the spool and delivered as everything else is. Only
records that agents made (they have an epoch and a seq) are compared, and of those only the ones
that nobody waits for. A record that was deleted on a side on purpose is not brought back.

Equal counts can hide that each side lacks another record. Of the spool's own epoch all numbers are
known: where both sides lack some, its ranges are listed one by one.

What was compared once is not compared again, unless somebody asks or a database says that it is
another one (its timeline). A Kinto without a timeline is counted as a whole each time. What a side
let go for its age (`retain_from`) is not missing.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from uuid import UUID

from unisat_agent.delivery.kinto import KintoClient
from unisat_agent.delivery.side import Range, ReconcileError, Side
from unisat_agent.delivery.verified import Verified, load
from unisat_agent.record import Record, row_of
from unisat_agent.spool.queue import Spool

# A range with at most so many records is listed, one request a side, instead of halved.
LIST_MAX = 500
FETCH_MAX = 25
# So many of the newest packages may wait on a station where nothing is wrong.
IN_FLIGHT_MAX = 1000

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Report:
    """What a comparison found, in records."""

    compared: int = 0
    sent: Counter[str] = field(default_factory=Counter)
    """Missing on a side, and to be delivered there now, by side."""
    deleted: int = 0
    """Missing on one side because somebody deleted them there; left alone."""
    foreign: int = 0
    """Missing on one side, and not made by an agent after all; left alone."""
    gaps: dict[str, int] = field(default_factory=dict)
    """Numbers of this spool that a sink lacks and that nobody sends: lost, or deleted; by sink."""
    high: int | None = None
    """Of this spool all numbers below were compared; None where some were left out."""
    problems: list[str] = field(default_factory=list)
    """Devices that could not be compared, and why."""

    def __str__(self) -> str:
        return (
            f"{self.compared} records compared, {self.sent['hub']} missing on the hub, "
            f"{self.sent['local']} missing in the local Kinto, {self.deleted} deleted on purpose"
            + (f", {self.foreign} not made by an agent" if self.foreign else "")
            + "".join(f"; {problem}" for problem in self.problems)
        )


class Reconciler:
    """Compares the local Kinto with the hub.

    Args:
        spool: Adopts what is missing, and knows what is still waiting.
        local: A connection of its own to the local Kinto.
        hub: Likewise to the hub.
        beat: Called while it makes progress, between requests.
    """

    def __init__(
        self,
        spool: Spool,
        local: KintoClient,
        hub: KintoClient,
        beat: Callable[[], None],
    ) -> None:
        self._spool = spool
        self._sides = {"local": Side(local, beat), "hub": Side(hub, beat)}
        self._floors: dict[str, int] = {}

    def run(self, *, afresh: bool = False) -> Report:
        """Compares what is new, or everything.

        Args:
            afresh: Also what was compared before.

        Raises:
            TransportError: A side does not answer.
            SpoolError: The spool can't take what is missing.
        """
        report = Report()
        timelines = {name: side.timeline() for name, side in self._sides.items()}
        verified = load(self._spool, timelines, afresh=afresh)
        devices = self._devices(report)
        for dev_id in devices:
            with _noted(report):
                self._floors[dev_id] = max(side.floor(dev_id) for side in self._sides.values())
        high, highs = self._highs(devices)
        report.high = high
        try:
            self._own(devices, verified, high, highs, report)
        finally:
            # Also where a side went away: what was compared is not compared again.
            verified.save(self._spool)
        if not verified.others:
            for dev_id in devices:
                with _noted(report):
                    for epoch in self._sides["local"].epochs(dev_id):
                        if epoch != self._spool.epoch:
                            self._other(dev_id, epoch, report)
        if not report.problems:
            report.gaps = dict(verified.gaps)
            verified.others = True
            verified.save(self._spool)
        _log.info("reconcile: %s", report)
        return report

    def _highs(self, devices: list[str]) -> tuple[int | None, dict[str, int]]:
        """Below which numbers nothing waits: of all devices as one, or of each of them.

        One device that is refused for long does not keep the others from being compared.
        """
        end = self._spool.last_seq + 1
        lowest = self._spool.lowest_waiting()
        high = end if lowest is None else lowest
        if end - high <= IN_FLIGHT_MAX:
            return high, dict.fromkeys(devices, high)
        return None, {dev_id: self._spool.lowest_waiting(dev_id) or end for dev_id in devices}

    def _own(
        self,
        devices: list[str],
        verified: Verified,
        high: int | None,
        highs: Mapping[str, int],
        report: Report,
    ) -> None:
        """Compares the spool's own records, and notes how far."""
        have: Counter[str] = Counter()
        # Only ranges that begin together can say which numbers are nowhere.
        together = high is not None and not verified.marks
        for dev_id in devices:
            low = verified.mark(dev_id)
            with _noted(report):
                part = self._range(dev_id, self._spool.epoch, low, highs[dev_id])
                have.update(self._compare(part, report))
                verified.marks[dev_id] = max(low, highs[dev_id])
        if high is None or report.problems:
            return
        have.update(report.sent)
        if together and self._whole(verified.low):
            before = verified.gaps if verified.low else {}
            gaps = self._gaps(have, verified.low, high)
            told = {side: before.get(side, 0) + count for side, count in gaps.items()}
            if all(gaps.values()) and told != verified.gaps:
                have.subtract(report.sent)
                for dev_id in devices:
                    with _noted(report):
                        self._list_own(dev_id, verified.low, high, report)
                have.update(report.sent)
                gaps = self._gaps(have, verified.low, high)
                told = {side: before.get(side, 0) + count for side, count in gaps.items()}
            verified.gaps = told
        verified.low = max(verified.low, high)
        verified.marks.clear()

    def _whole(self, low: int) -> bool:
        """Whether all numbers from this one on have to be there: no floor is above them."""
        floor = max(self._floors.values(), default=0)
        if not floor:
            return True
        first = self._spool.received_from(low)
        return first is not None and first >= floor * 1000

    def _range(self, dev_id: str, epoch: UUID, low: int, high: int) -> Range:
        return Range(dev_id, epoch, low, max(low, high), self._floors.get(dev_id, 0))

    def _gaps(self, have: Mapping[str, int], low: int, high: int) -> dict[str, int]:
        """How many of the spool's own numbers each side lacks, dead letters aside."""
        numbers = high - max(low, 1)
        return {
            side: max(0, numbers - have[side] - self._spool.dead_between(side, low, high))
            for side in self._sides
        }

    def _devices(self, report: Report) -> list[str]:
        """The collections of the local Kinto that this account can see, and the spool's."""
        found = set(self._spool.devices())
        with _noted(report):
            found.update(self._sides["local"].devices())
        return sorted(found)

    def _other(self, dev_id: str, epoch: UUID, report: Report) -> None:
        """Compares one device's records of a spool that is no more."""
        newest = max(side.newest(dev_id, epoch) for side in self._sides.values())
        self._compare(self._range(dev_id, epoch, 0, newest + 1), report)

    def _compare(self, whole: Range, report: Report) -> dict[str, int]:
        """Compares a range; returns how many each side had."""
        if whole.low >= whole.high:
            return dict.fromkeys(self._sides, 0)
        totals = self._counts(whole)
        report.compared += max(totals.values())
        todo = [(whole, totals)]
        while todo:
            part, counts = todo.pop()
            if counts["local"] == counts["hub"]:
                continue
            if max(counts.values()) <= LIST_MAX:
                self._even_out(part, report)
                continue
            todo.extend((half, self._counts(half)) for half in part.halves())
        return totals

    def _counts(self, part: Range) -> dict[str, int]:
        return {name: side.count(part) for name, side in self._sides.items()}

    def _list_own(self, dev_id: str, low: int, high: int, report: Report) -> None:
        """Compares the spool's own records of a device range by range, whatever their counts."""
        for start in range(low, high, LIST_MAX):
            stop = min(start + LIST_MAX, high)
            self._even_out(self._range(dev_id, self._spool.epoch, start, stop), report)

    def _even_out(self, part: Range, report: Report) -> None:
        ids = {name: side.ids(part, LIST_MAX) for name, side in self._sides.items()}
        for holder, other in (("local", "hub"), ("hub", "local")):
            missing = sorted(ids[holder] - ids[other])
            for start in range(0, len(missing), FETCH_MAX):
                some = missing[start : start + FETCH_MAX]
                gone = self._sides[other].tombstones(part.dev_id, some)
                report.deleted += len(gone)
                wanted = [record_id for record_id in some if record_id not in gone]
                if not wanted:
                    continue
                found = self._sides[holder].records(part.dev_id, wanted)
                records = [record for record in found if _is_of(record, part.dev_id)]
                report.foreign += len(found) - len(records)
                if adopted := self._spool.adoption.adopt(records, holder=holder, wanted_by=other):
                    report.sent[other] += adopted


@contextlib.contextmanager
def _noted(report: Report) -> Iterator[None]:
    """A device that can't be compared does not keep the others from it."""
    try:
        yield
    except ReconcileError as error:
        if str(error) not in report.problems:
            report.problems.append(str(error))


def _is_of(record: Record, dev_id: str) -> bool:
    """Whether an agent made the record, for this device."""
    try:
        return row_of(record, -1).dev_id == dev_id
    except ValueError:
        return False
