"""Spool → one Kinto, exactly once, whatever the server answers (design: the answer table).

A `Courier` is the work of one thread for one sink. One batch is in flight; `answers` says what an
answer means, and the courier does what that asks for. A batch whose outcome is unknown is sent
again as it was, with the same ids, until its outcome is known.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from unisat_agent.answers import Fate, Meaning, Verdict, read_answer
from unisat_agent.clock import Clock
from unisat_agent.errors import SpoolCorruptError
from unisat_agent.kinto import Answer, KintoClient, TransportError
from unisat_agent.notice import Notices
from unisat_agent.record import Record, Row, same_package, same_time
from unisat_agent.spool import Hold, Spool, Waiting

BACKOFF_FIRST_S = 1.0
BACKOFF_MAX_S = 60.0
PROBE_AFTER_FAILURES = 5
SUSPECT_AFTER_FAILURES = 3
# An account may be made at any moment, as at a first boot; a wrong one stays wrong for long.
PAUSE_FIRST_S = 5.0
PAUSE_MAX_S = 300.0
IDLE_S = 1.0
# After so long a sink that took only small batches is offered large ones again.
LIMIT_S = 3600.0
# A wait is cut into slices, so that the thread shows that it is alive.
SLICE_S = 5.0

_log = logging.getLogger(__name__)


class SinkState(StrEnum):
    """What a sink is doing, for the operator."""

    STARTING = "starting"
    DELIVERING = "delivering"
    BACKING_OFF = "backing_off"
    PAUSED = "paused"


@dataclass(slots=True)
class Batch:
    """Rows of one collection that go out together; `suspicion` counts its server errors."""

    dev_id: str
    waiting: list[Waiting]
    suspicion: int = 0
    suspect: bool = False

    def halves(self) -> list[Batch]:
        """The two parts, for a search of the record that is the cause."""
        middle = len(self.waiting) // 2
        return [
            Batch(self.dev_id, part, suspect=True)
            for part in (self.waiting[:middle], self.waiting[middle:])
        ]


@dataclass(slots=True)
class Figures:
    """What a courier has done since it started, for metrics and status."""

    acked: int = 0
    retries: int = 0
    batches: int = 0
    last_ack: float | None = None
    """Monotonic seconds."""


@dataclass(slots=True)
class _Retry:
    """Failures in a row, and when to try again (monotonic seconds)."""

    failures: int = 0
    not_before: float = 0.0
    denied_until: dict[str, float] = field(default_factory=dict)
    denials: dict[str, int] = field(default_factory=dict)
    """Refusals in a row, by device; those of the whole sink under ""."""
    created: set[str] = field(default_factory=set)
    """Collections that were made, and took no record since."""


class Courier:
    """Delivers the spool's rows to one sink; `run` is the body of its thread.

    Args:
        spool: Where the rows are.
        client: The sink.
        clock: For the age of unsynced rows.
        stop: Set when the agent is to end.
        hold_s: How long a row whose time is not known yet may wait; 0 for not at all.
        on_idle: Called by the thread when no row waits; the flag says that the sink was out of
            reach since the last call.
        rng: For the jitter of the back-off.
    """

    def __init__(
        self,
        spool: Spool,
        client: KintoClient,
        clock: Clock,
        stop: threading.Event,
        *,
        hold_s: float = 0.0,
        on_idle: Callable[[bool], None] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.name = client.settings.name
        self.figures = Figures()
        self.notices = Notices(_log)
        self.state = SinkState.STARTING
        self._spool = spool
        self._client = client
        self._clock = clock
        self._stop = stop
        self._hold_ms = round(hold_s * 1000)
        self._on_idle = on_idle
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not a secret
        self._limit = client.settings.batch_max
        self._limit_until = 0.0
        self._beat: Callable[[], None] = lambda: None
        self._again: list[Batch] = []
        self._retry = _Retry()
        self._turn = 0
        self._proven = False
        # What happened before the agent started is not known either.
        self._was_away = True

    def run(self, beat: Callable[[], None]) -> None:
        """Delivers until the agent ends; calls `beat` while it makes progress.

        Raises:
            SpoolError: The spool can't be used.
        """
        self._beat = beat
        news = self._spool.news[self.name]
        try:
            while not self._stop.is_set():
                beat()
                wait_s = self.step()
                if wait_s <= 0:
                    continue
                if self._backing_off():
                    self._stop.wait(min(wait_s, SLICE_S))
                else:
                    news.wait(min(wait_s, SLICE_S))
                    news.clear()
        finally:
            self._client.close()

    def step(self) -> float:
        """Sends at most one batch.

        Returns:
            Seconds until there may be something to do; 0 to go on at once.
        """
        rest = self._retry.not_before - time.monotonic()
        if rest > 0:
            return rest
        batch = self._next()
        if batch is None:
            self._spool.refresh()
            if self._on_idle is not None and not self._backing_off():
                away, self._was_away = self._was_away, False
                self._on_idle(away)
            return IDLE_S
        return self._send(batch)

    def step_between(self) -> None:
        """Sends a batch if one waits; for the same thread, while it is busy with another task."""
        if not self._backing_off() and (batch := self._next()) is not None:
            self._send(batch)

    def abort(self) -> None:
        """Ends a request in flight; called by another thread when the agent ends."""
        self._client.abort()

    # Choosing

    def _next(self) -> Batch | None:
        if self._again:
            return self._again.pop()
        now = time.monotonic()
        denied = self._retry.denied_until
        devices = [
            dev_id
            for dev_id in self._spool.devices_waiting(self.name)
            if denied.get(dev_id, 0.0) <= now
        ]
        if self._limit_until <= now:
            self._limit = self._client.settings.batch_max
        hold = None
        if self._hold_ms:
            hold = Hold(self._clock.boot_id, self._clock.uptime_ms() - self._hold_ms)
        for offset in range(len(devices)):
            dev_id = devices[(self._turn + offset) % len(devices)]
            waiting = self._spool.take(self.name, dev_id, self._limit, hold)
            if waiting:
                self._turn += offset + 1
                return Batch(dev_id, waiting)
        return None

    # Sending

    def _send(self, batch: Batch) -> float:
        if self._retry.failures >= PROBE_AFTER_FAILURES and not self._alive():
            self._again.append(batch)
            return self._fail("the heartbeat does not answer")
        if not self._proven:
            wait_s = self._prove()
            if wait_s > 0:
                self._again.append(batch)
                return wait_s
        return self._deliver(batch)

    def _prove(self) -> float:
        """Asks whether the account is accepted; returns the seconds to wait where it is not.

        Kinto hashes a wrong password anew for every record of a batch, which takes longer than a
        read time-out: the answer to a batch would never come, and never say 401.
        """
        try:
            root = self._request("GET", "/")
        except TransportError as error:
            return self._fail(str(error))
        if root.status in {401, 403}:
            return self._pause_all(root.words())
        if root.status != 200 or not isinstance(root.body, dict):
            return self._fail(root.words(), root.wait_s())
        if "user" not in root.body:
            return self._pause_all("401")
        self._proven = True
        self.notices.over("all", f"{self.name}: the account is accepted")
        return 0.0

    def _deliver(self, batch: Batch) -> float:
        records = [_record(waiting.row) for waiting in batch.waiting]
        self.figures.batches += 1
        try:
            answer = self._request("POST", "/batch", self._requests(batch, records))
        except TransportError as error:
            self._again.append(batch)
            return self._fail(str(error))
        verdict = read_answer(answer, [record["id"] for record in records])
        match verdict.meaning:
            case Meaning.EACH:
                return self._each(batch, records, verdict)
            case Meaning.UNKNOWN | Meaning.LATER:
                self._again.append(batch)
                return self._fail(verdict.reason, verdict.wait_s)
            case Meaning.BROKEN:
                return self._broken(batch, verdict)
            case Meaning.DENIED:
                return self._pause_all(verdict.reason)
            case Meaning.TOO_LARGE | Meaning.REFUSED:
                self._answered()
                self._split(batch, verdict.reason)
                return 0.0

    def _request(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> Answer:
        # A batch may lead to several requests, each as long as the time-outs let it be.
        self._beat()
        return self._client.request(method, path, body, headers)

    def _alive(self) -> bool:
        self._beat()
        return self._client.alive()

    def _requests(self, batch: Batch, records: list[Record]) -> dict[str, Any]:
        collection = f"{self._client.root}/buckets/{self._bucket}/collections/{batch.dev_id}"
        return {
            "defaults": {"method": "PUT"},
            "requests": [
                {
                    "path": f"{collection}/records/{record['id']}",
                    "body": {"data": record},
                    # A record that is there is left alone, unless its time was corrected.
                    "headers": {} if waiting.overwrite else {"If-None-Match": "*"},
                }
                for waiting, record in zip(batch.waiting, records, strict=True)
            ],
        }

    # What an answer asks for

    def _each(self, batch: Batch, records: list[Record], verdict: Verdict) -> float:
        self._answered()
        acked: list[Row] = []
        # Of the rows that stay in the spool and are taken again: the first answer of each kind.
        left: dict[Fate, Any] = {}
        for waiting, record, fate, body in zip(
            batch.waiting, records, verdict.fates, verdict.bodies, strict=True
        ):
            if fate is Fate.TAKEN:
                acked.append(waiting.row)
            elif fate is Fate.REFUSED:
                self._bury(waiting.row, "refused", _words(body))
            elif fate is not Fate.EXISTS:
                left.setdefault(fate, body)
            elif waiting.overwrite or not self._compare(
                batch.dev_id, waiting.row, record, body, acked
            ):
                left.setdefault(Fate.LATER, body)
        if acked:
            self._spool.settle(self.name, acked)
            self.figures.acked += len(acked)
            self.figures.last_ack = time.monotonic()
            self._retry.created.discard(batch.dev_id)
            self._retry.denials.pop("", None)
        if Fate.DENIED in left:
            reason = _words(left[Fate.DENIED])
            if any(_code(body) == 401 for body in verdict.bodies):
                return self._pause_all(reason)
            return self._pause(batch.dev_id, reason)
        if Fate.MISSING in left:
            return self._create(batch.dev_id)
        if Fate.LATER in left:
            return self._fail(_words(left[Fate.LATER]), verdict.wait_s)
        self._accepted(batch.dev_id)
        # Kinto can ask for fewer requests while it answers well.
        return self._wait(verdict.wait_s) if verdict.wait_s else 0.0

    def _compare(self, dev_id: str, row: Row, record: Record, body: Any, acked: list[Row]) -> bool:
        """412: the record is there already. Returns False where it could not be read."""
        details = body.get("details") if isinstance(body, dict) else None
        existing = details.get("existing") if isinstance(details, dict) else None
        if not isinstance(existing, dict) or "devID" not in existing:
            try:
                answer = self._request(
                    "GET",
                    f"/buckets/{self._bucket}/collections/{dev_id}/records/{record['id']}",
                )
            except TransportError:
                return False
            existing = answer.body.get("data") if isinstance(answer.body, dict) else None
            if not isinstance(existing, dict) or existing.get("id") != record["id"]:
                return False
        if not same_package(record, existing):
            self._bury(row, "conflict", f"record {record['id']} exists with other content")
            _log.error(
                "%s: record %s of %s exists there with other content: it is kept as a dead "
                "letter (unisat-agent dead list)",
                self.name,
                record["id"],
                dev_id,
            )
        elif same_time(record, existing) or record["clock"] != "corrected":
            # Theirs may be the corrected one of an earlier row.
            acked.append(row)
        else:
            self._spool.mark_stale(self.name, row)
        return True

    def _broken(self, batch: Batch, verdict: Verdict) -> float:
        """A 5xx: the server's trouble, unless its heartbeat is well and it is always this batch."""
        if self._alive():
            batch.suspicion += 1
        single = len(batch.waiting) == 1
        enough = 1 if batch.suspect and not single else SUSPECT_AFTER_FAILURES
        if batch.suspicion >= enough:
            self._split(batch, verdict.reason)
            return self._wait(verdict.wait_s) if verdict.wait_s else 0.0
        self._again.append(batch)
        return self._fail(verdict.reason, verdict.wait_s)

    def _split(self, batch: Batch, reason: str) -> None:
        """Halves a batch that can't go as a whole; a single record becomes a dead letter."""
        if len(batch.waiting) > 1:
            self._limit = max(1, len(batch.waiting) // 2)
            self._limit_until = time.monotonic() + LIMIT_S
            self._again.extend(reversed(batch.halves()))
            return
        self._bury(batch.waiting[0].row, "refused", reason)
        # The record was the cause, and not the size.
        self._limit_until = 0.0

    def _bury(self, row: Row, reason: str, detail: str) -> None:
        self._spool.bury(self.name, row, reason, detail)
        _log.warning(
            "%s: record %s of %s was refused (%s): it is kept as a dead letter "
            "(unisat-agent dead list)",
            self.name,
            row.record_id,
            row.dev_id,
            detail,
        )

    def _create(self, dev_id: str) -> float:
        """404: the collection, or the whole bucket, is not there yet."""
        if dev_id in self._retry.created:
            return self._fail(f"{dev_id} was made and is missing all the same")
        try:
            made = self._put_container(f"/buckets/{self._bucket}/collections/{dev_id}")
            if made.status == 403:
                # Kinto's answer also where the bucket is missing.
                bucket = self._put_container(f"/buckets/{self._bucket}")
                if bucket.status in {200, 201, 412}:
                    made = self._put_container(f"/buckets/{self._bucket}/collections/{dev_id}")
        except TransportError as error:
            return self._fail(str(error))
        if made.status in {200, 201, 412}:
            _log.info("%s: collection %s is ready", self.name, dev_id)
            self._retry.created.add(dev_id)
            return 0.0
        if made.status in {401, 403}:
            return self._pause(
                dev_id,
                f"{made.words()}: the collection {self._bucket}/{dev_id} is missing there and this "
                f"account may not create it: the operator of the server must create it",
            )
        return self._fail(made.words(), made.wait_s())

    def _put_container(self, path: str) -> Answer:
        return self._request("PUT", path, {"data": {}}, {"If-None-Match": "*"})

    # Waiting

    def _answered(self) -> None:
        """The sink is there and speaks Kinto."""
        self.notices.over("away", f"{self.name}: is back")
        if self._retry.failures:
            self._was_away = True
            self._retry.failures = 0
        if self.state is not SinkState.PAUSED:
            self.state = SinkState.DELIVERING

    def _fail(self, reason: str, wait_s: float | None = None) -> float:
        """Back-off: exponential with full jitter, or as long as the server asked for."""
        self._proven = False
        self._retry.failures += 1
        self.figures.retries += 1
        self.state = SinkState.BACKING_OFF
        self.notices.trouble("away", f"{self.name}: {reason}")
        ceiling = min(BACKOFF_FIRST_S * 2 ** min(self._retry.failures - 1, 10), BACKOFF_MAX_S)
        return self._wait(max(self._rng.uniform(0.0, ceiling), wait_s or 0.0))

    def _wait(self, wait_s: float) -> float:
        self._retry.not_before = time.monotonic() + wait_s
        return wait_s

    def _pause(self, dev_id: str, reason: str) -> float:
        """403 for one collection: its rows stay, the others go on."""
        self._retry.denied_until[dev_id] = time.monotonic() + self._pause_s(dev_id)
        self.state = SinkState.PAUSED
        self.notices.trouble(
            dev_id, f"{self.name}: the account may not write {self._bucket}/{dev_id}: {reason}"
        )
        return 0.0

    def _pause_all(self, reason: str) -> float:
        """401, or 403 for everything: the sink rests, the rows stay."""
        self._answered()
        self._proven = False
        self.state = SinkState.PAUSED
        self._was_away = True
        self.notices.trouble(
            "all",
            f"{self.name}: {self._client.settings.url} refuses the account "
            f"{self._client.settings.user}: {reason}: correct user or password",
        )
        return self._wait(self._pause_s(""))

    def _pause_s(self, dev_id: str) -> float:
        """How long to rest after this refusal: twice as long each time."""
        count = self._retry.denials.get(dev_id, 0)
        self._retry.denials[dev_id] = count + 1
        return min(PAUSE_FIRST_S * 2.0 ** min(count, 10), PAUSE_MAX_S)

    def _accepted(self, dev_id: str) -> None:
        """The account may write to this device's collection; others may still be refused."""
        denied = self._retry.denied_until
        # Those that have no rows any more were accepted, or evicted, too.
        for name in {dev_id, *denied} - set(self._spool.devices_waiting(self.name)) | {dev_id}:
            self._retry.denials.pop(name, None)
            if denied.pop(name, None) is not None:
                self.notices.over(name, f"{self.name}: {name} is accepted")
        self.state = SinkState.PAUSED if denied else SinkState.DELIVERING

    def _backing_off(self) -> bool:
        return self._retry.not_before > time.monotonic()

    @property
    def _bucket(self) -> str:
        return self._client.settings.bucket


def _record(row: Row) -> Record:
    """The record of a row.

    Raises:
        SpoolCorruptError: The row's content is none, which only a worn-out card can do.
    """
    try:
        return row.record()
    except (ValueError, TypeError, OverflowError, OSError) as error:
        raise SpoolCorruptError(f"the spool is damaged: row {row.seq}: {error}") from error


def _code(body: Any) -> int | None:
    code = body.get("code") if isinstance(body, dict) else None
    return code if isinstance(code, int) else None


def _words(body: Any) -> str:
    """The error of one item, in words."""
    if isinstance(body, dict):
        parts = (body.get("code"), body.get("message") or body.get("error"))
        return " ".join(str(part) for part in parts if part)
    return str(body)
