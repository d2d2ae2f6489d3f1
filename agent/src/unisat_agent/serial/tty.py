"""A port of this host: a serial device, a link to one, or a pseudo-terminal."""

from __future__ import annotations

import fcntl
import os
import termios
from pathlib import Path
from typing import Final

import serial

from unisat_agent.config.model import PortSettings
from unisat_agent.serial.port import Port

READ_BYTES: Final = 4096
# The kernel's numbers for the device side of pseudo-terminals (UNIX98_PTY_SLAVE_MAJOR).
_PTY_MAJORS: Final = range(136, 144)


class _Tty(serial.Serial):
    """A pyserial port that keeps the bytes which came before it was opened."""

    def _reset_input_buffer(self) -> None:
        """Keeps the input: pyserial's open() calls this to discard what is pending.

        What is pending may be the head of a package.
        """


class TtyPort(Port):
    """A serial device, opened exclusively; closing it does not reset the board."""

    def __init__(self, name: str, settings: PortSettings) -> None:
        super().__init__(name, os.path.realpath(name))
        # Opened by the name, for a link may move between the two calls; exclusive: by flock,
        # which pyserial's other users heed.
        self._tty = _Tty(
            None,
            baudrate=settings.baud,
            bytesize=settings.bytesize,
            parity=settings.parity,
            stopbits=settings.stopbits,
            timeout=0,
            exclusive=True,
            rtscts=settings.rtscts,
            xonxoff=settings.xonxoff,
        )
        self._tty.port = name
        if not settings.dtr:
            # Both lines: on many boards the two together pull reset or the boot pin.
            self._tty.dtr = False
            self._tty.rts = False
        self._tty.open()
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
        # A BREAK is no byte of the device.
        attributes[0] |= termios.IGNBRK
        termios.tcsetattr(descriptor, termios.TCSANOW, attributes)
        # Keeps out programs that do not heed flock (cat, the Arduino IDE's serial monitor), which
        # would steal bytes. Not on a pseudo-terminal: there the mark outlives a killed agent as
        # long as the other end is open, and would keep out the agent's next life too.
        if os.major(os.fstat(descriptor).st_rdev) not in _PTY_MAJORS:
            fcntl.ioctl(descriptor, termios.TIOCEXCL)

    def fileno(self) -> int:
        """The device's file descriptor."""
        return int(self._tty.fileno())

    def moved(self) -> bool:
        """Whether the name stands for another device by now."""
        try:
            return Path(self.name).stat().st_rdev != os.fstat(self.fileno()).st_rdev
        except OSError:
            # The name is away for the moment; reading tells whether the device is.
            return False

    def close(self) -> None:
        """Closes the device and leaves DTR as it is."""
        self._tty.close()

    def _receive(self) -> bytes:
        return bytes(self._tty.read(READ_BYTES))
