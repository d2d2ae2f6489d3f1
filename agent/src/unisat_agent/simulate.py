"""A simulated satellite: a seeded device that speaks PSoTT on a pty, a serial port or a socket.

What it says is made by pure functions (`frames`): an orbit, weather and air quality, several
devices in turn, and faults on request. Every frame knows what a receiver must store of it, worked
out where the bytes are made and not by decoding them again, so that the journal can convict the
decoder too. The transports below only carry bytes.

The journal is a file of JSON lines, one for each package, written after the bytes were handed to
the line; a later line for the same (devID, packet) overrides the earlier one::

    {"devID": "sim01", "packet": 17, "expected": true, "fields": {"temperature": 21.4, …},
     "groups": {"meteo": ["temperature", …]}, "missing": [], "fault": null}

`expected` is true: must be stored exactly once with these fields; false: must not be stored;
null: nobody can know (the cable was pulled while the package was on it).
"""

from __future__ import annotations

import argparse
import fcntl
import json
import math
import os
import random
import select
import signal
import socket
import struct
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Final, Protocol, TextIO

import serial

Value = bool | int | float

FAULTS: Final = ("garbage", "nan", "half", "reset", "burst", "missing", "crlf", "silence")
SERIAL_NUMBER: Final = "packet"
_REQUIRED: Final = ("temperature", "humidity", "pressure", "pm25")
# Ends whatever the last frame left open; a blank line more does no harm.
_CLOSING: Final = b"\r\n\r\n"

# --- what the satellite says -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the journal; see the module's text for the meaning of `expected`."""

    dev_id: str
    packet: int
    expected: bool | None
    fields: Mapping[str, Value] = field(default_factory=lambda: MappingProxyType({}))
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    missing: tuple[str, ...] = ()
    fault: str | None = None

    def to_json(self) -> str:
        """The line of the journal, without its newline."""
        return json.dumps(
            {
                "devID": self.dev_id,
                SERIAL_NUMBER: self.packet,
                "expected": self.expected,
                "fields": dict(self.fields),
                "groups": {name: list(fields) for name, fields in self.groups.items()},
                "missing": list(self.missing),
                "fault": self.fault,
            }
        )

    @classmethod
    def from_json(cls, line: str) -> Entry:
        """Reads a line of the journal."""
        read = json.loads(line)
        return cls(
            dev_id=read["devID"],
            packet=read[SERIAL_NUMBER],
            expected=read["expected"],
            fields=read["fields"],
            groups={name: tuple(fields) for name, fields in read["groups"].items()},
            missing=tuple(read["missing"]),
            fault=read["fault"],
        )


@dataclass(frozen=True, slots=True)
class Frame:
    """Bytes for the line, what must come of them, and the pause after them in intervals."""

    data: bytes
    entry: Entry
    pause: float = 1.0


@dataclass(frozen=True, slots=True)
class _Reading:
    """A measured value and how the device prints it."""

    group: str | None
    name: str
    value: Value
    text: str

    @property
    def line(self) -> bytes:
        return f"{self.name}={self.text}".encode()


