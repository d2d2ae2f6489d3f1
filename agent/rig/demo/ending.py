"""How the demo ends: with an error, or because somebody asked for it."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class DemoError(Exception):
    """The demo can't go on; one sentence that says why and what to do."""


class RefusedError(DemoError):
    """The demo can't even begin."""


class StoppedError(BaseException):
    """Ctrl-C, or an end asked for in another way."""


class Stopper:
    """Turns signals into StoppedError, but not where that would leave a process behind."""

    def __init__(self) -> None:
        self._held = False
        self._asked = False

    def install(self) -> None:
        """Takes the signals that ask for an end."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def ignore(self) -> None:
        """From now on the parts are being ended: another Ctrl-C must not leave half of them."""
        self._held = True

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Puts off the end while a process is started and noted."""
        self._held = True
        yield
        self._held = False
        if self._asked:
            raise StoppedError

    def _on_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - signal's
        self._asked = True
        if not self._held:
            raise StoppedError
