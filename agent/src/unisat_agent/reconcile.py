"""Two databases that drifted become equal again: a hub restored from a backup, a lost spool.

Counts are compared per range of seq, halving a range where they differ until it is small enough
to list; what one side lacks is adopted by the spool and delivered as everything else is. Only
records that agents made (they have an epoch and a seq) are compared, and of those only the ones
that nobody waits for. A record that was deleted on a side on purpose is not brought back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import urlencode
from uuid import UUID

from unisat_agent.errors import AgentError
from unisat_agent.kinto import Answer, KintoClient
from unisat_agent.record import Record
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
    to_hub: int = 0
    to_local: int = 0
    deleted: int = 0
    """Missing on one side because somebody deleted them there; left alone."""
    gaps: dict[str, int] = field(default_factory=dict)
    """Numbers of this spool that neither Kinto nor the dead letters have, per sink: losses."""
    problems: list[str] = field(default_factory=list)
    """Devices that could not be compared, and why."""

    def __str__(self) -> str:
        return (
            f"{self.compared} records compared, {self.to_hub} missing on the hub, "
            f"{self.to_local} missing in the local Kinto, {self.deleted} deleted on purpose"
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
        beat: Called while it makes progress.
    """

    def __init__(
        self, spool: Spool, local: KintoClient, hub: KintoClient, beat: Callable[[], None]
    ) -> None:
        self._spool = spool
        self._clients = {"local": local, "hub": hub}
        self._beat = beat
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
        found = dict.fromkeys(self._clients, 0)
        for dev_id in self._devices(report):
            try:
                for epoch in {own, *self._epochs(dev_id)}:
                    counts = self._epoch(dev_id, epoch, report)
                    if epoch == own:
                        for side, count in counts.items():
                            found[side] += count
            except ReconcileError as error:
                report.problems.append(str(error))
        if not report.problems:
            for side, count in found.items():
                dead = sum(self._spool.dead_by_reason(side).values())
                report.gaps[side] = max(0, self._own_high - 1 - count - dead)
        _log.info("reconcile: %s", report)
        return report

    def _devices(self, report: Report) -> list[str]:
        """The collections of the local Kinto that this account can see, and the spool's."""
        bucket = self._clients["local"].settings.bucket
        found = set(self._spool.devices())
        try:
            for answer in self._pages("local", f"/buckets/{bucket}/collections?_limit=100"):
                found.update(str(item["id"]) for item in answer.body["data"])
        except ReconcileError as error:
            report.problems.append(str(error))
        return sorted(found)

    def _epochs(self, dev_id: str) -> Iterator[UUID]:
        """The epochs of one device in the local Kinto, each found from the one before."""
        last: str | None = None
        while True:
            query = {"_sort": "epoch", "_limit": "1", "_fields": "epoch", "has_epoch": "true"}
            if last is not None:
                query["gt_epoch"] = f'"{last}"'
            records = self._records("local", dev_id, urlencode(query))
            if not records:
                return
            last = str(records[0]["epoch"])
            try:
                yield UUID(last)
            except ValueError:
                _log.debug("reconcile: %s has an epoch that is no agent's: %s", dev_id, last)

    def _epoch(self, dev_id: str, epoch: UUID, report: Report) -> dict[str, int]:
        """Compares one device's records of one epoch; returns how many each side had."""
        high = self._own_high
        if epoch != self._spool.epoch:
            query = {"epoch": f'"{epoch}"', "_sort": "-seq", "_limit": "1", "_fields": "seq"}
            newest = [
                int(record["seq"])
                for side in self._clients
                for record in self._records(side, dev_id, urlencode(query))
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

    def _even_out(self, part: _Range, report: Report) -> None:
        ids = {
            side: {
                str(record["id"])
                for record in self._records(
                    side, part.dev_id, part.query(_fields="id", _limit=LIST_MAX)
                )
            }
            for side in self._clients
        }
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
                listed = ",".join(wanted)
                records = self._records(holder, part.dev_id, urlencode({"in_id": listed}))
                adopted = self._spool.adopt(
                    [_plain(record) for record in records], holder=holder, wanted_by=other
                )
                if other == "hub":
                    report.to_hub += adopted
                else:
                    report.to_local += adopted

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

    def _records(self, side: str, dev_id: str, query: str) -> list[Record]:
        """One page of records; none where the collection is not there (yet)."""
        answer = self._clients[side].request("GET", f"{self._collection(side, dev_id)}?{query}")
        if self._absent(side, dev_id, answer):
            return []
        if answer.status != 200 or not isinstance(answer.body, dict):
            raise ReconcileError(f"{side}: can't read {dev_id}: {answer.words()}")
        data = answer.body.get("data")
        return data if isinstance(data, list) else []

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


def _plain(record: Record) -> Record:
    return {k: v for k, v in record.items() if k not in {"last_modified", "schema"}}
