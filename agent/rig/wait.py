"""Waiting for a condition: shared by the tests, the soak and the bench."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


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
