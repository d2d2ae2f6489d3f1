"""The status server: pages on loopback, each made by a function when it is asked for.

It knows no page by itself: `app` passes a route for each path.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Self
from urllib.parse import parse_qsl, urlsplit

from unisat_agent.errors import AgentError, SpoolError


@dataclass(frozen=True, slots=True)
class Page:
    """What a path answers."""

    body: bytes
    content_type: str
    status: int = HTTPStatus.OK


Route = Callable[[Mapping[str, str]], Page]
"""Makes a page from the query's parameters; a SpoolError becomes a 503."""


def json_page(content: object, status: int = HTTPStatus.OK) -> Page:
    """A page that is JSON."""
    return Page(json.dumps(content, indent=1).encode() + b"\n", "application/json", status)


class StatusServerError(AgentError):
    """The address of [status] can't be used."""


class StatusServer:
    """The HTTP server; a context manager.

    Args:
        listen: Address and port.
        routes: The function of each path.

    Raises:
        StatusServerError: The address is taken.
    """

    def __init__(self, listen: tuple[str, int], routes: Mapping[str, Route]) -> None:
        class Handler(_Handler):
            pass

        Handler.routes = routes
        try:
            self._server = _Server(listen, Handler)
        except OSError as error:
            raise StatusServerError(
                f"[status] listen {listen[0]}:{listen[1]} can't be used: {error.strerror}: "
                f"does another agent run? Else choose another port"
            ) from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.2,), name="status", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """Without the base's look-up of the host's name, which may wait for a name server."""
        TCPServer.server_bind(self)


class _Handler(BaseHTTPRequestHandler):
    routes: Mapping[str, Route]
    timeout = 10

    def do_GET(self) -> None:
        """Answers with a page, or with 503 where the spool can't be read just now."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """Answers with the head of the page."""
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        page = self._page()
        with contextlib.suppress(OSError):
            self.send_response(page.status)
            self.send_header("Content-Type", page.content_type)
            self.send_header("Content-Length", str(len(page.body)))
            self.end_headers()
            if with_body:
                self.wfile.write(page.body)

    def _page(self) -> Page:
        url = urlsplit(self.path)
        route = self.routes.get(url.path)
        if route is None:
            return json_page({"pages": sorted(self.routes)}, HTTPStatus.NOT_FOUND)
        try:
            return route(dict(parse_qsl(url.query)))
        except SpoolError as error:
            body = {"health": "failed", "problems": [str(error)]}
            return json_page(body, HTTPStatus.SERVICE_UNAVAILABLE)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Logs nothing: a probe every few seconds is no news."""