class Satellite:
    """One device: where it is and what it measures after so many seconds of its life."""

    _INCLINATION = math.radians(51.6)
    _PERIOD_S = 5570.0
    _SIDEREAL_DAY_S = 86164.0

    def __init__(self, dev_id: str, seed: int | str) -> None:
        self.dev_id = dev_id
        self._random = random.Random(f"{seed}/{dev_id}")  # noqa: S311 - no secret is made of it
        self._phase = self._random.uniform(0, 2 * math.pi)
        self._warmth = self._random.uniform(8, 24)
        self._dust = self._random.uniform(4, 18)
        self._drift = {"temperature": 0.0, "humidity": 0.0, "pressure": 0.0, "dust": 0.0}

    def measure(self, age_s: float) -> list[_Reading]:
        """The readings of one package; advances the weather by one step."""
        for name in self._drift:
            # A first-order process: looks like weather and comes back to its mean.
            self._drift[name] = 0.97 * self._drift[name] + self._random.gauss(0, 0.2)
        drift = self._drift
        angle = self._phase + 2 * math.pi * age_s / self._PERIOD_S
        latitude = math.degrees(math.asin(math.sin(self._INCLINATION) * math.sin(angle)))
        longitude = math.degrees(
            math.atan2(math.cos(self._INCLINATION) * math.sin(angle), math.cos(angle))
        ) - 360 * (age_s / self._SIDEREAL_DAY_S)
        day = math.sin(self._phase + 2 * math.pi * age_s / 86400)
        pm25 = self._dust * math.exp(0.25 * drift["dust"])
        humidity = min(99.0, max(5.0, 52 - 18 * day + 3 * drift["humidity"]))
        battery_volts = 3.9 + 0.2 * math.sin(angle)
        return [
            _double("gps", "lat", latitude, 5),
            _double("gps", "long", (longitude + 180) % 360 - 180, 5),
            _double("gps", "alt", 418_000 + 4_000 * math.sin(angle), 1),
            _double("meteo", "temperature", self._warmth + 7 * day + drift["temperature"], 2),
            # Now and then as an integer, as a sketch with a DHT11 does: still a double when read.
            _double("meteo", "humidity", humidity, 0 if self._random.random() < 0.25 else 2),
            _double("meteo", "pressure", 1008 + 5 * day + 2 * drift["pressure"], 2),
            _double("air", "pm25", pm25, 2),
            _double("air", "pm10", pm25 * 1.6 + 0.5 * abs(drift["dust"]), 2),
            _Reading("status", "battery", battery_volts > 3.75, str(battery_volts > 3.75).lower()),
            _double("status", "voltage", battery_volts, 2),
            _Reading("status", "satellites", count := self._random.randint(6, 12), str(count)),
        ]


def _double(group: str, name: str, value: float, digits: int) -> _Reading:
    text = f"{value:.{digits}f}"
    return _Reading(group, name, float(text), text)


def frames(
    dev_ids: Sequence[str],
    seed: int | str = 1,
    faults: Sequence[str] = (),
    probability: float = 0.2,
    interval_s: float = 3.0,
) -> Iterator[Frame]:
    """Frames without end, the devices in turn; the same arguments give the same bytes.

    Args:
        dev_ids: The devices.
        seed: Any number or text.
        faults: Which of FAULTS may happen.
        probability: How often a frame is given one of them, 0 to 1.
        interval_s: Seconds of the satellite's life between two packages of a device.
    """
    chance = random.Random(f"{seed}/faults")  # noqa: S311 - no secret is made of it
    satellites = [Satellite(dev_id, seed) for dev_id in dev_ids]
    before: str | None = None
    hurried = 0
    packet = 0
    while True:
        packet += 1
        for satellite in satellites:
            readings = [
                _Reading(None, SERIAL_NUMBER, packet, str(packet)),
                *satellite.measure(packet * interval_s),
            ]
            fault = chance.choice(faults) if faults and chance.random() < probability else None
            made = _FRAMES[fault](_Draft(satellite.dev_id, packet, fault, readings), chance)
            if before == "half":
                # The half line must end somewhere, or this package's devID would be glued to it.
                made = replace(made, data=b"\r\n" + made.data)
            elif before == "reset":
                made = replace(made, data=made.data.lstrip(b"\r\n"))
            before = fault
            if fault == "burst":
                hurried = chance.randint(2, 6)
            if hurried:
                hurried -= 1
                made = replace(made, pause=0.0)
            yield made


