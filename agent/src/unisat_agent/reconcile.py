"""Two databases that drifted become equal again: a hub restored from a backup, a lost spool.

Counts are compared per range of seq, halving a range where they differ until it is small enough
to list; what one side lacks is adopted by the spool and delivered as everything else is. Only
records that agents made (they have an epoch and a seq) are compared, and of those only the ones
that nobody waits for. A record that was deleted on a side on purpose is not brought back.

Equal counts can hide that each side lacks another record. Of the spool's own epoch all numbers are
known: where both sides lack some, its ranges are listed one by one.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlencode
from uuid import UUID

from unisat_agent.errors import AgentError
from unisat_agent.kinto import Answer, KintoClient
from unisat_agent.record import Record, row_of
from unisat_agent.spool import Spool

# A range with at most so many records is listed, one request a side, instead of halved.
LIST_MAX = 500
FETCH_MAX = 25

_log = logging.getLogger(__name__)


class ReconcileError(AgentError):
    """One device can't be compared; what was adopted of it so far will be delivered."""


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
    problems: list[str] = field(default_factory=list)
    """Devices that could not be compared, and why."""

    def __str__(self) -> str:
        return (
            f"{self.compared} records compared, {self.sent['hub']} missing on the hub, "
            f"{self.sent['local']} missing in the local Kinto, {self.deleted} deleted on purpose"
            + (f", {self.foreign} not made by an agent" if self.foreign else "")
            + "".join(f"; {problem}" for problem in self.problems)
        )


@dataclass(frozen=True, slots=True)
class _Range:
    """Records of one device and epoch with low <= seq < high."""

    dev_id: str
    epoch: UUID
    low: int
    high: int

    def query(self, **more: str | int) -> str:
        # Quoted: an epoch such as 1e5… would else be read as a number.
        terms = {"epoch": f'"{self.epoch}"', "min_seq": self.low, "lt_seq": self.high, **more}
        return urlencode(terms)

    def halves(self) -> tuple[_Range, _Range]:
        middle = (self.low + self.high) // 2
        return (
            _Range(self.dev_id, self.epoch, self.low, middle),
            _Range(self.dev_id, self.epoch, middle, self.high),
        )


