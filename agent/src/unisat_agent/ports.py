"""The ports that a device may hang on: listing them, opening one, hearing if it speaks PSoTT.

A port is a serial device (or a link to one, or a pseudo-terminal) or ``socket://host:port``.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import grp
import os
import pwd
import select
import socket
import stat
import termios
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

import serial
from serial.tools.list_ports import comports

from unisat_agent.config import PortSettings
from unisat_agent.errors import AgentError
from unisat_agent.psott import Decoder, Event, Package

SOCKET_SCHEME: Final = "socket://"
CONNECT_TIMEOUT_S: Final = 3.0
PROBE_S: Final = 10.0
# A port that sent one package may belong to a slow device: it gets this long for the second.
CONFIRM_S: Final = 60.0
PACKAGES_TO_BELIEVE: Final = 2
POLL_S: Final = 0.25
READ_BYTES: Final = 4096
# No serial line sends this much while it is probed; a socket could.
MAX_PROBE_BYTES: Final = 1 << 20
# A peer that vanished without a word (power cut) is noticed after about 25 s.
_KEEPALIVE: Final = (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
# The kernel's numbers for the device side of pseudo-terminals (UNIX98_PTY_SLAVE_MAJOR).
_PTY_MAJORS: Final = range(136, 144)


class PortError(AgentError):
    """A port can't be used now."""


class PortMissingError(PortError):
    """There is no port of that name."""


class PortDeniedError(PortError):
    """This user may not open the port."""


class PortBusyError(PortError):
    """Another program has the port open."""


class PortUnusableError(PortError):
    """The name is there, but it does not work as a serial port with these settings."""


class PortLostError(PortError):
    """The port went away while it was open: unplugged, or the peer hung up."""


@dataclass(frozen=True, slots=True)
class PortInfo:
    """A port that exists.

    Attributes:
        name: The most stable name that it has.
        device: The device node behind the name.
        description: What the device says of itself; empty when it says nothing.
    """

    name: str
    device: str
    description: str

    def __str__(self) -> str:
        return f"{self.name} ({self.description})" if self.description else self.name


def find(candidates: Iterable[str]) -> list[str]:
    """Names of existing ports that match the patterns, one name for each device.

    Args:
        candidates: File name patterns; the earlier one names a device that several match.
    """
    names: dict[str, str] = {}
    for pattern in candidates:
        # PTH207: Path.glob takes no absolute pattern.
        for name in sorted(glob.glob(pattern)):  # noqa: PTH207
            if Path(name).exists():
                names.setdefault(os.path.realpath(name), name)
    return list(names.values())


def list_ports(candidates: Iterable[str]) -> list[PortInfo]:
    """Every port an operator may want to name: the candidates, then what else the system knows."""
    known = {port.device: port for port in comports()}
    names = {os.path.realpath(name): name for name in find(candidates)}
    for device in sorted(known):
        names.setdefault(os.path.realpath(device), device)
    return [
        PortInfo(name, device, _description(known[device].description) if device in known else "")
        for device, name in names.items()
    ]


def _description(text: str | None) -> str:
    return "" if text in {None, "n/a"} else str(text)


class Port(ABC):
    """An open port.

    Attributes:
        name: The name that it was opened by.
        device: The device node behind the name at that time, or the socket's address.
    """

    def __init__(self, name: str, device: str) -> None:
        self.name = name
        self.device = device

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, timeout_s: float) -> bytes:
        """Waits for bytes and returns what has come; nothing after the time-out.

        Raises:
            PortLostError: The port is gone.
        """
        try:
            ready, _, _ = select.select([self.fileno()], [], [], timeout_s)
            return self._receive() if ready else b""
        # pyserial raises SerialException, which is an OSError, or lets a bare one through.
        except OSError as error:
            why = f" ({_why(error)})" if error.errno is not None else ""
            raise PortLostError(
                f"{self.name} is gone{why}: the device was unplugged or the other end hung up"
            ) from error

    @abstractmethod
    def fileno(self) -> int:
        """The file descriptor, for select."""

    @abstractmethod
    def moved(self) -> bool:
        """Whether the name stands for another device by now."""

    @abstractmethod
    def close(self) -> None:
        """Closes the port without resetting the board."""

    @abstractmethod
    def _receive(self) -> bytes: ...