@dataclass(frozen=True, slots=True)
class _Draft:
    """A package before it becomes bytes."""

    dev_id: str
    packet: int
    fault: str | None
    readings: Sequence[_Reading]

    def lines(self) -> list[tuple[bytes, _Reading | None]]:
        """The package's lines, each with the reading that it carries."""
        lines: list[tuple[bytes, _Reading | None]] = [(b"devID=" + self.dev_id.encode(), None)]
        group: str | None = None
        for reading in self.readings:
            if reading.group is not None and reading.group != group:
                group = reading.group
                lines.append((b"subID=" + group.encode(), None))
            lines.append((reading.line, reading))
        return lines

    def entry(self, readings: Sequence[_Reading]) -> Entry:
        """What must be stored when only these readings arrive whole."""
        if not readings:
            return Entry(self.dev_id, self.packet, expected=False, fault=self.fault)
        groups: dict[str, list[str]] = {}
        for reading in readings:
            if reading.group is not None:
                groups.setdefault(reading.group, []).append(reading.name)
        fields = {reading.name: reading.value for reading in readings}
        return Entry(
            dev_id=self.dev_id,
            packet=self.packet,
            expected=True,
            fields=fields,
            groups={group: tuple(names) for group, names in groups.items()},
            missing=tuple(name for name in _REQUIRED if name not in fields),
            fault=self.fault,
        )

    def frame(self, lines: Sequence[tuple[bytes, _Reading | None]], pause: float = 1.0) -> Frame:
        """A frame of whole lines, as the sketches print it: a blank line before and after."""
        body = b"".join(line + b"\r\n" for line, _ in lines)
        readings = [reading for _, reading in lines if reading is not None]
        return Frame(b"\r\n" + body + b"\r\n", self.entry(readings), pause)


def _whole(draft: _Draft, chance: random.Random) -> Frame:  # noqa: ARG001 - one signature for all
    return draft.frame(draft.lines())


def _silence(draft: _Draft, chance: random.Random) -> Frame:
    return draft.frame(draft.lines(), pause=chance.uniform(3, 6))


def _missing(draft: _Draft, chance: random.Random) -> Frame:
    gone = chance.sample(_REQUIRED, chance.randint(1, 3))
    return draft.frame(
        [(line, of) for line, of in draft.lines() if of is None or of.name not in gone]
    )


def _nan(draft: _Draft, chance: random.Random) -> Frame:
    measured = [reading.name for reading in draft.readings if reading.group is not None]
    failed = chance.sample(measured, chance.randint(1, 3))
    lines: list[tuple[bytes, _Reading | None]] = []
    for line, reading in draft.lines():
        if reading is not None and reading.name in failed:
            text = chance.choice(["nan", "NAN", "inf", "-inf", "ovf", "", "failed", "43.2,76.5"])
            lines.append((f"{reading.name}={text}".encode(), None))
        else:
            lines.append((line, reading))
    return draft.frame(lines)


def _garbage(draft: _Draft, chance: random.Random) -> Frame:
    lines = draft.lines()
    if chance.random() < 0.5:
        hit = chance.randrange(2, len(lines))
        line, reading = lines[hit]
        if reading is not None:
            at = chance.randrange(len(line))
            lines[hit] = (line[:at] + chance.choice([b"\xff", b"\xc3\xa9"]) + line[at:], None)
    for _ in range(chance.randint(1, 3)):
        lines.insert(chance.randint(0, len(lines)), (_noise(chance), None))
    return draft.frame(lines)


def _noise(chance: random.Random) -> bytes:
    """Bytes that can be no line of PSoTT: none of them ends a line, and one is not ASCII."""
    noise = chance.randbytes(chance.choice([1, 7, 40, 400]))
    return noise.replace(b"\n", b"?").replace(b"=", b"#") + b"\xff"


def _half(draft: _Draft, chance: random.Random) -> Frame:
    """Stops inside a name or after the `=`: a number cut short would be a good, wrong number."""
    lines = draft.lines()
    last = chance.randrange(len(lines))
    line = lines[last][0]
    cut = line[: chance.randint(1, line.index(b"=") + 1)]
    kept = draft.frame(lines[:last])
    return Frame(kept.data.removesuffix(b"\r\n") + cut, kept.entry)


def _reset(draft: _Draft, chance: random.Random) -> Frame:
    """The board starts anew in the middle of a line: noise of the line, then the next package."""
    lines = draft.lines()
    last = chance.randrange(len(lines))
    line = lines[last][0]
    cut = line[: chance.randint(0, len(line))] + b"\xff\x00\xfe\r\n"
    kept = draft.frame(lines[:last])
    return Frame(kept.data.removesuffix(b"\r\n") + cut, kept.entry, pause=0.0)


