"""When to try again: after failures of a sink, and after it refused one device's records."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

BACKOFF_FIRST_S = 1.0
BACKOFF_MAX_S = 60.0
# An account may be made at any moment, as at a first boot; a wrong one stays wrong for long.
PAUSE_FIRST_S = 5.0
PAUSE_MAX_S = 300.0
_MAX_DOUBLINGS = 10

Monotonic = Callable[[], float]


class Backoff:
    """Failures in a row of one sink: exponential with full jitter, or as long as it asked for.

    Args:
        monotonic: Seconds that never jump.
        rng: For the jitter.
    """

    def __init__(self, monotonic: Monotonic, rng: random.Random) -> None:
        self._monotonic = monotonic
        self._rng = rng
        self._until = 0.0
        self.failures = 0

    def fail(self, asked_s: float | None = None) -> float:
        """Counts a failure; returns the seconds to wait."""
        ceiling = min(BACKOFF_FIRST_S * 2.0 ** min(self.failures, _MAX_DOUBLINGS), BACKOFF_MAX_S)
        self.failures += 1
        return self.wait(max(self._rng.uniform(0.0, ceiling), asked_s or 0.0))

    def wait(self, seconds: float) -> float:
        """Nothing is to be sent for so long, although nothing failed."""
        self._until = self._monotonic() + seconds
        return seconds

    def succeed(self) -> bool:
        """The sink answered; returns whether it had failed before."""
        failed, self.failures = self.failures > 0, 0
        return failed

    @property
    def left_s(self) -> float:
        """Seconds to wait from now; 0 for none."""
        return max(0.0, self._until - self._monotonic())


class Pauses:
    """Devices whose records the sink refuses for now: each is asked for ever less often."""

    def __init__(self, monotonic: Monotonic) -> None:
        self._monotonic = monotonic
        self._until: dict[str, float] = {}
        self._refusals: dict[str, int] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._until))

    def __len__(self) -> int:
        return len(self._until)

    def pause(self, name: str) -> float:
        """Counts a refusal; returns the seconds that it is not asked for."""
        count = self._refusals.get(name, 0)
        self._refusals[name] = count + 1
        seconds = min(PAUSE_FIRST_S * 2.0 ** min(count, _MAX_DOUBLINGS), PAUSE_MAX_S)
        self._until[name] = self._monotonic() + seconds
        return seconds

    def rests(self, name: str) -> bool:
        """Whether it is not to be asked for now."""
        return self._until.get(name, 0.0) > self._monotonic()

    def end(self, name: str) -> bool:
        """It was accepted; returns whether it had been refused."""
        self._refusals.pop(name, None)
        return self._until.pop(name, None) is not None
