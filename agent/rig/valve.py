"""The network between agent and hub: a TCP proxy that can be cut, stalled, or lie.

    with Valve("127.0.0.1", hub_port) as valve:
        url = f"http://127.0.0.1:{valve.port}/v1"
        valve.set(Mode.CUT)           # resets what is open, refuses what is new
        valve.set(Mode.BLACK_HOLE)    # accepts, swallows, never answers; open connections stall
        valve.set(Mode.HTML)          # a captive portal: 200 text/html to every request
        valve.set(Mode.OPEN)          # connections that lost bytes meanwhile are reset

The valve runs in a thread of its own and may be switched from any other.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from contextlib import suppress
from enum import Enum
from types import TracebackType
from typing import Self

from rig import reserve_port

_PORTAL_PAGE = b"<!DOCTYPE html><html><head><title>Welcome</title></head><body>Log in</body></html>"
_PORTAL_ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(_PORTAL_PAGE), _PORTAL_PAGE)
)
_READ_BYTES = 65536


class Mode(Enum):
    """What the valve does with a connection."""

    OPEN = "open"
    CUT = "cut"
    BLACK_HOLE = "black hole"
    HTML = "html"


class Valve:
    """Listens on a free port of 127.0.0.1 and forwards to a target, as its mode allows.

    Attributes:
        port: Where it listens; the same in every mode.
        mode: The mode in force.
        accepted: How many connections it has accepted.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        # Keeps the port while nothing listens on it, so that the kernel refuses connections.
        self._holder = reserve_port()
        self.port: int = self._holder.getsockname()[1]
        self.mode = Mode.CUT
        self.accepted = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="valve", daemon=True)
        self._thread.start()
        self.set(Mode.OPEN)

    def set(self, mode: Mode) -> None:
        """Changes the mode; returns once it is in force."""
        asyncio.run_coroutine_threadsafe(self._set(mode), self._loop).result(10)

    def close(self) -> None:
        """Cuts for good and gives the port back."""
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        self._holder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def _set(self, mode: Mode) -> None:
        if mode is self.mode:
            return
        self.mode = mode
        if mode is not Mode.BLACK_HOLE:
            for writer in self._writers:
                _reset(writer)
            self._writers.clear()
            # The transports close their sockets in the next turn of the loop.
            await asyncio.sleep(0)
        if mode is Mode.CUT and self._server is not None:
            self._server.close()
            self._server = None
        elif mode is not Mode.CUT and self._server is None:
            self._server = await asyncio.start_server(self._serve, sock=self._listen())

    def _listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        return listener

    async def _end(self) -> None:
        await self._set(Mode.CUT)
        # With their connections reset, the others come to their end by themselves.
        if others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others, timeout=5)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self._writers.add(writer)
        with suppress(OSError, ValueError, asyncio.IncompleteReadError):
            if self.mode is Mode.CUT:
                _reset(writer)
            elif self.mode is Mode.HTML:
                await _answer_portal_page(reader, writer)
            elif self.mode is Mode.BLACK_HOLE:
                await self._pump(reader, writer)
            else:
                await self._relay(reader, writer)
        self._forget(writer)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target_reader, target_writer = await asyncio.open_connection(*self._target)
        self._writers.add(target_writer)
        back = asyncio.create_task(self._pump(target_reader, writer))
        try:
            if writer.transport.is_closing():
                _reset(target_writer)
            await self._pump(reader, target_writer)
            await back
        finally:
            back.cancel()
            self._forget(target_writer)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carries bytes one way until the end of the stream, and hands that end on, as it came."""
        with suppress(OSError):
            while data := await self._read(reader, writer):
                if self.mode is not Mode.BLACK_HOLE:
                    writer.write(data)
                    await writer.drain()
            if self.mode is not Mode.BLACK_HOLE and writer.can_write_eof():
                writer.write_eof()

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        try:
            return await reader.read(_READ_BYTES)
        except ConnectionResetError:
            # As of a server that was killed with a request unread: else it looks like silence.
            if self.mode is not Mode.BLACK_HOLE:
                _reset(writer)
            raise

    def _forget(self, writer: asyncio.StreamWriter) -> None:
        self._writers.discard(writer)
        writer.close()


async def _answer_portal_page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            # An unread body would turn the close into a reset, and the page would be lost.
            await reader.readexactly(int(value))
    writer.write(_PORTAL_ANSWER)
    await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Ends a connection with a reset, as a router that lost its state does."""
    with suppress(OSError):
        writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
    writer.transport.abort()