def _line_ends(draft: _Draft, chance: random.Random) -> Frame:
    lines = draft.lines()
    newline = chance.choice([b"\n", b"\r\n", b"\r\r\n"])
    blanks = chance.choice([b"", b" ", b"\t", b"  "])
    body = b"".join(
        blanks + line.replace(b"=", blanks + b"=" + blanks, 1) + blanks + newline
        for line, _ in lines
    )
    before, after = chance.choice([(0, 1), (1, 0), (1, 1), (3, 2)])
    return Frame(newline * before + body + newline * after, draft.frame(lines).entry)


_FRAMES: Final[Mapping[str | None, Callable[[_Draft, random.Random], Frame]]] = {
    None: _whole,
    "garbage": _garbage,
    "nan": _nan,
    "half": _half,
    "reset": _reset,
    "burst": _whole,
    "missing": _missing,
    "crlf": _line_ends,
    "silence": _silence,
}

# --- the lines that carry it --------------------------------------------------------------------


class LineError(Exception):
    """The line can't be used; one sentence that says why and what to do."""


class LineLostError(Exception):
    """The other end went away while bytes were on the way; what arrived is not known."""


class Line(Protocol):
    """Carries bytes to a receiver."""

    @property
    def name(self) -> str:
        """What the receiver opens."""

    def write(self, data: bytes) -> int:
        """Hands bytes to the line; says how many it took, 0 when nobody is at the other end."""

    def drained(self, timeout_s: float = 0.0) -> bool:
        """Whether the other end has taken all that the line took."""

    def unplug(self) -> None:
        """Breaks the connection."""

    def plug(self) -> None:
        """Makes it again."""

    def close(self) -> None:
        """Ends the use of the line."""


class Pty:
    """A pseudo-terminal behind a stable symlink: a USB serial device that can be unplugged.

    The receiver opens the symlink, as it would one under /dev/serial/by-id. The line is raw, does
    not echo, and, unlike a UART, keeps up to 4 KiB or more that nobody has read yet, also before
    the receiver opens it. Safe to use from several threads.
    """

    def __init__(self, link: Path | None = None) -> None:
        self.link = link
        self._lock = threading.Lock()
        self._master = self._slave = -1
        self.device = ""
        self.plug()

    @property
    def name(self) -> str:
        """What the receiver opens."""
        return self.device if self.link is None else str(self.link)

    @property
    def plugged(self) -> bool:
        """Whether the cable is in."""
        return self._master >= 0

    def plug(self, *, elsewhere: bool = False) -> None:
        """Makes a new pty and points the symlink at it; nothing happens when it is plugged in.

        Args:
            elsewhere: Take another /dev/pts number than before.

        Raises:
            LineError: When the symlink can't be made.
        """
        with self._lock:
            if self._master >= 0:
                return
            # No pty may become this process's controlling terminal: that one needs O_NOCTTY.
            master, slave = os.openpty()
            if elsewhere and os.ttyname(slave) == self.device:
                taken = (master, slave)
                master, slave = os.openpty()
                for descriptor in taken:
                    os.close(descriptor)
            tty.setraw(slave)
            os.set_blocking(master, False)
            device = os.ttyname(slave)
            try:
                self._point_link_to(device)
            except OSError as error:
                os.close(master)
                os.close(slave)
                raise LineError(f"cannot make the link {self.link}: {error.strerror}") from error
            # This end keeps the other one open too: the settings stay, and so do unread bytes.
            self._master, self._slave, self.device = master, slave, device

    def _point_link_to(self, device: str) -> None:
        if self.link is None:
            return
        if self.link.exists() and not self.link.is_symlink():
            raise LineError(
                f"{self.link} is there and is not a symlink: remove it or choose another"
            )
        fresh = self.link.with_name(f".{self.link.name}.{os.getpid()}")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(device)
        fresh.replace(self.link)

    def unplug(self) -> None:
        """Closes both ends and removes the symlink; what nobody has read yet is gone."""
        with self._lock:
            if self._master < 0:
                return
            if self.link is not None:
                with suppress(OSError):
                    if str(self.link.readlink()) == self.device:
                        self.link.unlink()
            os.close(self._slave)
            os.close(self._master)
            self._master = self._slave = -1

    close = unplug

    def write(self, data: bytes, timeout_s: float = 1.0) -> int:
        """Hands bytes to the line and never waits longer than the time-out.

        Returns:
            How many bytes the line took: 0 when the cable is out, fewer than given when nobody
            reads and the line is full. They reach the receiver, also one that opens later, unless
            the cable is pulled before `drained`.
        """
        done = 0
        deadline = time.monotonic() + timeout_s
        while done < len(data):
            with self._lock:
                if self._master < 0:
                    break
                _, writable, _ = select.select([], [self._master], [], 0.02)
                if writable:
                    with suppress(BlockingIOError):
                        done += os.write(self._master, data[done:])
            if done < len(data) and time.monotonic() >= deadline:
                break
        return done

    def drained(self, timeout_s: float = 0.0) -> bool:
        """Waits until the receiver has read all that the line took; true as well when unplugged."""
        deadline = time.monotonic() + timeout_s
        while True:
            with self._lock:
                # Asking whether the far end is readable makes the kernel first move to it what
                # is still under way inside, which its byte counters do not show.
                if self._slave < 0 or not select.select([self._slave], [], [], 0)[0]:
                    return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.005)


