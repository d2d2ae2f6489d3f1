"""A thread that is started again when it fails, and takes no other with it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from unisat_agent.clock import Clock
from unisat_agent.errors import SpoolCorruptError, SpoolError

RESTART_FIRST_S = 1.0
RESTART_MAX_S = 60.0
# Longer than any request may take (config: 30 s to connect and twice 60 s to be answered), so that
# only a thread that really hangs counts as hanging.
STALL_S = 180.0

_log = logging.getLogger(__name__)

Beat = Callable[[], None]
"""Reports that a thread makes progress."""


class Worker:
    """A supervised thread: its job is called again, with back-off, when it fails.

    Args:
        name: Of the thread.
        job: Its work, until `stop` is set.
        stop: Set when the agent is to end.
        clock: For the back-off, and to see that the thread hangs.
        on_corrupt: Called when the spool turns out to be damaged.
        restart_first_s: The first wait before the job is called again.
    """

    def __init__(
        self,
        name: str,
        job: Callable[[Beat], None],
        stop: threading.Event,
        clock: Clock,
        on_corrupt: Callable[[SpoolCorruptError], None],
        restart_first_s: float = RESTART_FIRST_S,
    ) -> None:
        self.name = name
        self.restarts = 0
        self.failure = ""
        """Why it failed, until it has worked for a while since."""
        self._job = job
        self._stop = stop
        self._clock = clock
        self._on_corrupt = on_corrupt
        self._restart_first_s = restart_first_s
        self._last_beat = clock.monotonic()
        self._failed_at = 0.0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def join(self, timeout_s: float) -> None:
        """Waits for the thread to end."""
        self._thread.join(timeout_s)

    @property
    def alive(self) -> bool:
        """Whether the thread was started and has not ended."""
        return self._thread.is_alive()

    @property
    def stalled(self) -> bool:
        """Whether the thread ended or shows no progress; not before it was started."""
        if self._thread.ident is None:
            return False
        return not self.alive or self._clock.monotonic() - self._last_beat > STALL_S

    def beat(self) -> None:
        """Notes that the thread makes progress."""
        self._last_beat = self._clock.monotonic()
        if self.failure and self._last_beat - self._failed_at > RESTART_MAX_S:
            self.failure = ""

    def _run(self) -> None:
        wait_s = self._restart_first_s
        while not self._stop.is_set():
            began = self._clock.monotonic()
            try:
                self._job(self.beat)
            except SpoolCorruptError as error:
                self._on_corrupt(error)
            except SpoolError as error:
                self._note_failure(str(error))
                _log.warning("%s: %s", self.name, error)
            except Exception as error:  # noqa: BLE001 - it must not end the other threads
                self._note_failure(f"{type(error).__name__}: {error}")
                _log.exception("%s: failed, is started again", self.name)
            if self._stop.is_set():
                return
            self.restarts += 1
            if self._clock.monotonic() - began > RESTART_MAX_S:
                wait_s = self._restart_first_s
            self._rest(wait_s)
            wait_s = min(wait_s * 2, RESTART_MAX_S)

    def _rest(self, wait_s: float) -> None:
        """Waits, in slices that show that the thread is alive."""
        while wait_s > 0 and not self._stop.wait(min(wait_s, 1.0)):
            self.beat()
            wait_s -= 1.0

    def _note_failure(self, reason: str) -> None:
        self.failure = reason
        self._failed_at = self._clock.monotonic()
