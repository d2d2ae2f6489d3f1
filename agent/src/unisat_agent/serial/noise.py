"""Bad lines on their way to the quarantine: few enough that noise never competes with data.

Every bad line is counted. Samples are kept: a burst of each port, then one now and then. They are
committed together with the next package, or by themselves on a timer, and lines that have been seen
in the last hour never cause a commit of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from unisat_agent.spool.quarantine import Quarantined

COMMIT_S: Final = 10.0
# A token bucket for each port: this many samples at once, and another one after each SAMPLE_S.
SAMPLES: Final = 50
SAMPLE_S: Final = 60.0
SEEN_S: Final = 3600.0
SEEN_MAX: Final = 512
BUNDLE_MAX_BYTES: Final = 64 * 1024
_ROW_BYTES: Final = 100
PORTS_MAX: Final = 64


@dataclass(slots=True)
class _Budget:
    samples: float
    at: float


class Noise:
    """Collects bad lines; whoever uses it sees to the locking. Times are seconds, monotonic."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        """Bad lines by reason."""
        self.unsampled = 0
        """Bad lines of which only the count was kept."""
        self._bundle: list[Quarantined] = []
        self._bundle_bytes = 0
        self._new_since: float | None = None
        self._budgets: dict[str, _Budget] = {}
        self._seen: dict[Quarantined, float] = {}

    def add(self, port: str, reason: str, raw: bytes, now: float) -> None:
        """Counts a bad line, and keeps it where there is room for another sample."""
        self.counts[reason] += 1
        size = len(raw) + _ROW_BYTES
        if self._bundle_bytes + size > BUNDLE_MAX_BYTES or not self._take_budget(port, now):
            self.unsampled += 1
            return
        line = Quarantined(port, reason, raw)
        self._bundle.append(line)
        self._bundle_bytes += size
        if now >= self._seen.get(line, now):
            if self._new_since is None:
                self._new_since = now
            if len(self._seen) >= SEEN_MAX:
                del self._seen[next(iter(self._seen))]
            self._seen[line] = now + SEEN_S

    def _take_budget(self, port: str, now: float) -> bool:
        budget = self._budgets.get(port)
        if budget is None:
            if len(self._budgets) >= PORTS_MAX:
                self._budgets.clear()
            budget = self._budgets[port] = _Budget(SAMPLES, now)
        budget.samples = min(SAMPLES, budget.samples + (now - budget.at) / SAMPLE_S)
        budget.at = now
        if budget.samples < 1:
            return False
        budget.samples -= 1
        return True

    def bundle(self) -> tuple[Quarantined, ...]:
        """The samples that wait."""
        return tuple(self._bundle)

    def due(self, now: float) -> bool:
        """Whether the samples are worth a commit of their own by now."""
        return self._new_since is not None and now - self._new_since >= COMMIT_S

    @property
    def has_news(self) -> bool:
        """Whether there are samples that were not seen before."""
        return self._new_since is not None

    def discard(self) -> None:
        """Gives up the samples that wait, for want of room."""
        self.unsampled += len(self._bundle)
        self.committed(self.bundle())

    def committed(self, bundle: Sequence[Quarantined]) -> None:
        """The spool has these; they are the first of those that waited."""
        del self._bundle[: len(bundle)]
        self._bundle_bytes = sum(len(line.raw) + _ROW_BYTES for line in self._bundle)
        self._new_since = None
