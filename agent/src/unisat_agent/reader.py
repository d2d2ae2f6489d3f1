"""Reads one port for ever: finds it, opens it, decodes it, and finds it again after an unplug.

The states and what leads from one to the next::

    WAITING ──the name is there──▶ OPENING ──▶ READING ──unplugged, moved──▶ WAITING
       └────port = "auto"────▶ DETECTING ──a port speaks PSoTT──▲
    any of them ──stop──▶ STOPPED
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, Protocol

from unisat_agent import ports
from unisat_agent.config import PortSettings
from unisat_agent.ports import Heard, Port, PortError, PortLostError, PortMissingError
from unisat_agent.psott import Decoder, Event, Package

AUTO: Final = "auto"
RETRY_S: Final = 0.5
FINISH_S: Final = 2.0
# A port found by itself that has given no package since it was opened again is looked for anew:
# another device may have come back under the old name.
FORGET_S: Final = 60.0

_log = logging.getLogger(__name__)


class Intake(Protocol):
    """Where events go: they are stamped and committed to the spool before accept() returns."""

    def accept(self, port: str, events: Sequence[Event], age_s: float) -> None:
        """Takes events of the port in order; never raises for a full disk; thread-safe.

        Args:
            port: The name of the port.
            events: What was decoded.
            age_s: How many seconds ago the last byte of them came.
        """


class State(Enum):
    """What a reader is doing."""

    WAITING = "waiting"
    DETECTING = "detecting"
    OPENING = "opening"
    READING = "reading"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class PortStatus:
    """A reader as the operator sees it.

    Attributes:
        name: The configured name.
        state: What the reader is doing.
        device: The device node that is open or was open last; None before the first.
        detail: One sentence: why it waits, what it hears.
        bytes: Received so far.
        reconnects: How often the port was opened again.
        last_byte_monotonic: When the last byte came, on the reader's clock.
    """

    name: str
    state: State = State.WAITING
    device: str | None = None
    detail: str = ""
    bytes: int = 0
    reconnects: int = 0
    last_byte_monotonic: float | None = None


class PortReader:
    """Runs in a thread of its own and owns one port.

    Args:
        settings: Which port, its format, the idle time-out.
        intake: Takes what was decoded.
        stop: When set, the reader finishes the package in hand and returns from run().
        beat: Called several times a second while the reader makes progress, except that
            connecting to a socket may take ports.CONNECT_TIMEOUT_S.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        settings: PortSettings,
        intake: Intake,
        stop: threading.Event,
        beat: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._intake = intake
        self._stop = stop
        self._beat = beat
        self._clock = clock
        # Replaced whole by the reader's thread, so that other threads may read it unlocked.
        self._status = PortStatus(settings.port)
        self._opened = False
        self._complaints: set[type[PortError]] = set()
        # For "auto": where the device was last, and the ports of the last round of listening.
        self._found: str | None = None
        self._known: set[str] = set()

    def status(self) -> PortStatus:
        """The reader's state now; may be called from any thread."""
        return self._status

    def run(self) -> None:
        """Reads until stop is set. Port errors are its daily bread and never leave it."""
        try:
            while not self._stop.is_set():
                self._beat()
                try:
                    self._session()
                except PortError as error:
                    self._complain(error)
                    self._set(State.WAITING, str(error))
                    self._stop.wait(RETRY_S)
        finally:
            self._set(State.STOPPED, "stopped")

    def _session(self) -> None:
        """One life of an open port, from finding it to losing it."""
        if self._settings.port != AUTO:
            with self._open(self._settings.port) as port:
                self._read(port, Decoder(), proven=True)
        elif self._found is not None:
            try:
                port = self._open(self._found)
            except PortError:
                self._detect()
            else:
                with port:
                    self._read(port, Decoder(), proven=False)
        else:
            self._detect()

    def _open(self, name: str) -> Port:
        self._set(State.OPENING, f"opening {name}")
        return ports.open_port(name, self._settings)

    def _detect(self) -> None:
        """Listens to one candidate after the other until one speaks PSoTT, and reads that one.

        Raises:
            PortError: None of them did.
        """
        names = ports.find(self._settings.candidates)
        before, self._known = self._known, set(names)
        said: list[str] = []
        for name in sorted(names, key=lambda name: name in before):
            self._set(State.DETECTING, f"listening for PSoTT on {name}")
            try:
                port = ports.open_port(name, self._settings)
            except PortError as error:
                said.append(str(error))
                continue
            with port:
                try:
                    heard = ports.probe(port, clock=self._clock, go_on=self._go_on)
                except PortLostError as error:
                    said.append(str(error))
                    continue
                if heard.speaks_psott:
                    self._found = name
                    self._count(heard.size)
                    now = self._clock()
                    for came_at, events in heard.events:
                        self._accept(port, events, age_s=now - came_at)
                    self._read(port, heard.decoder, proven=True)
                    return
            if self._stop.is_set() or self._newcomers():
                return
            said.append(f"{name}: {heard}")
        if not names:
            raise PortMissingError(
                "no serial port is there that matches `candidates`: plug the device in"
            )
        raise PortError(f"no port speaks PSoTT yet ({'; '.join(said)})")

    def _go_on(self, heard: Heard) -> bool:
        self._beat()
        # A port that has sent a package is not left for a newcomer: the package would be lost.
        return not self._stop.is_set() and (bool(heard.packages) or not self._newcomers())

    def _newcomers(self) -> bool:
        """Whether a port was plugged in since the round began: it is the likelier one."""
        return not self._known.issuperset(ports.find(self._settings.candidates))

    def _read(self, port: Port, decoder: Decoder, *, proven: bool) -> None:
        """Reads an open port until stop or until it is lost.

        Args:
            port: The port.
            decoder: May hold the head of a package already.
            proven: Whether the port is known to be the right one.

        Raises:
            PortError: The port was lost, has moved, or is not the right one.
        """
        opened_at = last_byte_at = self._clock()
        self._arrived(port)
        try:
            while not self._stop.is_set():
                self._beat()
                data = port.read(ports.POLL_S)
                now = self._clock()
                if data:
                    last_byte_at = now
                    proven = self._take(port, decoder, data) or proven
                elif port.moved():
                    raise PortLostError(f"{port.name} stands for another device now")
                elif decoder.in_package and now - last_byte_at >= self._settings.idle_s:
                    self._accept(port, decoder.end())
                if not proven and now - opened_at >= FORGET_S:
                    self._found = None
                    raise PortLostError(f"{port.name} is back but no longer speaks PSoTT")
            self._finish(port, decoder)
        finally:
            # Unplugged or stopped: what came whole is a package.
            self._accept(port, decoder.end())

    def _finish(self, port: Port, decoder: Decoder) -> None:
        """Reads on until the package in hand is whole."""
        deadline = self._clock() + FINISH_S
        while decoder.in_package and (left := deadline - self._clock()) > 0:
            self._beat()
            self._take(port, decoder, port.read(min(left, ports.POLL_S)))

    def _take(self, port: Port, decoder: Decoder, data: bytes) -> bool:
        """Decodes bytes; says whether a package was completed."""
        if data:
            self._count(len(data))
        events = decoder.feed(data)
        self._accept(port, events)
        return any(isinstance(event, Package) for event in events)

    def _accept(self, port: Port, events: Sequence[Event], *, age_s: float = 0.0) -> None:
        if events:
            self._intake.accept(port.name, events, age_s)

    def _count(self, size: int) -> None:
        self._complaints.clear()
        self._status = replace(
            self._status,
            bytes=self._status.bytes + size,
            last_byte_monotonic=self._clock(),
        )

    def _arrived(self, port: Port) -> None:
        # A port that comes and goes without a byte is told once.
        level = logging.DEBUG if self._complaints and self._opened else logging.INFO
        _log.log(level, "reading %s (%s)", port.name, port.device)
        self._set(State.READING, f"reading {port.name}", device=port.device)
        if self._opened:
            self._status = replace(self._status, reconnects=self._status.reconnects + 1)
        self._opened = True

    def _complain(self, error: PortError) -> None:
        level = logging.DEBUG if type(error) in self._complaints else logging.WARNING
        self._complaints.add(type(error))
        _log.log(level, "%s", error)

    def _set(self, state: State, detail: str, *, device: str | None = None) -> None:
        self._status = replace(
            self._status, state=state, detail=detail, device=device or self._status.device
        )
