"""The spool's long tasks, in a thread of their own: salvage, correction of times, eviction.

Each is done in chunks, and others use the spool between two of them.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator

from unisat_agent.clock import Clock
from unisat_agent.errors import SpoolCorruptError, SpoolError
from unisat_agent.spool.queue import Spool
from unisat_agent.spool.repair import Salvage
from unisat_agent.troubles import Troubles

TIDY_MS = 60_000
_IDLE_S = 1.0
# A salvage competes with the delivery for the disk, and nothing waits for it.
_SALVAGE_PAUSE_S = 0.01

_log = logging.getLogger(__name__)


class Maintenance:
    """Does what is due; `run` is the body of its thread.

    Args:
        spool: The spool to look after.
        clock: Says what time it is, and whether that is right.
        history_days: How long delivered packages are kept.
        stop: Ends `run`.
        troubles: Where it says what it can't do.
    """

    def __init__(
        self,
        spool: Spool,
        clock: Clock,
        history_days: float,
        stop: threading.Event,
        troubles: Troubles,
    ) -> None:
        self._spool = spool
        self._clock = clock
        self._history_ms = round(history_days * 86_400_000)
        self._stop = stop
        self._troubles = troubles
        self._salvage = Salvage(spool)
        self._tidy_at_ms = clock.uptime_ms() + TIDY_MS

    def run(self, beat: Callable[[], None]) -> None:
        """Works until the agent ends; calls `beat` while it makes progress."""

        def go_on() -> bool:
            beat()
            return not self._stop.is_set()

        with self._task("correction", "the times of the packages are corrected"):
            self._spool.correction.resume(go_on)
        while go_on():
            self._stop.wait(_SALVAGE_PAUSE_S if self.step(go_on) else _IDLE_S)

    def step(self, go_on: Callable[[], bool] = lambda: True) -> bool:
        """Does what is due now, of a salvage one chunk; returns whether there is more to do.

        Raises:
            SpoolCorruptError: The spool is damaged.
        """
        self._correct(go_on)
        more = False
        with self._task("salvage", "the salvage of a damaged spool goes on"):
            more = self._salvage.step()
        if self._clock.uptime_ms() >= self._tidy_at_ms:
            self._tidy_at_ms = self._clock.uptime_ms() + TIDY_MS
            self._tidy()
        return more

    def _correct(self, go_on: Callable[[], bool]) -> None:
        # Asked before the time is read: a clock that is set right in between is right.
        if not self._clock.synchronised():
            return
        offset_ms = self._clock.wall_ms() - self._clock.uptime_ms()
        with self._task("correction", "the times of the packages are corrected"):
            if self._spool.unsynced:
                corrected = self._spool.correction.correct(self._clock.boot_id, offset_ms, go_on)
                _log.info("the clock is right now: the times of %d packages corrected", corrected)

    def _tidy(self) -> None:
        before_ms = None
        # With a clock that may be years ahead, all of the history would look old.
        if self._clock.synchronised():
            before_ms = self._clock.wall_ms() - self._history_ms
        with self._task("tidy", "old packages are evicted again"):
            if evicted := self._spool.tidy(before_ms):
                _log.debug("%d packages left the history", evicted)

    @contextlib.contextmanager
    def _task(self, key: str, over: str) -> Iterator[None]:
        """Notes what can't be done, and goes on: it is tried again."""
        try:
            yield
        except SpoolCorruptError:
            raise
        except SpoolError as error:
            self._troubles.trouble(key, str(error))
        else:
            self._troubles.over(key, over)