class SerialLine:
    """A real serial port, or one end of somebody else's pty pair."""

    def __init__(self, port: str, baud: int) -> None:
        self.name = port
        try:
            self._port = serial.serial_for_url(port, baudrate=baud, write_timeout=5)
        except (OSError, ValueError) as error:
            raise LineError(f"cannot open {port}: {error}") from error

    def write(self, data: bytes) -> int:
        """Hands bytes to the port."""
        try:
            self._port.write(data)
        except (OSError, termios.error) as error:
            raise LineLostError(f"{self.name} is gone: {error}") from error
        return len(data)

    def drained(self, timeout_s: float = 0.0) -> bool:
        """Whether the port has sent what it was given."""
        deadline = time.monotonic() + timeout_s
        try:
            while self._port.out_waiting and time.monotonic() < deadline:
                time.sleep(0.01)
            waiting = self._port.out_waiting
        except (OSError, termios.error):
            return False
        return not waiting

    def unplug(self) -> None:
        """A hand has to do it."""

    plug = unplug

    def close(self) -> None:
        """Closes the port."""
        self._port.close()


class SocketLine:
    """A TCP connection, made to a receiver or awaited from one; lost ones are made again."""

    _SIOCOUTQ = termios.TIOCOUTQ

    def __init__(self, host: str, port: int, *, listen: bool) -> None:
        self._address = (host, port)
        self._connection: socket.socket | None = None
        self._listener: socket.socket | None = None
        self._plugged = True
        try:
            if listen:
                self._listener = socket.create_server(self._address)
                self._address = self._listener.getsockname()[:2]
                self._listener.setblocking(False)
            else:
                self._connect()
        except OSError as error:
            verb = "listen on" if listen else "connect to"
            raise LineError(f"cannot {verb} {host}:{port}: {error.strerror or error}") from error
        self.name = f"socket://{self._address[0]}:{self._address[1]}"

    def _connect(self) -> None:
        if self._listener is None:
            self._connection = socket.create_connection(self._address, timeout=5)
        else:
            with suppress(BlockingIOError):
                self._connection, _ = self._listener.accept()
                self._connection.settimeout(5)

    def write(self, data: bytes) -> int:
        """Sends bytes; none when there is no receiver.

        Raises:
            LineLostError: When the receiver went away.
        """
        if not self._plugged:
            return 0
        if self._connection is None:
            with suppress(OSError):
                self._connect()
        if self._connection is None:
            return 0
        try:
            # A receiver says nothing: readable means that it has closed.
            if select.select([self._connection], [], [], 0)[0] and not self._connection.recv(4096):
                raise ConnectionResetError("closed by the receiver")
            self._connection.sendall(data)
        except OSError as error:
            self._drop()
            raise LineLostError(f"{self.name} lost its receiver: {error}") from error
        return len(data)

    def drained(self, timeout_s: float = 0.0) -> bool:
        """Whether the receiver's host has acknowledged all bytes."""
        deadline = time.monotonic() + timeout_s
        while self._connection is not None:
            try:
                waiting = fcntl.ioctl(self._connection, self._SIOCOUTQ, b"\0\0\0\0")
            except OSError:
                return False
            if struct.unpack("i", waiting)[0] == 0:
                return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.01)
        return True

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def unplug(self) -> None:
        """Closes the connection and makes no other."""
        self._plugged = False
        self._drop()

    def plug(self) -> None:
        """Allows connections again."""
        self._plugged = True

    def close(self) -> None:
        """Closes the connection and stops listening."""
        self._drop()
        if self._listener is not None:
            self._listener.close()


