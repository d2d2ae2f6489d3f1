"""When both Kintos are compared: a thread of its own, so that no record waits for a comparison."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from unisat_agent.clock import Clock
from unisat_agent.config.model import SinkSettings
from unisat_agent.delivery.kinto import KintoClient, TransportError
from unisat_agent.delivery.reconcile import Reconciler, Report
from unisat_agent.errors import SpoolCorruptError, SpoolError
from unisat_agent.spool.queue import Spool
from unisat_agent.troubles import Troubles

RECONCILE_S = 24 * 3600.0
RECONCILE_RETRY_S = 300.0
# After a Kinto that did not answer, doubled each time: it may be back any moment.
AWAY_FIRST_S = 15.0
# After each request it rests as long as that took, so that it costs both Kintos half of a processor
# at most; but not longer than this.
REST_MAX_S = 5.0
POLL_S = 1.0

RECONCILE_ASKED = "reconcile.asked"
RECONCILE_ANSWER = "reconcile.answer"

_log = logging.getLogger(__name__)


class Reconciling:
    """Compares the sinks when it is due, or asked for; `run` is the body of its thread.

    Args:
        spool: Adopts what is missing.
        local: The local Kinto.
        hub: The hub.
        clock: For all waiting.
        stop: Set when the agent is to end.
        troubles: Where a spool that can't be used is told.
    """

    def __init__(
        self,
        spool: Spool,
        local: SinkSettings,
        hub: SinkSettings,
        clock: Clock,
        stop: threading.Event,
        troubles: Troubles,
    ) -> None:
        self.last: Report | None = None
        self.failure = ""
        self.verified_until_s = 0
        """Seconds since 1970: of what is older, both Kintos were found to have the same."""
        self._spool = spool
        self._local = KintoClient(local, clock.monotonic)
        self._hub = KintoClient(hub, clock.monotonic)
        self._clock = clock
        self._stop = stop
        self._troubles = troubles
        self._due_at = clock.monotonic() + RECONCILE_S
        self._rested_at = 0.0
        self._away = 0
        """How often in a row a Kinto did not answer."""
        self._beat: Callable[[], None] = lambda: None

    def hurry(self) -> None:
        """Makes a comparison due now; may be called from any thread."""
        self._due_at = self._clock.monotonic()

    def sink_is_idle(self, was_away: bool) -> None:
        """Called by a courier without work: what happened while its sink was away needs a look."""
        if was_away:
            self.hurry()

    def run(self, beat: Callable[[], None]) -> None:
        """Compares until the agent ends.

        Raises:
            SpoolCorruptError: The spool is damaged.
        """
        self._beat = beat
        try:
            while not self._stop.wait(POLL_S):
                beat()
                try:
                    asked = self._spool.note(RECONCILE_ASKED)
                    if asked is not None or self._clock.monotonic() >= self._due_at:
                        self._compare(asked)
                except SpoolCorruptError:
                    raise
                except SpoolError as error:
                    self._due_at = self._clock.monotonic() + RECONCILE_RETRY_S
                    self._troubles.trouble("spool reconcile", str(error))
                else:
                    self._troubles.over("spool reconcile", "the spool can be used again")
        finally:
            self._local.close()
            self._hub.close()

    def abort(self) -> None:
        """Ends a request in flight; called by another thread when the agent ends."""
        self._local.abort()
        self._hub.abort()

    def _compare(self, asked: str | None) -> None:
        # Before the comparison: what comes to be due meanwhile is due after it.
        self._due_at = self._clock.monotonic() + RECONCILE_S
        self._rested_at = self._clock.monotonic()
        self.verified_until_s, now_s = 0, self._clock.wall_ms() // 1000
        try:
            reconciler = Reconciler(self._spool, self._local, self._hub, self._rest)
            self.last = reconciler.run(afresh=asked is not None)
            self.failure = ""
            self._away = 0
            outcome = str(self.last)
            self.verified_until_s = self._verified_until_s(self.last, now_s)
            if self.last.problems:
                # Most of what can't be compared can be a little later.
                self._retry_in(RECONCILE_RETRY_S)
        except (TransportError, ValueError) as error:
            self.failure = outcome = f"reconcile: {error}"
            _log.info("%s", outcome)
            self._retry_in(min(AWAY_FIRST_S * 2**self._away, RECONCILE_RETRY_S))
            # Further doublings change nothing.
            self._away = min(self._away + 1, 8)
        if asked is not None:
            self._spool.set_note(RECONCILE_ANSWER, f"{asked} {outcome}")
            self._spool.set_note(RECONCILE_ASKED, None)

    def _verified_until_s(self, report: Report, now_s: int) -> int:
        if report.problems or report.sent.total() or report.high is None:
            return 0
        first_ms = self._spool.received_from(report.high)
        return now_s if first_ms is None else min(now_s, first_ms // 1000)

    def _retry_in(self, seconds: float) -> None:
        self._due_at = min(self._due_at, self._clock.monotonic() + seconds)

    def _rest(self) -> None:
        """Between two requests.

        Raises:
            TransportError: The agent ends.
        """
        self._beat()
        self._rested_at = rest(self._clock, self._stop, self._rested_at)


def rest(clock: Clock, stop: threading.Event, since: float) -> float:
    """Waits as long as the work since then took; returns when the work goes on.

    Raises:
        TransportError: The agent ends.
    """
    took_s = clock.monotonic() - since
    if stop.wait(min(max(took_s, 0.0), REST_MAX_S)):
        raise TransportError("the agent ends")
    return clock.monotonic()
