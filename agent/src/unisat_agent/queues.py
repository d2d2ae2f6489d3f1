"""What each sink waits for, kept in memory: how many rows of each device, and from which on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(slots=True)
class _Queue:
    """The rows of one device that one sink waits for: how many, and none below `low`."""

    count: int
    low: int


class Queues:
    """The queues of all sinks and devices; whoever uses it sees to the locking."""

    def __init__(self, sinks: Iterable[str]) -> None:
        self._queues: dict[str, dict[str, _Queue]] = {sink: {} for sink in sinks}

    def recount(self, sink: str, found: Iterable[tuple[str, int, int]]) -> None:
        """Replaces a sink's queues by what was counted: devID, number of rows, lowest row."""
        self._queues[sink] = {dev_id: _Queue(count, low) for dev_id, count, low in found}

    def add(self, sink: str, dev_id: str, seq: int) -> None:
        """One more row waits."""
        queue = self._queues[sink].setdefault(dev_id, _Queue(0, seq))
        queue.low = min(queue.low, seq) if queue.count else seq
        queue.count += 1

    def remove(self, sink: str, dev_id: str) -> None:
        """A row does not wait any more."""
        self._queues[sink][dev_id].count -= 1

    def devices(self, sink: str) -> list[str]:
        """The devices that have rows for this sink."""
        return [dev_id for dev_id, queue in self._queues[sink].items() if queue.count]

    def pending(self, sink: str) -> int:
        """How many rows this sink waits for."""
        return sum(queue.count for queue in self._queues[sink].values())

    def low(self, sink: str, dev_id: str) -> int | None:
        """A row below which none of this device waits; None when none waits at all."""
        queue = self._queues[sink].get(dev_id)
        return queue.low if queue is not None and queue.count else None

    def raise_low(self, sink: str, dev_id: str, seq: int) -> None:
        """No row below `seq` waits."""
        self._queues[sink][dev_id].low = seq

    def lowest(self, *sinks: str) -> int | None:
        """A row below which none waits for these sinks (all, if none is given), or None."""
        lows = [
            queue.low
            for sink in sinks or self._queues
            for queue in self._queues[sink].values()
            if queue.count
        ]
        return min(lows, default=None)
