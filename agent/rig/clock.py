"""A host's clock that a test sets."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass
class FakeClock:
    """A `unisat_agent.clock.Clock`; it stands still unless a test moves it.

    With `running`, the monotonic clock goes on by itself, for threads that wait for real.
    """

    right: bool = True
    wall: int = 1_700_000_000_000
    uptime: int = 50_000
    boot_id: str = "boot-a"
    running: bool = False
    skipped_s: float = 0.0
    asked: list[str] = field(default_factory=list)
    """Which of `wall_ms` and `synchronised` was asked, in order."""

    def wall_ms(self) -> int:
        """What was set."""
        self.asked.append("wall")
        return self.wall

    def uptime_ms(self) -> int:
        """What was set."""
        return self.uptime

    def monotonic(self) -> float:
        """What was advanced, and with `running` the time that passed too."""
        return self.skipped_s + (time.monotonic() if self.running else 0.0)

    def synchronised(self) -> bool:
        """What was set."""
        self.asked.append("synchronised")
        return self.right

    def advance(self, seconds: float) -> None:
        """Lets time pass."""
        self.skipped_s += seconds
        self.wall += round(seconds * 1000)
        self.uptime += round(seconds * 1000)