class _Tty(serial.Serial):
    """A pyserial port that keeps the bytes which came before it was opened."""

    def _reset_input_buffer(self) -> None:
        """Keeps the input: pyserial's open() calls this to discard what is pending.

        What is pending may be the head of a package.
        """


class _SerialPort(Port):
    def __init__(self, name: str, settings: PortSettings) -> None:
        super().__init__(name, os.path.realpath(name))
        # Opened by the name, for a link may move between the two calls; exclusive: by flock,
        # which pyserial's other users heed.
        self._tty = _Tty(
            name,
            baudrate=settings.baud,
            bytesize=settings.bytesize,
            parity=settings.parity,
            stopbits=settings.stopbits,
            timeout=0,
            exclusive=True,
        )
        try:
            self._settle()
        except BaseException:
            self._tty.close()
            raise

    def _settle(self) -> None:
        descriptor = self._tty.fileno()
        attributes = termios.tcgetattr(descriptor)
        # With HUPCL the kernel drops DTR at the last close, and the next open would raise it
        # again: on an Arduino that edge is the reset button.
        attributes[2] &= ~termios.HUPCL
        termios.tcsetattr(descriptor, termios.TCSANOW, attributes)
        # Keeps out programs that do not heed flock (cat, the Arduino IDE's serial monitor), which
        # would steal bytes. Not on a pseudo-terminal: there the mark outlives a killed agent as
        # long as the other end is open, and would keep out the agent's next life too.
        if os.major(os.fstat(descriptor).st_rdev) not in _PTY_MAJORS:
            fcntl.ioctl(descriptor, termios.TIOCEXCL)

    def fileno(self) -> int:
        return int(self._tty.fileno())

    def moved(self) -> bool:
        try:
            return Path(self.name).stat().st_rdev != os.fstat(self.fileno()).st_rdev
        except OSError:
            # The name is away for the moment; reading tells whether the device is.
            return False

    def close(self) -> None:
        self._tty.close()

    def _receive(self) -> bytes:
        return bytes(self._tty.read(READ_BYTES))


class _SocketPort(Port):
    # Not pyserial's own socket://, which throws away what came before, leaks the socket when the
    # peer closed first, and never notices a peer that lost its power.
    def __init__(self, name: str) -> None:
        super().__init__(name, name.removeprefix(SOCKET_SCHEME))
        parts = urlsplit(name)
        if not parts.hostname or not parts.port:
            raise PortUnusableError(f'{name} is no port: write "socket://host:port"')
        self._socket = socket.create_connection((parts.hostname, parts.port), CONNECT_TIMEOUT_S)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            self._socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)

    def fileno(self) -> int:
        return self._socket.fileno()

    def moved(self) -> bool:
        return False

    def close(self) -> None:
        self._socket.close()

    def _receive(self) -> bytes:
        data = self._socket.recv(READ_BYTES)
        if not data:
            raise ConnectionResetError(errno.ECONNRESET, "the connection was closed")
        return data


def open_port(name: str, settings: PortSettings) -> Port:
    """Opens a port exclusively, keeps its pending input, and does not reset the board at close.

    Args:
        name: A device, a link to one, or ``socket://host:port``.
        settings: The speed and format; `candidates` are for the list of ports in an error.

    Raises:
        PortMissingError: There is no such port; the sentence lists those that exist.
        PortDeniedError: No permission.
        PortBusyError: Another program has it open.
        PortUnusableError: It is no serial port, or refuses the settings.
    """
    if name.startswith(SOCKET_SCHEME):
        try:
            return _SocketPort(name)
        except (OSError, ValueError) as error:
            raise PortMissingError(
                f"{name} does not answer ({_why(error)}): start the program at that end, or set "
                f"`port` to the right address"
            ) from error
    with _explained(name, settings):
        return _SerialPort(name, settings)


