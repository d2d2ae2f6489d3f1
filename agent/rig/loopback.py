"""A small HTTP server of the rig: on loopback alone, and for browsers that asked for loopback."""

from __future__ import annotations

import threading
from collections.abc import Callable
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self


class LoopbackServer:
    """Serves until it is left; a context manager.

    Args:
        port: Where to listen on loopback; 0 takes a free port.
        handler: Makes the handler of a request.

    Raises:
        OSError: The port is taken.
    """

    def __init__(self, port: int, handler: Callable[..., BaseHTTPRequestHandler]) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def asks_for_loopback(headers: Message) -> bool:
    """Whether the Host is an address of loopback: a foreign page's name that leads here is not."""
    return headers.get("Host", "").rpartition(":")[0] in {"127.0.0.1", "localhost"}