class Reconciler:
    """Compares the local Kinto with the hub.

    Args:
        spool: Adopts what is missing, and knows what is still waiting.
        local: A connection of its own to the local Kinto.
        hub: Likewise to the hub.
        beat: Called while it makes progress, between requests.
        known_gaps: The gaps that the comparison before this one left.
    """

    def __init__(
        self,
        spool: Spool,
        local: KintoClient,
        hub: KintoClient,
        beat: Callable[[], None],
        known_gaps: Mapping[str, int] | None = None,
    ) -> None:
        self._spool = spool
        self._clients = {"local": local, "hub": hub}
        self._beat = beat
        self._known_gaps = known_gaps
        self._own_high = 0

    def run(self) -> Report:
        """Compares everything once.

        Raises:
            TransportError: A side does not answer.
            SpoolError: The spool can't take what is missing.
        """
        report = Report()
        own = self._spool.epoch
        # Below this number nothing of the spool's own waits for anybody.
        self._own_high = self._spool.lowest_waiting() or self._spool.last_seq + 1
        devices = self._devices(report)
        have: Counter[str] = Counter()
        for dev_id in devices:
            with _noted(report):
                have.update(self._epoch(dev_id, own, report))
        have.update(report.sent)
        gaps = self._gaps(have)
        if all(gaps.values()) and gaps != self._known_gaps and not report.problems:
            have.subtract(report.sent)
            for dev_id in devices:
                with _noted(report):
                    self._list_own(dev_id, report)
            have.update(report.sent)
            gaps = self._gaps(have)
        for dev_id in devices:
            with _noted(report):
                for epoch in self._epochs(dev_id):
                    if epoch != own:
                        self._epoch(dev_id, epoch, report)
        if not report.problems:
            report.gaps = gaps
        _log.info("reconcile: %s", report)
        return report

    def _gaps(self, have: Mapping[str, int]) -> dict[str, int]:
        """How many of the spool's own numbers each side lacks, dead letters aside."""
        return {
            side: max(
                0, self._own_high - 1 - have[side] - sum(self._spool.dead_by_reason(side).values())
            )
            for side in self._clients
        }

    def _devices(self, report: Report) -> list[str]:
        """The collections of the local Kinto that this account can see, and the spool's."""
        bucket = self._clients["local"].settings.bucket
        found = set(self._spool.devices())
        try:
            for answer in self._pages("local", f"/buckets/{bucket}/collections?_limit=100"):
                found.update(str(item.get("id")) for item in _data(answer))
        except ReconcileError as error:
            report.problems.append(str(error))
        return sorted(found)

    def _epochs(self, dev_id: str) -> Iterator[UUID]:
        """The epochs of one device in the local Kinto, each found from the one before."""
        # Texts alone: null is sorted before them, and what else a stranger may have written behind.
        query = {"_sort": "epoch", "_limit": "1", "_fields": "epoch", "gt_epoch": '""'}
        seen: set[str] = set()
        while record := self._first("local", dev_id, urlencode(query)):
            epoch = record.get("epoch")
            if not isinstance(epoch, str) or epoch in seen:
                return
            seen.add(epoch)
            query["gt_epoch"] = f'"{epoch}"'
            try:
                yield UUID(epoch)
            except ValueError:
                _log.debug("reconcile: %s has an epoch that is no agent's: %s", dev_id, epoch)

    def _epoch(self, dev_id: str, epoch: UUID, report: Report) -> dict[str, int]:
        """Compares one device's records of one epoch; returns how many each side had."""
        high = self._own_high
        if epoch != self._spool.epoch:
            query = {"epoch": f'"{epoch}"', "_sort": "-seq", "_limit": "1", "_fields": "seq"}
            newest = [
                record["seq"]
                for side in self._clients
                if (record := self._first(side, dev_id, urlencode(query))) is not None
                and isinstance(record.get("seq"), int)
            ]
            high = max(newest, default=-1) + 1
        whole = _Range(dev_id, epoch, 0, high)
        totals = {side: self._count(side, whole) for side in self._clients}
        report.compared += max(totals.values())
        todo = [(whole, totals)]
        while todo:
            self._beat()
            part, counts = todo.pop()
            if counts["local"] == counts["hub"]:
                continue
            if max(counts.values()) <= LIST_MAX:
                self._even_out(part, report)
                continue
            todo.extend(
                (half, {side: self._count(side, half) for side in self._clients})
                for half in part.halves()
            )
        return totals

    def _list_own(self, dev_id: str, report: Report) -> None:
        """Compares the spool's own records of a device range by range, whatever their counts."""
        for low in range(0, self._own_high, LIST_MAX):
            high = min(low + LIST_MAX, self._own_high)
            self._even_out(_Range(dev_id, self._spool.epoch, low, high), report)

    def _even_out(self, part: _Range, report: Report) -> None:
        ids = {side: self._ids(side, part) for side in self._clients}
        for holder, other in (("local", "hub"), ("hub", "local")):
            missing = sorted(ids[holder] - ids[other])
            for start in range(0, len(missing), FETCH_MAX):
                self._beat()
                some = missing[start : start + FETCH_MAX]
                gone = self._tombstones(other, part.dev_id, some)
                report.deleted += len(gone)
                wanted = [record_id for record_id in some if record_id not in gone]
                if not wanted:
                    continue
                query = urlencode({"in_id": ",".join(wanted)})
                found = [_plain(r) for r in self._records(holder, part.dev_id, query)]
                records = [record for record in found if _is_of(record, part.dev_id)]
                report.foreign += len(found) - len(records)
                if adopted := self._spool.adopt(records, holder=holder, wanted_by=other):
                    report.sent[other] += adopted

    def _ids(self, side: str, part: _Range) -> set[str]:
        self._beat()
        query = part.query(_fields="id", _limit=LIST_MAX)
        return {str(record.get("id")) for record in self._records(side, part.dev_id, query)}

    def _tombstones(self, side: str, dev_id: str, ids: list[str]) -> set[str]:
        """Those of the ids that somebody deleted on this side."""
        query = urlencode({"in_id": ",".join(ids), "_since": '"0"', "deleted": "true"})
        return {str(item["id"]) for item in self._records(side, dev_id, query)}

    def _count(self, side: str, part: _Range) -> int:
        path = f"{self._collection(side, part.dev_id)}?{part.query()}"
        answer = self._clients[side].request("HEAD", path)
        if self._absent(side, part.dev_id, answer):
            return 0
        if answer.status != 200:
            raise ReconcileError(f"{side}: can't count {part.dev_id}: {answer.words()}")
        total = answer.headers.get("total-objects") or answer.headers.get("total-records")
        if total is None or not total.isdigit():
            raise ReconcileError(f"{side}: says no total for {part.dev_id}")
        return int(total)

    def _first(self, side: str, dev_id: str, query: str) -> Record | None:
        """The first of the records; None where there is none."""
        answer = self._clients[side].request("GET", f"{self._collection(side, dev_id)}?{query}")
        if self._absent(side, dev_id, answer):
            return None
        if answer.status != 200:
            raise ReconcileError(f"{side}: can't read {dev_id}: {answer.words()}")
        return next(iter(_data(answer)), None)

    def _records(self, side: str, dev_id: str, query: str) -> list[Record]:
        """All records, however many the server gives at a time."""
        pages = self._pages(side, f"{self._collection(side, dev_id)}?{query}")
        return [record for answer in pages for record in _data(answer)]

    def _pages(self, side: str, path: str) -> Iterator[Answer]:
        client = self._clients[side]
        while path:
            answer = client.request("GET", path)
            if answer.status in {403, 404}:
                return
            if answer.status != 200:
                raise ReconcileError(f"{side}: can't read {path}: {answer.words()}")
            yield answer
            # The server writes whole URLs; only what stands behind the API's root is followed.
            _, _, path = answer.headers.get("next-page", "").partition(client.root + "/")
            path = f"/{path}" if path else ""

    def _absent(self, side: str, dev_id: str, answer: Answer) -> bool:
        """Whether the collection is not there; made then, so that it can be compared."""
        if answer.status == 404:
            return True
        if answer.status != 403:
            return False
        # Kinto says 403 both for a collection that is not there and for one that may not be read.
        path = self._collection(side, dev_id).removesuffix("/records")
        made = self._clients[side].request("PUT", path, {"data": {}}, {"If-None-Match": "*"})
        if made.status == 201:
            return True
        raise ReconcileError(
            f"{side}: the account {self._clients[side].settings.user} may not read {dev_id}"
        )

    def _collection(self, side: str, dev_id: str) -> str:
        return f"/buckets/{self._clients[side].settings.bucket}/collections/{dev_id}/records"


@contextlib.contextmanager
def _noted(report: Report) -> Iterator[None]:
    """A device that can't be compared does not keep the others from it."""
    try:
        yield
    except ReconcileError as error:
        if str(error) not in report.problems:
            report.problems.append(str(error))


def _data(answer: Answer) -> list[Record]:
    data = answer.body.get("data") if isinstance(answer.body, dict) else None
    return [item for item in data if isinstance(item, dict)] if isinstance(data, list) else []


def _is_of(record: Record, dev_id: str) -> bool:
    """Whether an agent made the record, for this device."""
    try:
        return row_of(record, -1).dev_id == dev_id
    except ValueError:
        return False


def _plain(record: Record) -> Record:
    return {k: v for k, v in record.items() if k not in {"last_modified", "schema"}}