@contextmanager
def _explained(name: str, settings: PortSettings) -> Iterator[None]:
    """Turns what opening raises into a sentence for the operator."""
    try:
        yield
    except (OSError, ValueError, termios.error) as error:
        code = error.errno if isinstance(error, OSError) else None
        # EIO is what a pseudo-terminal gives while its other end is away.
        if code in {errno.ENOENT, errno.ENXIO, errno.ENODEV, errno.EIO}:
            others = ", ".join(map(str, list_ports(settings.candidates)))
            raise PortMissingError(
                f"there is no port {name}: plug the device in, or set `port` to one that exists "
                f"({others or 'there is none now'})"
            ) from error
        if code in {errno.EACCES, errno.EPERM}:
            raise PortDeniedError(_denied(name)) from error
        if code in {errno.EBUSY, errno.EAGAIN}:
            raise PortBusyError(
                f"another program has {name} open: close it there (`sudo fuser -v {name}` shows "
                f"which it is)"
            ) from error
        raise PortUnusableError(
            f"{name} does not work as a serial port ({_why(error)}): check `port`, `baud`, "
            f"`bytesize`, `parity` and `stopbits`"
        ) from error


def _denied(name: str) -> str:
    user = str(os.geteuid())
    group = "dialout"
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
        status = Path(name).stat()
        # The file's own group where it may read and write; else the one that serial ports have.
        if status.st_gid and status.st_mode & stat.S_IRGRP and status.st_mode & stat.S_IWGRP:
            group = grp.getgrgid(status.st_gid).gr_name
    except (OSError, KeyError):
        pass
    return (
        f"user {user} may not open {name}: add the user to the port's group "
        f"(`sudo usermod -aG {group} {user}`), then log in again or restart the service"
    )


def _why(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    # pyserial puts the tuple of termios's error into its own text.
    cause = error if isinstance(error, termios.error) else error.__context__
    return str(cause.args[1]) if isinstance(cause, termios.error) else str(error)


@dataclass(slots=True)
class Heard:
    """What a port said while it was probed.

    Attributes:
        packages: devID to the number of its packages.
        events: What was decoded, in order, each run with the moment that it came at (seconds, on
            the clock of the probe).
        size: How many bytes came.
        decoder: Holds the package that is still coming in.
    """

    packages: Counter[str] = field(default_factory=Counter)
    events: list[tuple[float, list[Event]]] = field(default_factory=list)
    size: int = 0
    decoder: Decoder = field(default_factory=Decoder)

    @property
    def speaks_psott(self) -> bool:
        """Whether one device sent enough packages to be no accident."""
        return any(count >= PACKAGES_TO_BELIEVE for count in self.packages.values())

    def __str__(self) -> str:
        if self.packages:
            return f"PSoTT from {', '.join(sorted(self.packages))}"
        if self.size:
            return "sends, but no PSoTT: another kind of device, or the wrong `baud`"
        return "silent"

    def take(self, data: bytes, now: float) -> None:
        """Decodes the bytes that came now."""
        self.size += len(data)
        events = self.decoder.feed(data)
        self.events.append((now, events))
        self.packages.update(event.dev_id for event in events if isinstance(event, Package))


def probe(
    port: Port,
    seconds: float = PROBE_S,
    *,
    confirm_s: float = CONFIRM_S,
    clock: Callable[[], float] = time.monotonic,
    go_on: Callable[[Heard], bool] = lambda _: True,
) -> Heard:
    """Listens until the port has shown that it speaks PSoTT, or the time is over.

    Args:
        port: The open port; it stays open, and nothing that was heard is lost.
        seconds: How long to wait for the first package.
        confirm_s: How long to wait for the second, counted from the first.
        clock: Seconds, monotonic.
        go_on: Asked several times a second, with what was heard so far; False ends the listening.

    Raises:
        PortLostError: The port went away.
    """
    heard = Heard()
    deadline = clock() + seconds
    while go_on(heard) and not heard.speaks_psott and heard.size < MAX_PROBE_BYTES:
        left = deadline - clock()
        if left <= 0:
            break
        data = port.read(min(left, POLL_S))
        if not data:
            continue
        now, known = clock(), bool(heard.packages)
        heard.take(data, now)
        if heard.packages and not known:
            deadline = max(deadline, now + confirm_s)
    return heard
