"""A port behind a TCP address: raw bytes (socket://), or a serial server's own port (rfc2217://)."""

from __future__ import annotations

import errno
import socket
from typing import Final
from urllib.parse import urlsplit

from unisat_agent.config.model import PortSettings
from unisat_agent.serial.port import Port, PortUnusableError
from unisat_agent.serial.telnet import Telnet

SOCKET_SCHEME: Final = "socket://"
RFC2217_SCHEME: Final = "rfc2217://"
CONNECT_TIMEOUT_S: Final = 3.0
READ_BYTES: Final = 4096
# A peer that vanished without a word (power cut) is noticed after about 25 s.
_KEEPALIVE: Final = (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))


class SocketPort(Port):
    """Raw bytes over TCP."""

    # Not pyserial's own socket://, which throws away what came before, leaks the socket when the
    # peer closed first, and never notices a peer that lost its power.
    scheme = SOCKET_SCHEME

    def __init__(self, name: str) -> None:
        super().__init__(name, name.removeprefix(self.scheme))
        parts = urlsplit(name)
        if not parts.hostname or not parts.port:
            raise PortUnusableError(f'{name} is no port: write "{self.scheme}host:port"')
        self._socket = socket.create_connection((parts.hostname, parts.port), CONNECT_TIMEOUT_S)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            self._socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)

    def fileno(self) -> int:
        """The socket."""
        return self._socket.fileno()

    def moved(self) -> bool:
        """Never: the address is the name."""
        return False

    def close(self) -> None:
        """Closes the connection."""
        self._socket.close()

    def _receive(self) -> bytes:
        data = self._socket.recv(READ_BYTES)
        if not data:
            raise ConnectionResetError(errno.ECONNRESET, "the connection was closed")
        return data


class Rfc2217Port(SocketPort):
    """A serial server's port: the server sets speed and format as the configuration says."""

    scheme = RFC2217_SCHEME

    def __init__(self, name: str, settings: PortSettings) -> None:
        super().__init__(name)
        self._telnet = Telnet(settings)
        try:
            self._socket.sendall(self._telnet.opening())
        except BaseException:
            self._socket.close()
            raise

    def _receive(self) -> bytes:
        data, answer = self._telnet.take(super()._receive())
        if answer:
            self._socket.sendall(answer)
        return data
