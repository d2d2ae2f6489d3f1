"""One of the two Kintos that are compared: what it has, counted, listed, read and let go."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlencode
from uuid import UUID

from unisat_agent.delivery.kinto import Answer, KintoClient
from unisat_agent.delivery.wire import timeline_of
from unisat_agent.errors import AgentError
from unisat_agent.record import Record

_log = logging.getLogger(__name__)


class ReconcileError(AgentError):
    """One device can't be compared; what was adopted of it so far will be delivered."""


@dataclass(frozen=True, slots=True)
class Range:
    """Records of one device and epoch with low <= seq < high."""

    dev_id: str
    epoch: UUID
    low: int
    high: int

    floor: int = 0
    """Seconds since 1970: older records are let go, by one side or both."""

    def query(self, **more: str | int) -> str:
        """It as a query of Kinto's."""
        # Quoted: an epoch such as 1e5… would else be read as a number.
        terms = {"epoch": f'"{self.epoch}"', "min_seq": self.low, "lt_seq": self.high, **more}
        if self.floor:
            terms["min_timestamp"] = self.floor
        return urlencode(terms)

    def halves(self) -> tuple[Range, Range]:
        """It in two."""
        middle = (self.low + self.high) // 2
        return replace(self, high=middle), replace(self, low=middle)


