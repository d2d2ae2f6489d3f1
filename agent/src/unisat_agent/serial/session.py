"""One port by its name: opened, read, lost, and opened again."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from itertools import groupby
from typing import Final

from unisat_agent.config.model import PortSettings
from unisat_agent.protocols import PROTOCOLS
from unisat_agent.protocols.events import Event, Package
from unisat_agent.serial.devices import DeviceLog
from unisat_agent.serial.port import Port, PortError, PortLostError, PortMissingError
from unisat_agent.serial.ports import is_remote, open_port
from unisat_agent.serial.status import PortHeard, Unread

POLL_S: Final = 0.25
RETRY_S: Final = 0.5
# A local port is looked for again soon: looking costs nothing, and a device that was plugged in
# should be read at once. A server in the network that refuses is left in peace.
RETRY_MAX_S: Final = 2.0
REMOTE_RETRY_MAX_S: Final = 30.0
REPEAT_S: Final = 3600.0
HELD_EVENTS: Final = 100
HELD_REJECTED: Final = 20

_TEXT: Final = bytes(range(0x20, 0x7F)) + b"\t\r\n"

_log = logging.getLogger(__name__)


class PortSession:
    """Used by one thread.

    Args:
        name: The port.
        settings: Its speed and format, the protocol, the idle time-out.
        adopted: Whether its packages are stored; else events are held until it is adopted.
    """

    def __init__(self, name: str, settings: PortSettings, *, adopted: bool) -> None:
        self.name = name
        self.adopted = adopted
        self.released = False
        """Whether others may use it: it was listened to for long enough."""
        self.port: Port | None = None
        self.device: str | None = None
        self.detail = ""
        self.bytes = 0
        self.reconnects = 0
        self.opened_at = 0.0
        self.devices = DeviceLog()
        self._settings = settings
        self._decoder = PROTOCOLS[settings.protocol]()
        self._opened = False
        self._delivered = False
        self._failures = 0
        self._due_at = 0.0
        self._ticked_at = 0.0
        self._last_byte_at: float | None = None
        self._last_package_at: float | None = None
        self._unread = Unread()
        # The causes that were told since the last package, and when.
        self._told: dict[str, float] = {}
        self._held: deque[tuple[float, Event]] = deque(maxlen=HELD_EVENTS)

    @property
    def in_package(self) -> bool:
        """Whether a package has begun and not ended."""
        return self.port is not None and self._decoder.in_package

    @property
    def delivered(self) -> bool:
        """Whether a complete package came since the port was opened."""
        return self._delivered

    def open(self, now: float) -> None:
        """Opens the port, unless it is open or was tried a moment ago."""
        if self.port is not None or now < self._due_at:
            return
        try:
            self.port = open_port(self.name, self._settings)
        except PortError as error:
            self._fail(error, now)
            return
        self.device = self.port.device
        self.detail = f"reading {self.name}"
        self.opened_at = self._ticked_at = now
        self.reconnects += self._opened
        self._opened = True
        self._delivered = False
        self._unread = Unread()
        # A port that comes and goes without a package is told once.
        level = logging.DEBUG if self._told or not self.adopted else logging.INFO
        doing = "reading" if self.adopted else "listening to"
        _log.log(level, "%s %s (%s)", doing, self.name, self.device)

    def adopt(self) -> None:
        """From now on its packages are stored."""
        self.adopted = True
        _log.info("reading %s (%s)", self.name, self.device)

    def receive(self, now: float) -> list[Event]:
        """Reads what has come; returns what it completed."""
        if self.port is None:
            return []
        try:
            data = self.port.read(0)
        except PortLostError as error:
            return self._lose(error, now)
        if not data:
            return []
        self.bytes += len(data)
        self._last_byte_at = now
        self._unread = Unread(
            self._unread.bytes + len(data),
            self._unread.line_ends + data.count(b"\n") + data.count(b"\r"),
            self._unread.non_text + len(data.translate(None, _TEXT)),
        )
        return self._noted(self._decoder.feed(data), now)

    def tick(self, now: float) -> list[Event]:
        """What has to be done while no byte comes; returns a package that silence has ended."""
        if self.port is None or now - self._ticked_at < POLL_S:
            return []
        self._ticked_at = now
        quiet_s = now - max(self.opened_at, self._last_byte_at or 0.0)
        # One that has delivered is left only when it hangs up: a second adapter may take its name.
        if not self._delivered and self.port.moved():
            return self._lose(PortLostError(f"{self.name} stands for another device now"), now)
        if self._decoder.in_package and quiet_s >= self._settings.idle_s:
            return self._noted(self._decoder.end(), now)
        return []

    def close(self, now: float) -> list[Event]:
        """Closes the port; returns what came complete before."""
        if self.port is None:
            return []
        self.port.close()
        self.port = None
        # What came complete is a package, also when the device was unplugged in the middle.
        return self._noted(self._decoder.end(), now)

    def hold(self, now: float, events: list[Event]) -> None:
        """Keeps events for the time when the port is adopted: packages, and a few bad lines."""
        rejected = sum(not isinstance(event, Package) for _, event in self._held)
        for event in events:
            if not isinstance(event, Package):
                rejected += 1
                if rejected > HELD_REJECTED:
                    continue
            self._held.append((now, event))

    def held(self) -> Iterator[tuple[float, list[Event]]]:
        """Takes the held events, each run with the moment at which it came."""
        held, self._held = self._held, deque(maxlen=HELD_EVENTS)
        for came_at, run in groupby(held, key=lambda item: item[0]):
            yield came_at, [event for _, event in run]

    def facts(self, now: float) -> PortHeard | None:
        """What is known of the open port; None while it is closed."""
        if self.port is None:
            return None
        return PortHeard(
            name=self.name,
            device=self.port.device,
            adopted=self.adopted,
            open_s=now - self.opened_at,
            bytes=self.bytes,
            byte_age_s=None if self._last_byte_at is None else now - self._last_byte_at,
            package_age_s=None if self._last_package_at is None else now - self._last_package_at,
            unread=self._unread,
            devices=self.devices.facts(now),
        )

    def _noted(self, events: list[Event], now: float) -> list[Event]:
        packages = [event for event in events if isinstance(event, Package)]
        for package in packages:
            self.devices.add(package.dev_id, now)
        if packages:
            self._last_package_at = now
            self._unread = Unread()
            self._failures = 0
            if self._told:
                self._told.clear()
                _log.info("%s delivers packages%s", self.name, " again" if self._delivered else "")
            self._delivered = True
        return events

    def _lose(self, error: PortLostError, now: float) -> list[Event]:
        events = self.close(now)
        self._fail(error, now)
        return events

    def _fail(self, error: PortError, now: float) -> None:
        remote = is_remote(self.name)
        if isinstance(error, PortMissingError) and not remote:
            delay_s = RETRY_S
        else:
            most_s = REMOTE_RETRY_MAX_S if remote else RETRY_MAX_S
            delay_s = min(RETRY_S * 2.0 ** min(self._failures, 10), most_s)
            self._failures += 1
        self._due_at = now + delay_s
        self.detail = str(error)
        cause = f"{type(error).__name__} {error.__cause__}"
        told_at = self._told.get(cause)
        level = logging.DEBUG
        if told_at is None or now - told_at >= REPEAT_S:
            self._told[cause] = now
            # Other programs may well have a port that is only listened to.
            level = logging.WARNING if self.adopted else logging.INFO
        _log.log(level, "%s", error)
