"""A socket whose exchange as a whole has a deadline, without a timer thread of its own.

A socket's time-out starts anew with every byte. Here each single wait is cut to what is left of the
whole request, so that a server that drips can't hold a thread for ever.
"""

from __future__ import annotations

import contextlib
import io
import socket
from collections.abc import Callable
from typing import Any

_CHUNK_BYTES = 65536
# A router that forgot the connection answers nothing: the kernel asks it before somebody waits.
_KEEPALIVE_IDLE_S = 20
_KEEPALIVE_INTERVAL_S = 10
_KEEPALIVE_COUNT = 3
# What was sent and not even acknowledged by the other kernel after so long, never will be.
_UNACKNOWLEDGED_MS = 15_000


class Channel:
    """What `http.client` uses of a socket.

    Args:
        sock: Connected.
        monotonic: Seconds that never jump.
        wait_s: How long a single wait may take.
    """

    def __init__(self, sock: socket.socket, monotonic: Callable[[], float], wait_s: float) -> None:
        self._sock = sock
        self._monotonic = monotonic
        self._wait_s = wait_s
        self.deadline = 0.0
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_INTERVAL_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_COUNT)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS)

    def arm(self) -> None:
        """Before a wait.

        Raises:
            TimeoutError: The deadline is over.
        """
        left = self.deadline - self._monotonic()
        if left <= 0:
            raise TimeoutError("the whole request took too long")
        self._sock.settimeout(min(self._wait_s, left))

    def sendall(self, data: bytes) -> None:
        """Sends everything before the deadline."""
        view = memoryview(data)
        for start in range(0, len(view), _CHUNK_BYTES):
            self.arm()
            self._sock.sendall(view[start : start + _CHUNK_BYTES])

    def makefile(self, mode: str = "rb", *_: Any, **__: Any) -> io.BufferedReader:
        """The other direction, read before the deadline."""
        assert mode == "rb"  # noqa: S101 - http.client writes by sendall()
        return io.BufferedReader(_Reader(self, self._sock.makefile("rb", buffering=0)))

    def close(self) -> None:
        """Closes the socket, once no reader of it is left."""
        self._sock.close()

    def shutdown(self) -> None:
        """Ends whatever another thread waits for on it."""
        with contextlib.suppress(OSError):
            # Not sock.shutdown(): a TLS socket would drop its state under the other thread.
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)


class _Reader(io.RawIOBase):
    def __init__(self, channel: Channel, raw: socket.SocketIO) -> None:
        self._channel = channel
        self._raw = raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._channel.arm()
        # After a time-out SocketIO refuses to be read again; the connection is given up then.
        return self._raw.readinto(buffer)

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()
