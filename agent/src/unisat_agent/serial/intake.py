"""Decoded events → the spool: stamps each package once, and commits it before all else.

With the spool full nothing is thrown away that is committed: packages wait here, in bounded
memory, and go in as soon as there is room. Bad lines ride along with packages (`noise`).
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from unisat_agent.clock import Clock, ClockState
from unisat_agent.errors import SpoolCorruptError, SpoolError, SpoolFullError
from unisat_agent.protocols.events import Event, Package
from unisat_agent.record import Stamp, payload_of
from unisat_agent.serial.noise import Noise
from unisat_agent.spool.queue import Spool
from unisat_agent.troubles import Troubles

WAITING_MAX: Final = 2000
WAITING_MAX_BYTES: Final = 4 * 1024 * 1024
# PSoTT's shortest push interval; faster is accepted and counted.
PUSH_INTERVAL_MIN_MS: Final = 1250
UNKNOWN_DEVICE: Final = "unknown_device"
# Noise may make up devIDs for years.
FOREIGN_MAX: Final = 64

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Stamped:
    """A package on its way to the spool."""

    package: Package
    payload: str
    stamp: Stamp


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
        self.foreign: Counter[str] = Counter()
        """Packages of devices that are not expected, by devID."""
        self.missing: Counter[str] = Counter()
        """Packages that lacked a required field, by field."""
        self.fast: Counter[str] = Counter()
        """Packages that came sooner than PSoTT's push interval, by devID."""
        self.dropped = 0
        """Packages that found neither room in the spool nor in memory."""
        self.notices = Troubles(_log)
        self._noise = Noise()
        self._spool = spool
        self._clock = clock
        self._devices = devices
        self._on_corrupt = on_corrupt
        self._waiting: deque[_Stamped] = deque()
        self._waiting_bytes = 0
        self._mutex = threading.Lock()
        self._last_uptime_ms: dict[str, int] = {}

    @property
    def waiting(self) -> int:
        """Packages in memory that wait for room in the spool."""
        return len(self._waiting)

    @property
    def bad_lines(self) -> Counter[str]:
        """Bad lines by reason, those of which no sample was kept included."""
        return self._noise.counts

    @property
    def unsampled(self) -> int:
        """Bad lines that were counted and not kept: there were too many."""
        return self._noise.unsampled

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
            now = self._now()
            for event in events:
                if not isinstance(event, Package):
                    self._noise.add(port, str(event.reason), event.raw, now)
                elif self._devices and event.dev_id not in self._devices:
                    raw = f"devID={event.dev_id} {payload_of(event)}".encode()
                    self._noise.add(port, UNKNOWN_DEVICE, raw, now)
                    if event.dev_id in self.foreign or len(self.foreign) < FOREIGN_MAX:
                        self.foreign[event.dev_id] += 1
                else:
                    self._enqueue(_Stamped(event, payload_of(event), stamp))
            self._flush(final=False)

    def flush(self, *, final: bool = False) -> None:
        """Stores what waits, if there is room again, and bad lines when they are due.

        Args:
            final: Whether this is the last time: bad lines wait no longer.
        """
        with self._mutex:
            self._flush(final=final)

    def _now(self) -> float:
        return self._clock.monotonic()

    def _enqueue(self, item: _Stamped) -> None:
        size = len(item.payload)
        if len(self._waiting) >= WAITING_MAX or self._waiting_bytes + size > WAITING_MAX_BYTES:
            self.dropped += 1
            self.notices.trouble(
                "dropped", "the spool has no room and the memory is full: packages are lost now"
            )
            return
        self._waiting.append(item)
        self._waiting_bytes += size

    def _flush(self, *, final: bool) -> None:
        while self._waiting and self._stored(self._store_first):
            pass
        worth_it = self._noise.has_news if final else self._noise.due(self._now())
        if worth_it and not self._waiting:
            self._stored(self._store_noise)

    def _stored(self, store: Callable[[], None]) -> bool:
        """Whether the spool took it; else says why not."""
        try:
            try:
                store()
            except SpoolFullError:
                if not self._spool.make_room():
                    raise
                store()
        except SpoolCorruptError as error:
            self.notices.trouble("spool", str(error))
            if self._on_corrupt is not None:
                self._on_corrupt(error)
            return False
        except SpoolError as error:
            self.notices.trouble("spool", f"{error}; {self.waiting} packages wait in memory")
            return False
        self.notices.over("spool", "the spool stores packages again")
        self.notices.over("dropped", "no package is lost any more")
        return True

    def _store_noise(self) -> None:
        bundle = self._noise.bundle()
        self._spool.quarantine(self._clock.wall_ms(), bundle)
        self._noise.committed(bundle)

    def _store_first(self) -> None:
        item = self._waiting[0]
        dev_id = item.package.dev_id
        # Without a list of devices, one flipped bit could make up another one.
        expected = bool(self._devices) or item.package.checked
        bundle = self._noise.bundle()
        try:
            self._spool.append(dev_id, item.payload, item.stamp, bundle, expected=expected)
        except SpoolFullError:
            if not bundle:
                raise
            # The package may fit without them.
            self._noise.discard()
            self._spool.append(dev_id, item.payload, item.stamp, (), expected=expected)
        else:
            self._noise.committed(bundle)
        self._waiting.popleft()
        self._waiting_bytes -= len(item.payload)
        self.packages[dev_id] += 1
        self.missing.update(item.package.missing)
        before = self._last_uptime_ms.get(dev_id)
        if before is not None and item.stamp.uptime_ms - before < PUSH_INTERVAL_MIN_MS:
            self.fast[dev_id] += 1
        self._last_uptime_ms[dev_id] = item.stamp.uptime_ms