class Side:
    """One Kinto, beside the delivery.

    Every method raises TransportError where it does not answer, and ReconcileError where its
    answer is no use.

    Args:
        client: A connection of its own.
        beat: Called before each request.
    """

    def __init__(self, client: KintoClient, beat: Callable[[], None]) -> None:
        self._client = client
        self._beat = beat
        self._name = client.settings.name
        self._bucket = f"/buckets/{client.settings.bucket}"

    def timeline(self) -> str:
        """Which life of its database it is in; "" where it does not say so."""
        answer = self._get("/")
        known = answer.status == 200 and isinstance(answer.body, dict)
        return timeline_of(answer.body) if known else ""

    def floor(self, dev_id: str) -> int:
        """Seconds since 1970: what is older, it let go; 0 where it lets nothing go."""
        answer = self._get(f"{self._bucket}/collections/{dev_id}")
        data = answer.body.get("data") if isinstance(answer.body, dict) else None
        floor = data.get("retain_from") if isinstance(data, dict) else None
        return int(floor) if answer.status == 200 and isinstance(floor, int | float) else 0

    def devices(self) -> Iterator[str]:
        """The collections that the account can see."""
        for answer in self._pages(f"{self._bucket}/collections?_limit=100"):
            yield from (str(item.get("id")) for item in _data(answer))

    def epochs(self, dev_id: str) -> Iterator[UUID]:
        """The epochs of one device, each found from the one before."""
        # Texts alone: null is sorted before them, and what else a stranger may have written behind.
        query = {"_sort": "epoch", "_limit": "1", "_fields": "epoch", "gt_epoch": '""'}
        seen: set[str] = set()
        while record := self._first(dev_id, query):
            epoch = record.get("epoch")
            if not isinstance(epoch, str) or epoch in seen:
                return
            seen.add(epoch)
            query["gt_epoch"] = f'"{epoch}"'
            try:
                yield UUID(epoch)
            except ValueError:
                _log.debug("reconcile: %s has an epoch that is no agent's: %s", dev_id, epoch)

    def newest(self, dev_id: str, epoch: UUID) -> int:
        """The highest number of an epoch; -1 where there is none."""
        query = {"epoch": f'"{epoch}"', "_sort": "-seq", "_limit": "1", "_fields": "seq"}
        seq = (self._first(dev_id, query) or {}).get("seq")
        return seq if isinstance(seq, int) else -1

    def count(self, part: Range) -> int:
        """How many records it has of a range."""
        return self._count(part.dev_id, part.query())

    def ids(self, part: Range, page: int) -> set[str]:
        """The ids of a range, so many at a time."""
        query = part.query(_fields="id", _limit=page)
        return {str(record.get("id")) for record in self._read(part.dev_id, query)}

    def tombstones(self, dev_id: str, ids: Sequence[str]) -> set[str]:
        """Those of the ids that somebody deleted."""
        query = urlencode({"in_id": ",".join(ids), "_since": '"0"', "deleted": "true"})
        return {str(item["id"]) for item in self._read(dev_id, query)}

    def records(self, dev_id: str, ids: Sequence[str]) -> list[Record]:
        """The records with these ids, without what the server adds."""
        found = self._read(dev_id, urlencode({"in_id": ",".join(ids)}))
        return [
            {k: v for k, v in record.items() if k not in {"last_modified", "schema"}}
            for record in found
        ]

    def counts(self) -> dict[str, int] | None:
        """How many records there are of each device; None where it has no plugin to tell."""
        answer = self._get(f"{self._bucket}/latest")
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise ReconcileError(f"{self._name}: can't tell what it has: {answer.words()}")
        return {str(item.get("id")): int(item.get("records", 0)) for item in _data(answer)}

    def oldest(self, dev_id: str) -> int | None:
        """The time of the record that came first, seconds since 1970; None where there is none.

        Records whose time is not known are never let go, so they do not count.
        """
        query = {"_sort": "last_modified", "_limit": "1", "_fields": "timestamp"}
        found = self._first(dev_id, query | {"not_clock": "unsynced"})
        timestamp = (found or {}).get("timestamp")
        return timestamp if isinstance(timestamp, int) else None

    def count_between(self, dev_id: str, low: int, high: int) -> int:
        """How many records have a known time from `low` and before `high`."""
        query = {"min_timestamp": low, "lt_timestamp": high, "not_clock": "unsynced"}
        return self._count(dev_id, urlencode(query))

    def let_go(self, dev_id: str, before: int) -> tuple[int, bool]:
        """Deletes what is older (the plugin's `retain`): how many, and whether that was all."""
        self._beat()
        path = f"{self._bucket}/collections/{dev_id}/retain"
        answer = self._client.request("POST", path, {"before": before})
        data = answer.body.get("data") if isinstance(answer.body, dict) else None
        if answer.status != 200 or not isinstance(data, dict):
            raise ReconcileError(f"{self._name}: keeps what is old of {dev_id}: {answer.words()}")
        return int(data.get("deleted", 0)), bool(data.get("complete", True))

    def _count(self, dev_id: str, query: str) -> int:
        self._beat()
        answer = self._client.request("HEAD", f"{self._records_of(dev_id)}?{query}")
        if self._absent(dev_id, answer):
            return 0
        if answer.status != 200:
            raise ReconcileError(f"{self._name}: can't count {dev_id}: {answer.words()}")
        total = answer.headers.get("total-objects") or answer.headers.get("total-records")
        if total is None or not total.isdigit():
            raise ReconcileError(f"{self._name}: says no total for {dev_id}")
        return int(total)

    def _get(self, path: str) -> Answer:
        self._beat()
        return self._client.request("GET", path)

    def _first(self, dev_id: str, query: dict[str, str]) -> Record | None:
        """The first of the records; None where there is none."""
        answer = self._get(f"{self._records_of(dev_id)}?{urlencode(query)}")
        if self._absent(dev_id, answer):
            return None
        if answer.status != 200:
            raise ReconcileError(f"{self._name}: can't read {dev_id}: {answer.words()}")
        return next(iter(_data(answer)), None)

    def _read(self, dev_id: str, query: str) -> list[Record]:
        """All records, however many the server gives at a time."""
        pages = self._pages(f"{self._records_of(dev_id)}?{query}")
        return [record for answer in pages for record in _data(answer)]

    def _pages(self, path: str) -> Iterator[Answer]:
        while path:
            answer = self._get(path)
            if answer.status in {403, 404}:
                return
            if answer.status != 200:
                raise ReconcileError(f"{self._name}: can't read {path}: {answer.words()}")
            yield answer
            # The server writes whole URLs; only what stands behind the API's root is followed.
            _, _, path = answer.headers.get("next-page", "").partition(self._client.root + "/")
            path = f"/{path}" if path else ""

    def _absent(self, dev_id: str, answer: Answer) -> bool:
        """Whether the collection is not there; made then, so that it can be compared."""
        if answer.status == 404:
            return True
        if answer.status != 403:
            return False
        # Kinto says 403 both for a collection that is not there and for one that may not be read.
        path = f"{self._bucket}/collections/{dev_id}"
        made = self._client.request("PUT", path, {"data": {}}, {"If-None-Match": "*"})
        if made.status == 201:
            return True
        user = self._client.settings.user
        raise ReconcileError(f"{self._name}: the account {user} may not read {dev_id}")

    def _records_of(self, dev_id: str) -> str:
        return f"{self._bucket}/collections/{dev_id}/records"


def _data(answer: Answer) -> list[Record]:
    data = answer.body.get("data") if isinstance(answer.body, dict) else None
    return [item for item in data if isinstance(item, dict)] if isinstance(data, list) else []
