"""An open port, whatever is behind it, and what can go wrong with one."""

from __future__ import annotations

import os
import select
import termios
from abc import ABC, abstractmethod
from typing import Self

from unisat_agent.errors import AgentError


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
            why = f" ({reason_of(error)})" if error.errno is not None else ""
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


def reason_of(error: BaseException) -> str:
    """The system's own words for an error, without Python's."""
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    # pyserial puts the tuple of termios's error into its own text.
    cause = error if isinstance(error, termios.error) else error.__context__
    return str(cause.args[1]) if isinstance(cause, termios.error) else str(error)