# --- the run ------------------------------------------------------------------------------------


class Command(Enum):
    """What the wait between two frames was ended by."""

    GO_ON = auto()
    UNPLUG = auto()
    PLUG = auto()
    STOP = auto()


@dataclass(slots=True)
class Summary:
    """What a run did."""

    packages: int = 0
    expected: int = 0


class _Journal:
    """Writes entries and remembers those whose bytes may still be on the line."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._on_line: list[Entry] = []

    def write(self, entry: Entry) -> None:
        self._file.write(entry.to_json() + "\n")
        self._file.flush()

    def sent(self, entry: Entry) -> None:
        self.write(entry)
        self._on_line.append(entry)

    def arrived(self) -> None:
        self._on_line.clear()

    def lost(self, fault: str) -> int:
        """Withdraws what was on the line; says how many expected packages that were."""
        for entry in self._on_line:
            self.write(replace(entry, expected=None, fault=fault))
        withdrawn = sum(1 for entry in self._on_line if entry.expected)
        self.arrived()
        return withdrawn


def run(
    source: Iterator[Frame],
    line: Line,
    journal: TextIO,
    step_s: float,
    wait: Callable[[float], Command],
) -> Summary:
    """Sends frames at their pace until there are no more or the wait says stop.

    Args:
        source: The frames.
        line: Where to.
        journal: The open journal; flushed after every entry.
        step_s: Seconds that one interval of `Frame.pause` takes.
        wait: Waits so many seconds, or until there is a command. The cable is pulled between
            packages only, and after the receiver had 5 s to read what is on the line.
    """
    notes = _Journal(journal)
    summary = Summary()
    due = time.monotonic()
    for frame in source:
        while (command := wait(max(0.0, due - time.monotonic()))) is not Command.GO_ON:
            if command is Command.STOP:
                break
            if command is Command.PLUG:
                line.plug()
                continue
            if line.drained(5):
                notes.arrived()
            summary.expected -= notes.lost("unplugged")
            line.unplug()
        if command is Command.STOP:
            break
        if line.drained():
            notes.arrived()
        try:
            taken = line.write(frame.data)
        except LineLostError:
            summary.expected -= notes.lost("lost")
            notes.write(replace(frame.entry, expected=None, fault="lost"))
        else:
            if taken == 0:
                notes.write(Entry(frame.entry.dev_id, frame.entry.packet, False, fault="unplugged"))
            elif taken < len(frame.data):
                notes.write(replace(frame.entry, expected=None, fault="cut off"))
            else:
                notes.sent(frame.entry)
                summary.expected += bool(frame.entry.expected)
        summary.packages += 1
        # After a stall the pace starts anew: no burst that nobody asked for.
        if time.monotonic() - due > step_s:
            due = time.monotonic()
        due += frame.pause * step_s
    with suppress(LineLostError):
        line.write(_CLOSING)
    if line.drained(10):
        notes.arrived()
    summary.expected -= notes.lost("not read")
    return summary


_SIGNALS: Final = {
    signal.SIGUSR1: Command.UNPLUG,
    signal.SIGUSR2: Command.PLUG,
    signal.SIGINT: Command.STOP,
    signal.SIGTERM: Command.STOP,
    signal.SIGHUP: Command.STOP,
}


def _wait_for_signal(seconds: float) -> Command:
    got = signal.sigtimedwait(_SIGNALS, seconds)
    return Command.GO_ON if got is None else _SIGNALS[signal.Signals(got.si_signo)]


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.removeprefix("socket://").rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host.strip("[]") or "127.0.0.1", int(port)


def _devices(text: str) -> tuple[str, ...]:
    if text.isdecimal():
        names = tuple(f"sim{number:02}" for number in range(1, int(text) + 1))
    else:
        names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if not (name.isascii() and name[:1].isalpha() and name.replace("-", "_").isidentifier()):
            raise argparse.ArgumentTypeError(
                f"{name!r} is no devID: a letter first, then letters, digits, - or _"
            )
    if not names or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError("at least one device is needed, and no name twice")
    return names


def _faults(text: str) -> tuple[str, ...]:
    names = FAULTS if text == "all" else tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in FAULTS:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(FAULTS)}, all")
    return names


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def _probability(text: str) -> float:
    number = _positive(text)
    if number > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not above 0 and at most 1")
    return number


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `unisat-agent simulate`."""
    parser.description = (
        "A satellite that is not there: sends PSoTT until it is stopped. "
        "SIGUSR1 pulls the cable, SIGUSR2 plugs it in again."
    )
    to = parser.add_mutually_exclusive_group()
    to.add_argument("--link", type=Path, help="make a pty and this symlink to it")
    to.add_argument("--port", help="send on this serial port")
    to.add_argument("--connect", type=_address, metavar="HOST:PORT", help="send over TCP")
    to.add_argument("--listen", type=_address, metavar="HOST:PORT", help="await a TCP receiver")
    parser.add_argument("--baud", type=int, default=9600, help="of --port (default: 9600)")
    parser.add_argument(
        "--devices", type=_devices, default=("sim01",), help="devIDs a,b,c, or how many"
    )
    parser.add_argument(
        "--interval", type=_positive, default=3.0, help="seconds between packages of a device (3)"
    )
    parser.add_argument("--speed", type=_positive, default=1.0, help="so many times faster (1)")
    parser.add_argument("--count", type=_count, help="end after so many packages in all")
    parser.add_argument("--seed", default="1", help="the same seed sends the same bytes (1)")
    parser.add_argument(
        "--faults", type=_faults, default=(), help=f"some of {','.join(FAULTS)}, or all"
    )
    parser.add_argument(
        "--probability", type=_probability, default=0.2, help="of a fault in a package (0.2)"
    )
    parser.add_argument("--journal", type=Path, help="write here what must be stored")


