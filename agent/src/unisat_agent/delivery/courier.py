"""Spool → one Kinto, exactly once, whatever the server answers (design: the answer table).

A `Courier` is the work of one thread for one sink. One batch is in flight; `answers` says what an
answer means, and the courier does what that asks for. A batch whose outcome is unknown is sent
again as it was, with the same ids, until its outcome is known.
"""

from __future__ import annotations

import logging
import math
import random
import threading
from collections.abc import Callable, Mapping
from typing import Any

from unisat_agent.clock import Clock
from unisat_agent.delivery.answers import Fate, Meaning, Verdict, words_of
from unisat_agent.delivery.choice import Choice
from unisat_agent.delivery.creation import READY, create_collection
from unisat_agent.delivery.heartbeat import explain
from unisat_agent.delivery.kinto import Answer, KintoClient, TransportError
from unisat_agent.delivery.outcomes import REFUSED, SERVER_ERROR, Outcomes
from unisat_agent.delivery.revival import Revival
from unisat_agent.delivery.standing import Standing
from unisat_agent.delivery.suspects import SERVER_ERRORS, Batch, Suspects
from unisat_agent.delivery.wire import IngestWire, StockWire, Wire, best_wire
from unisat_agent.record import Record, Row
from unisat_agent.spool.queue import Hold, Spool, Waiting

PROBE_AFTER_FAILURES = 5
IDLE_S = 1.0
# The root page is read again so often: a hub may be updated, or rolled back.
CAPABILITIES_S = 3600.0
# A wait is cut into slices, so that the thread shows that it is alive.
SLICE_S = 5.0

_log = logging.getLogger(__name__)


