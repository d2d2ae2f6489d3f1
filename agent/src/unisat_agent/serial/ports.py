"""Opens a port by its name: a serial device or pseudo-terminal, socket:// or rfc2217://."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unisat_agent.config.model import PortSettings
from unisat_agent.serial.listing import PortInfo, find, list_ports
from unisat_agent.serial.port import (
    Port,
    PortBusyError,
    PortDeniedError,
    PortError,
    PortLostError,
    PortMissingError,
    PortUnusableError,
    reason_of,
)
from unisat_agent.serial.probe import Heard, probe
from unisat_agent.serial.tcp import RFC2217_SCHEME, SOCKET_SCHEME, Rfc2217Port, SocketPort
from unisat_agent.serial.tty import TtyPort

__all__ = [
    "Heard",
    "Port",
    "PortBusyError",
    "PortDeniedError",
    "PortError",
    "PortInfo",
    "PortLostError",
    "PortMissingError",
    "PortUnusableError",
    "find",
    "is_remote",
    "list_ports",
    "open_port",
    "probe",
]


def is_remote(name: str) -> bool:
    """Whether the port is behind a TCP address."""
    return name.startswith((SOCKET_SCHEME, RFC2217_SCHEME))


def open_port(name: str, settings: PortSettings) -> Port:
    """Opens a port exclusively, keeps its pending input, and does not reset the board at close.

    Args:
        name: A device, a link to one, ``socket://host:port`` or ``rfc2217://host:port``.
        settings: The speed and format; `candidates` are for the list of ports in an error.

    Raises:
        PortMissingError: There is no such port; the sentence lists those that exist.
        PortDeniedError: No permission.
        PortBusyError: Another program has it open.
        PortUnusableError: It is no serial port, or refuses the settings.
    """
    if is_remote(name):
        try:
            if name.startswith(RFC2217_SCHEME):
                return Rfc2217Port(name, settings)
            return SocketPort(name)
        except (OSError, ValueError) as error:
            raise PortMissingError(
                f"{name} does not answer ({reason_of(error)}): start the program at that end, or "
                f"set `port` to the right address"
            ) from error
    with _explained(name, settings):
        return TtyPort(name, settings)


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
            f"{name} does not work as a serial port ({reason_of(error)}): check `port`, `baud`, "
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
