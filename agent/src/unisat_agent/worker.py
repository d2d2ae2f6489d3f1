"""A thread that is started again when it fails, and takes no other with it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from unisat_agent.errors import SpoolCorruptError, SpoolError

RESTART_FIRST_S = 1.0
RESTART_MAX_S = 60.0

_log = logging.getLogger(__name__)


class Worker:
    """A supervised thread: started again with back-off when it fails."""

    def __init__(
        self,
        name: str,
        job: Callable[[Callable[[], None]], None],
        stop: threading.Event,
        on_corrupt: Callable[[SpoolCorruptError], None],
    ) -> None:
        self.name = name
        self.restarts = 0
        self.failure = ""
        """Why it failed, until it has worked for a while since."""
        self.last_beat = time.monotonic()
        self._job = job
        self._stop = stop
        self._on_corrupt = on_corrupt
        self._failed_at = 0.0
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)

    def beat(self) -> None:
        """Says that the thread makes progress."""
        self.last_beat = time.monotonic()
        if self.failure and self.last_beat - self._failed_at > RESTART_MAX_S:
            self.failure = ""

    def _run(self) -> None:
        wait_s = RESTART_FIRST_S
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                self._job(self.beat)
            except SpoolCorruptError as error:
                self._on_corrupt(error)
            except SpoolError as error:
                self._failed(str(error))
                _log.warning("%s: %s", self.name, error)
            except Exception as error:  # noqa: BLE001 - it must not end the other threads
                self._failed(f"{type(error).__name__}: {error}")
                _log.exception("%s: failed, is started again", self.name)
            if self._stop.is_set():
                return
            self.restarts += 1
            if time.monotonic() - began > RESTART_MAX_S:
                wait_s = RESTART_FIRST_S
            end = time.monotonic() + wait_s
            while not self._stop.wait(1.0) and time.monotonic() < end:
                self.beat()
            wait_s = min(wait_s * 2, RESTART_MAX_S)

    def _failed(self, why: str) -> None:
        self.failure = why
        self._failed_at = time.monotonic()
