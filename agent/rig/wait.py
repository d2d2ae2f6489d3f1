"""Waiting for a condition, and ports to wait at: shared by the demo, the tests and the soak."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_PORTS = range(20_000, 32_000)


class WaitedTooLongError(AssertionError):
    """The condition did not come true in time."""


def wait_until(
    condition: Callable[[], T],
    deadline_s: float,
    why: str | Callable[[], str],
    step_s: float = 0.05,
) -> T:
    """Calls condition until its result is true, and returns that result.

    Args:
        condition: what to look at; an OSError counts as "not yet".
        deadline_s: seconds after which it is a failure.
        why: what was waited for; a callable may add what was seen at the end.
        step_s: seconds between two looks.

    Raises:
        WaitedTooLongError: when the deadline has passed.
    """
    end = time.monotonic() + deadline_s
    last: object = None
    while True:
        try:
            result = condition()
        except OSError as error:
            last = error
        else:
            if result:
                return result
            last = result
        if time.monotonic() >= end:
            reason = why if isinstance(why, str) else why()
            raise WaitedTooLongError(f"after {deadline_s:g} s still waiting: {reason} ({last!r})")
        time.sleep(step_s)


def free_port() -> int:
    """A TCP port that is free on 127.0.0.1.

    It lies below Linux's range for outgoing connections: a client that keeps trying a closed port
    inside that range sooner or later gets the port itself as its source and connects to itself,
    and a server that was stopped could find its port taken.
    """
    generator = random.SystemRandom()
    while True:
        port = generator.choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