class Courier:
    """Delivers the spool's rows to one sink; `run` is the body of its thread.

    Args:
        spool: Where the rows are.
        client: The sink.
        clock: For all waiting, and for the age of unsynced rows.
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
        self.requests = client.log
        self.standing = Standing(
            client.settings,
            clock.monotonic,
            rng or random.Random(),  # noqa: S311 - jitter, not a secret
        )
        self._spool = spool
        self._client = client
        self._bucket = client.settings.bucket
        self._clock = clock
        self._stop = stop
        self._hold_ms = round(hold_s * 1000)
        self._on_idle = on_idle
        self._beat: Callable[[], None] = lambda: None
        self._outcomes = Outcomes(spool, client.settings, self._request)
        self._suspects = Suspects(clock.monotonic)
        self._choice = Choice(
            spool, self.name, self._suspects, self.standing.pauses, clock.monotonic
        )
        self._stock = StockWire(client.settings.batch_max)
        self._wire: Wire = self._stock
        self._capabilities_until = math.inf
        self._again: Batch | None = None
        self._created: set[str] = set()
        """Collections that were made, and took no record since."""
        self._revival = Revival(spool, self.name, clock.monotonic)

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
                if self.standing.backoff.left_s:
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
        if rest_s := self.standing.backoff.left_s:
            return rest_s
        batch = self._next()
        if batch is not None:
            return self._send(batch)
        self._spool.refresh()
        if self._on_idle is not None:
            away, self.standing.was_away = self.standing.was_away, False
            self._on_idle(away)
        self._revival.turn()
        return IDLE_S

    def abort(self) -> None:
        """Ends a request in flight; called by another thread when the agent ends."""
        self._client.abort()

    def _next(self) -> Batch | None:
        batch, self._again = self._again, None
        if batch is None:
            hold = None
            if self._hold_ms:
                hold = Hold(self._clock.boot_id, self._clock.uptime_ms() - self._hold_ms)
            batch = self._choice.next(self._wire.max_records, hold)
        return batch

    # Sending
    def _send(self, batch: Batch) -> float:
        probe = self.standing.backoff.failures >= PROBE_AFTER_FAILURES
        if probe and (down := self._what_is_down()):
            self._again = batch
            return self.standing.fail(down)
        if not self.standing.proven or self._clock.monotonic() >= self._capabilities_until:
            wait_s = self._prove()
            if wait_s > 0:
                self._again = batch
                return wait_s
        return self._deliver(batch)

    def _prove(self) -> float:
        """Asks what the sink offers, and whether the account is accepted.

        Kinto hashes a wrong password anew for every record of a batch, which takes longer than a
        read time-out: the answer to a batch would never come, and never say 401.

        Returns:
            The seconds to wait where it is not.
        """
        try:
            root = self._request("GET", "/")
        except TransportError as error:
            return self.standing.fail(str(error))
        if root.status in {401, 403}:
            return self.standing.deny_account(root.words())
        if root.status != 200 or not isinstance(root.body, dict):
            return self.standing.fail(self._what_is_down() or root.words(), root.wait_s())
        if "user" not in root.body:
            return self.standing.deny_account("401")
        self.standing.accept_account()
        self._choose_wire(root.body)
        return 0.0

    def _choose_wire(self, root: Mapping[str, Any]) -> None:
        self._capabilities_until = self._clock.monotonic() + CAPABILITIES_S
        wire = best_wire(root, self._client.settings.batch_max)
        if wire != self._wire:
            kind = "records:ingest" if isinstance(wire, IngestWire) else "batches of PUTs"
            _log.info("%s: %s of at most %d records", self.name, kind, wire.max_records)
            self._wire = wire

    def _deliver(self, batch: Batch) -> float:
        # What is in memory may be more than a request of this kind may hold.
        if len(batch.waiting) > self._wire.max_records:
            for part in batch.parts(self._wire.max_records):
                self._suspects.set_aside(part)
            return 0.0
        records = self._records(batch)
        if not records:
            return 0.0
        self.standing.figures.batches += 1
        self._beat()
        try:
            verdict = self._wire.send(self._client, batch, records)
        except TransportError as error:
            verdict = Verdict(Meaning.UNKNOWN, str(error))
            if error.late:
                self._choice.late(batch)
        match verdict.meaning:
            case Meaning.EACH:
                return self._each(batch, records, verdict)
            case Meaning.UNKNOWN:
                return self._unknown(batch, verdict)
            case Meaning.LATER:
                self._again = batch
                return self.standing.fail(verdict.reason, verdict.wait_s)
            case Meaning.SERVER_ERROR:
                return self._server_error(batch, verdict)
            case Meaning.MISSING:
                return self._create(batch.dev_id)
            case Meaning.DENIED:
                return self.standing.deny_account(verdict.reason)
            case Meaning.DENIED_HERE:
                self.standing.answered()
                return self.standing.deny(batch.dev_id, verdict.reason)
            case Meaning.UNSUPPORTED:
                return self._fall_back(batch, verdict)
            case Meaning.TOO_LARGE:
                self._choice.too_large(len(batch.waiting))
                return self._refused(batch, verdict)
            case Meaning.REFUSED:
                return self._refused(batch, verdict)

    def _records(self, batch: Batch) -> list[Record]:
        """The records of the batch's rows; it is cut to those that are records."""
        sound: list[Waiting] = []
        records: list[Record] = []
        for waiting in batch.waiting:
            try:
                records.append(waiting.row.record())
                sound.append(waiting)
            except (ValueError, TypeError, OverflowError, OSError) as error:
                # Only a worn-out card can do that, and one bad row costs no other.
                self._spool.quarantine_row(waiting.row.seq, str(error))
        batch.waiting = sound
        return records

    def _request(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> Answer:
        # A batch may lead to several requests, each as long as the time-outs let it be.
        self._beat()
        return self._client.request(method, path, body, headers)

    def _what_is_down(self) -> str | None:
        """What the heartbeat says; None where all parts of the Kinto are up."""
        try:
            return explain(self.name, self._request("GET", "/__heartbeat__"))
        except TransportError as error:
            return str(error)

    # What an answer asks for

    def _each(self, batch: Batch, records: list[Record], verdict: Verdict) -> float:
        self.standing.answered()
        dev_id = batch.dev_id
        outcome = self._outcomes.settle(batch, records[: len(batch.waiting)], verdict)
        if outcome.acked:
            self._accepted(dev_id, len(outcome.acked))
        if outcome.refused:
            self._refuse_each(batch, outcome.acked, outcome.refused)
        left = outcome.left
        if Fate.DENIED in left:
            reason = words_of(left[Fate.DENIED])
            if any(_code(body) == 401 for body in verdict.bodies):
                return self.standing.deny_account(reason)
            return self.standing.deny(dev_id, reason)
        if Fate.MISSING in left:
            return self._create(dev_id)
        if Fate.LATER in left:
            return self.standing.fail(words_of(left[Fate.LATER]), verdict.wait_s)
        # Kinto can ask for fewer requests while it answers well.
        return self.standing.backoff.wait(verdict.wait_s) if verdict.wait_s else 0.0

    def _refuse_each(
        self, batch: Batch, acked: list[Row], refused: list[tuple[Waiting, str]]
    ) -> None:
        """Records that the sink refused by themselves: dead, if it took others in the same answer.

        Where it took none, each has to prove that it is the cause.
        """
        if acked:
            for waiting, reason in refused:
                self._outcomes.bury(waiting.row, REFUSED, reason)
            return
        reasons = {waiting.row.seq: text for waiting, text in refused}
        if not batch.single:
            if self._only_tried(batch, refused[0][1]):
                return
            parts = batch.parts(1)
        else:
            parts = [batch]
        for part in parts:
            if (text := reasons.get(part.waiting[0].row.seq)) is not None:
                self._judge(part, Verdict(Meaning.REFUSED, text), server_error=False)

    def _unknown(self, batch: Batch, verdict: Verdict) -> float:
        """The same batch again; others go first when it happens to this one again and again."""
        batch.attempts += 1
        if batch.attempts < SERVER_ERRORS and not batch.suspect:
            self._again = batch
            return self.standing.fail(verdict.reason, verdict.wait_s)
        return self._server_error(batch, verdict)

    def _server_error(self, batch: Batch, verdict: Verdict) -> float:
        """A 5xx: the server's trouble, unless it follows this batch while others pass."""
        others_pass = self._suspects.others_pass(batch)
        self._judge(batch, verdict, server_error=True)
        if others_pass:
            return 0.0
        return self.standing.fail(verdict.reason, verdict.wait_s)

    def _refused(self, batch: Batch, verdict: Verdict) -> float:
        """A 4xx for the whole: the cause is in the batch, unless nothing of the device passes."""
        self.standing.answered()
        self._judge(batch, verdict, server_error=False)
        return self.standing.backoff.wait(verdict.wait_s) if verdict.wait_s else 0.0

    def _judge(self, batch: Batch, verdict: Verdict, *, server_error: bool) -> None:
        """Sets a refused batch aside; one record that is proven to be the cause becomes dead."""
        dev_id = batch.dev_id
        if server_error and self._is_trial(batch):
            return
        if not server_error and self._only_tried(batch, verdict.reason):
            return
        if self._suspects.refused(batch, verdict.wait_s, server_error=server_error):
            if not server_error and batch.single:
                self.standing.notices.trouble(
                    f"refused {dev_id}",
                    f"{self.name}: refuses a record of {dev_id} ({verdict.reason}): it is kept "
                    f"until another one of {dev_id} is accepted, which shows whose fault it is",
                )
            return
        reason = SERVER_ERROR if server_error else REFUSED
        self._outcomes.bury(batch.waiting[0].row, reason, verdict.reason)
        # The record was the cause, and not the size.
        self._choice.any_size()

    def _is_trial(self, batch: Batch) -> bool:
        """Whether the batch only tried if its device is accepted again."""
        return not batch.suspect and self._suspects.unproven(batch.dev_id)

    def _only_tried(self, batch: Batch, reason: str) -> bool:
        """Pauses the device of a batch that only tried; it stays in the spool."""
        if self._is_trial(batch):
            self.standing.pause(batch.dev_id, f"refuses every record of {batch.dev_id}: {reason}")
            return True
        return False

    def _fall_back(self, batch: Batch, verdict: Verdict) -> float:
        """The capability went away, as with a hub that was rolled back: the stock way goes on."""
        self._again = batch
        self.standing.proven = False
        if isinstance(self._wire, StockWire):
            return self.standing.fail(verdict.reason, verdict.wait_s)
        _log.warning("%s: offers no records:ingest any more: %s", self.name, verdict.reason)
        self._wire = self._stock
        return self.standing.fail(f"records:ingest is gone: {verdict.reason}", verdict.wait_s)

    def _accepted(self, dev_id: str, count: int) -> None:
        """The sink took records of this device; others may still be refused."""
        self._suspects.accepted(dev_id, count)
        self._choice.in_time()
        self._created.discard(dev_id)
        waiting = self._spool.devices_waiting(self.name) if self.standing.pauses else ()
        self.standing.accepted(dev_id, count, waiting)

    def _create(self, dev_id: str) -> float:
        """404: the collection, or the whole bucket, is not there yet."""
        if dev_id in self._created:
            return self.standing.fail(f"{dev_id} was made and is missing all the same")
        try:
            made = create_collection(self._request, self._bucket, dev_id)
        except TransportError as error:
            return self.standing.fail(str(error))
        if made.status in READY:
            _log.info("%s: collection %s is ready", self.name, dev_id)
            self._created.add(dev_id)
            return 0.0
        if made.status in {401, 403} and made.by_kinto:
            return self.standing.deny(
                dev_id,
                f"{made.words()}: the collection {self._bucket}/{dev_id} is missing there and this "
                f"account may not create it: the operator of the server must create it",
            )
        return self.standing.fail(made.words(), made.wait_s())


def _code(body: Any) -> int | None:
    code = body.get("code") if isinstance(body, dict) else None
    return code if isinstance(code, int) else None
