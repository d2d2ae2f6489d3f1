"""Reads ports for ever: finds them, opens them, decodes them, and finds them again after an unplug.

A reader has one port, or with ``port = "auto"`` all the candidates. It keeps those open and listens
to all of them at once until every expected device is heard: a device that sends once an hour is
found with its first package, and nothing that was heard is lost. A port is *adopted*, and its
packages stored from the first one on, when an expected devID speaks on it, or where none is
expected, when one devID has sent two packages. What is not adopted is left to other programs once
nothing is missing.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from unisat_agent.config.model import PortSettings
from unisat_agent.protocols.events import Event, Package
from unisat_agent.serial.listing import find
from unisat_agent.serial.probe import PACKAGES_TO_BELIEVE
from unisat_agent.serial.session import POLL_S, RETRY_S, PortSession
from unisat_agent.serial.status import PortHeard, PortStatus, State, merged

AUTO: Final = "auto"
FINISH_S: Final = 2.0
# An adopted port that gives no package for so long after it was opened again is only listened to:
# another device may have come back under the old name.
FORGET_S: Final = 60.0
# Where no device is expected by name, a port beside one that speaks is listened to for so long.
LISTEN_S: Final = 300.0
PUBLISH_S: Final = 0.1


class Intake(Protocol):
    """Where events go: they are stamped and committed to the spool before accept() returns."""

    def accept(self, port: str, events: Sequence[Event], age_s: float) -> None:
        """Takes events of the port in order; never raises for a full disk; thread-safe.

        Args:
            port: The name of the port.
            events: What was decoded.
            age_s: How many seconds ago the last byte of them came.
        """


class PortReader:
    """Runs in a thread of its own and owns its ports.

    Args:
        settings: Which port, its format, the idle time-out.
        intake: Takes what was decoded.
        stop: When set, the reader finishes the packages in hand and returns from run().
        beat: Called several times a second while the reader makes progress, except that
            connecting to a server may take tcp.CONNECT_TIMEOUT_S.
        clock: Seconds, monotonic.
        devices: The devIDs that are expected; empty for any.
        elsewhere: Ports that other readers have, which "auto" leaves alone.
    """

    def __init__(
        self,
        settings: PortSettings,
        intake: Intake,
        stop: threading.Event,
        beat: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        devices: frozenset[str] = frozenset(),
        elsewhere: Iterable[str] = (),
    ) -> None:
        self._settings = settings
        self._intake = intake
        self._stop = stop
        self._beat = beat
        self._clock = clock
        self._devices = devices
        self._elsewhere = tuple(elsewhere)
        self._auto = settings.port == AUTO
        self._sessions: dict[str, PortSession] = {}
        if not self._auto:
            name = settings.port
            self._sessions[name] = PortSession(name, settings, adopted=True)
        self._present: set[str] = set(self._sessions)
        self._look_at = 0.0
        self._published_at = 0.0
        # Replaced whole by the reader's thread, so that other threads may read it unlocked.
        self._status = PortStatus(settings.port)

    def status(self) -> PortStatus:
        """The reader's state now; may be called from any thread."""
        return self._status

    def run(self) -> None:
        """Reads until stop is set. Port errors are its daily bread and never leave it."""
        try:
            while not self._stop.is_set():
                self._beat()
                self._open_ports(self._clock())
                self._read_ports()
                self._publish(self._clock())
            self._finish()
        finally:
            now = self._clock()
            left = [(session, session.close(now)) for session in self._sessions.values()]
            self._publish(now, State.STOPPED)
            for session, events in left:
                self._deliver(session, events, now)

    def _open_ports(self, now: float) -> None:
        if self._auto and now >= self._look_at:
            self._look_at = now + RETRY_S
            self._find_ports()
            self._let_go(now)
        for session in self._sessions.values():
            if session.adopted or (session.name in self._present and not session.released):
                session.open(now)

    def _find_ports(self) -> None:
        """Makes a session for each candidate that is there."""
        taken = {os.path.realpath(name) for name in self._elsewhere}
        taken |= {s.port.device for s in self._sessions.values() if s.port is not None}
        self._present = set()
        for found in find(self._settings.candidates):
            device = os.path.realpath(found)
            if device in taken:
                continue
            same = self._sessions.get(found)
            # A link may stand for a second adapter while the first one is being read.
            name = device if same is not None and same.port is not None else found
            self._present.add(name)
            if name not in self._sessions:
                self._sessions[name] = PortSession(name, self._settings, adopted=False)
        for name, session in list(self._sessions.items()):
            if session.port is None and name not in self._present:
                # Plugged in again, it is listened to again.
                session.released = False
                if not session.devices.names():
                    del self._sessions[name]

    def _let_go(self, now: float) -> None:
        """Leaves ports to other programs, or takes them back when a device is missing."""
        missing = self._device_is_missing()
        for session in self._sessions.values():
            if missing:
                session.released = False
            if session.port is None:
                continue
            open_s = now - session.opened_at
            if session.adopted:
                session.adopted = session.delivered or open_s < FORGET_S
            elif not missing and (self._devices or self._silent_for_long(session, open_s)):
                session.released = True
                session.close(now)

    def _silent_for_long(self, session: PortSession, open_s: float) -> bool:
        return open_s >= LISTEN_S and not session.devices.names()

    def _device_is_missing(self) -> bool:
        reading = [s for s in self._sessions.values() if s.adopted and s.port is not None]
        if not self._devices:
            return not reading
        return not self._devices.issubset(
            dev_id for session in reading for dev_id in session.devices.names()
        )

    def _read_ports(self) -> None:
        """Waits for bytes on all open ports and takes what came."""
        ports = {
            session.port.fileno(): session
            for session in self._sessions.values()
            if session.port is not None
        }
        if not ports:
            self._stop.wait(POLL_S)
            return
        ready, _, _ = select.select(list(ports), [], [], POLL_S)
        now = self._clock()
        for descriptor, session in ports.items():
            events = session.receive(now) if descriptor in ready else session.tick(now)
            self._deliver(session, events, now)

    def _deliver(self, session: PortSession, events: list[Event], now: float) -> None:
        if not events:
            return
        if session.adopted:
            self._intake.accept(session.name, events, 0.0)
            return
        if self._devices:
            # Of a neighbour's board the facts are kept, not the packages.
            session.hold(now, [event for event in events if not self._is_foreign(event)])
        else:
            session.hold(now, events)
        if not self._speaks(session, events):
            return
        session.adopt()
        for came_at, held in session.held():
            self._intake.accept(session.name, held, now - came_at)

    def _is_foreign(self, event: Event) -> bool:
        """Whether the event is a package of a device that is not expected."""
        return isinstance(event, Package) and event.dev_id not in self._devices

    def _speaks(self, session: PortSession, events: Sequence[Event]) -> bool:
        """Whether a port that is listened to belongs to this station."""
        packages = [event for event in events if isinstance(event, Package)]
        if self._devices:
            return any(package.dev_id in self._devices for package in packages)
        return any(
            package.checked or session.devices.packages(package.dev_id) >= PACKAGES_TO_BELIEVE
            for package in packages
        )

    def _finish(self) -> None:
        """Reads on until the packages in hand are complete."""
        deadline = self._clock() + FINISH_S
        while self._clock() < deadline and any(s.in_package for s in self._sessions.values()):
            self._beat()
            self._read_ports()

    def _publish(self, now: float, state: State | None = None) -> None:
        if state is None and 0.0 <= now - self._published_at < PUBLISH_S:
            return
        self._published_at = now
        sessions = list(self._sessions.values())
        open_ports = [heard for session in sessions if (heard := session.facts(now)) is not None]
        last = next((s for s in reversed(sessions) if s.adopted and s.device is not None), None)
        self._status = PortStatus(
            name=self._settings.port,
            state=state or _state_of(open_ports),
            device=last.device if last is not None else self._status.device,
            detail="stopped" if state is State.STOPPED else self._detail(sessions, open_ports),
            bytes=sum(session.bytes for session in sessions),
            reconnects=sum(session.reconnects for session in sessions),
            ports=tuple(open_ports),
            devices=merged(heard for session in sessions for heard in session.devices.facts(now)),
        )

    def _detail(self, sessions: list[PortSession], open_ports: list[PortHeard]) -> str:
        if not self._auto:
            return sessions[0].detail
        reading = [port.name for port in open_ports if port.adopted]
        failed = [s.detail for s in sessions if s.port is None and s.detail and not s.released]
        if reading:
            said = [f"reading {', '.join(reading)}"]
            if listening := [port.name for port in open_ports if not port.adopted]:
                said.append(f"listening to {', '.join(listening)}")
            lost = [s.detail for s in sessions if s.port is None and s.adopted]
            return "; ".join(said + lost)
        heard = [f"{port.name}: {_heard(port)}" for port in open_ports]
        if not heard and not failed:
            return "no serial port is there that matches `candidates`: plug the device in"
        return f"no port speaks PSoTT yet ({'; '.join(heard + failed)})"


def _state_of(open_ports: Sequence[PortHeard]) -> State:
    if any(port.adopted for port in open_ports):
        return State.READING
    return State.DETECTING if open_ports else State.WAITING


def _heard(port: PortHeard) -> str:
    """What a port that is only listened to has given so far, in a few words."""
    if port.devices:
        return f"PSoTT from {', '.join(sorted(device.dev_id for device in port.devices))}"
    if port.bytes:
        return "sends, but no PSoTT: another kind of device, or the wrong `baud`"
    return "silent"