def _open_line(args: argparse.Namespace) -> Line:
    if args.port:
        return SerialLine(args.port, args.baud)
    if args.connect or args.listen:
        host, port = args.connect or args.listen
        return SocketLine(host, port, listen=bool(args.listen))
    return Pty(args.link)


def main(args: argparse.Namespace) -> int:
    """Runs the simulator; 0 when it ended as asked, 1 when it could not work."""
    # Blocked signals are taken up between two packages, so that none cuts one in half.
    old = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    line: Line | None = None
    try:
        line = _open_line(args)
        with _open_journal(args.journal) as journal:
            _say(f"sending on {line.name}")
            source = frames(args.devices, args.seed, args.faults, args.probability, args.interval)
            step_s = args.interval / args.speed / len(args.devices)
            summary = run(islice(source, args.count), line, journal, step_s, _wait_for_signal)
    except LineError as error:
        _say(str(error))
        return 1
    except OSError as error:
        _say(f"cannot write the journal {args.journal}: {error.strerror}")
        return 1
    finally:
        if line is not None:
            line.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
    _say(f"{summary.packages} packages sent, {summary.expected} of them to be stored")
    return 0


def _open_journal(path: Path | None) -> TextIO:
    return (path or Path(os.devnull)).open("w", encoding="utf-8")


def _say(text: str) -> None:
    sys.stderr.write(f"unisat-agent simulate: {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    _parser = argparse.ArgumentParser(prog="unisat-agent simulate")
    add_arguments(_parser)
    sys.exit(main(_parser.parse_args()))
