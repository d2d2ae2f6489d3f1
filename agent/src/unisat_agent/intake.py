"""Decoded events → the spool: stamps each package once, and commits it before all else.

With the spool full nothing is thrown away that is committed: packages wait here, in bounded
memory, and go in as soon as there is room.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from unisat_agent.clock import Clock, ClockState
from unisat_agent.errors import SpoolCorruptError, SpoolError, SpoolFullError
from unisat_agent.notice import Notices
from unisat_agent.psott import Event, Package
from unisat_agent.record import Stamp, payload_of
from unisat_agent.spool import Quarantined, Spool

WAITING_MAX = 2000
# PSoTT's shortest push interval; faster is accepted and counted.
PUSH_INTERVAL_MIN_MS = 1250

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Stamped:
    """A package, or None for bad lines alone, on its way to the spool."""

    package: Package | None
    stamp: Stamp
    bad: tuple[Quarantined, ...]


class Intake:
    """Takes the events of all ports; safe to use from several threads.

    Args:
        spool: Where packages go.
        clock: Stamps them.
        devices: The devIDs that are expected; empty for any.
        on_corrupt: Called when the spool turns out to be damaged.
    """

    def __init__(
        self,
        spool: Spool,
        clock: Clock,
        devices: frozenset[str] = frozenset(),
        on_corrupt: Callable[[SpoolCorruptError], None] | None = None,
    ) -> None:
        self.packages: Counter[str] = Counter()
        """Stored packages by devID."""
        self.bad_lines: Counter[str] = Counter()
        self.missing: Counter[str] = Counter()
        """Packages that lacked a required field, by field."""
        self.fast: Counter[str] = Counter()
        """Packages that came sooner than PSoTT's push interval, by devID."""
        self.dropped = 0
        """Packages that found neither room in the spool nor in memory."""
        self.notices = Notices(_log)
        self._spool = spool
        self._clock = clock
        self._devices = devices
        self._on_corrupt = on_corrupt
        self._waiting: deque[_Stamped] = deque()
        self._mutex = threading.Lock()
        self._last_uptime_ms: dict[str, int] = {}

    @property
    def waiting(self) -> int:
        """Packages in memory that wait for room in the spool."""
        return len(self._waiting)

    def accept(self, port: str, events: Sequence[Event], age_s: float = 0.0) -> None:
        """Stamps and commits what a port decoded; never raises for a spool that is full.

        Args:
            port: The name of the port.
            events: What was decoded, in order.
            age_s: How many seconds ago it was received.
        """
        if not events:
            return
        age_ms = round(age_s * 1000)
        with self._mutex:
            # Asked before the time is read: a clock that is set right in between is right.
            synchronised = self._clock.synchronised()
            stamp = Stamp(
                received_ms=self._clock.wall_ms() - age_ms,
                uptime_ms=self._clock.uptime_ms() - age_ms,
                boot_id=self._clock.boot_id,
                clock=ClockState.SYNCED if synchronised else ClockState.UNSYNCED,
            )
            bad: list[Quarantined] = []
            for event in events:
                if not isinstance(event, Package):
                    bad.append(Quarantined(port, event.reason.value, event.raw))
                elif self._devices and event.dev_id not in self._devices:
                    raw = f"devID={event.dev_id} {payload_of(event)}".encode()
                    bad.append(Quarantined(port, "unknown_device", raw))
                else:
                    self._enqueue(_Stamped(event, stamp, tuple(bad)))
                    bad = []
            if bad:
                self._enqueue(_Stamped(None, stamp, tuple(bad)))
            self._flush()

    def flush(self) -> None:
        """Stores what waits, if there is room again."""
        if self._waiting:
            with self._mutex:
                self._flush()

    def _enqueue(self, item: _Stamped) -> None:
        self.bad_lines.update(bad.reason for bad in item.bad)
        if len(self._waiting) >= WAITING_MAX:
            self.dropped += item.package is not None
            self.notices.trouble(
                "dropped", "the spool has no room and the memory is full: packages are lost now"
            )
            return
        self._waiting.append(item)

    def _flush(self) -> None:
        while self._waiting:
            item = self._waiting[0]
            try:
                self._store(item)
            except SpoolFullError as error:
                if self._spool.make_room():
                    continue
                self.notices.trouble("spool", f"{error}; {self.waiting} packages wait in memory")
                return
            except SpoolCorruptError as error:
                self.notices.trouble("spool", str(error))
                if self._on_corrupt is not None:
                    self._on_corrupt(error)
                return
            except SpoolError as error:
                self.notices.trouble("spool", f"{error}; {self.waiting} packages wait in memory")
                return
            self._waiting.popleft()
            self.notices.over("spool", "the spool stores packages again")
            self.notices.over("dropped", "no package is lost any more")

    def _store(self, item: _Stamped) -> None:
        if item.package is None:
            self._spool.quarantine(item.stamp.received_ms, item.bad)
            return
        dev_id = item.package.dev_id
        self._spool.append(dev_id, payload_of(item.package), item.stamp, item.bad)
        self.packages[dev_id] += 1
        self.missing.update(item.package.missing)
        before = self._last_uptime_ms.get(dev_id)
        if before is not None and item.stamp.uptime_ms - before < PUSH_INTERVAL_MIN_MS:
            self.fast[dev_id] += 1
        self._last_uptime_ms[dev_id] = item.stamp.uptime_ms
