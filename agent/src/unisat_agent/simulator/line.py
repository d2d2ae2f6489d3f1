"""The lines that carry a simulated satellite's bytes: a pty, a serial port, a socket.

Each can be unplugged and plugged in again, and tells whether the other end has taken everything.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import termios
import threading
import time
import tty
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import serial


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
