"""The signals that end or reload the agent, waited for by a thread.

Neither a handler, which may run while its thread holds the lock that it would wait for, nor
sigtimedwait(2): a process that was stopped (SIGSTOP) past the time-out and continued gets
uninitialised siginfo from CPython (3.11 to 3.13) instead of None, which looks like a signal.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Self


class SignalThread:
    """While entered, `handle` is called with each of the signals; they are blocked elsewhere.

    Threads that are started meanwhile inherit that the signals are blocked. One that arrives as
    the block ends is dropped.
    """

    def __init__(
        self, signals: frozenset[signal.Signals], handle: Callable[[signal.Signals], None]
    ) -> None:
        self._signals = signals
        self._handle = handle
        self._ending = threading.Event()
        self._before: set[int | signal.Signals] = set()
        self._thread = threading.Thread(target=self._run, name="signals", daemon=True)

    def __enter__(self) -> Self:
        self._before = set(signal.pthread_sigmask(signal.SIG_BLOCK, self._signals))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        if self._thread.ident is not None and self._thread.is_alive():
            signal.pthread_kill(self._thread.ident, min(self._signals))
        self._thread.join()
        while pending := signal.sigpending() & self._signals:
            signal.sigwait(pending)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)

    def _run(self) -> None:
        while not self._ending.is_set():
            number = signal.sigwait(self._signals)
            if not self._ending.is_set():
                self._handle(signal.Signals(number))
