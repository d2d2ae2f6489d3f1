"""An HTTP server that answers as told, for answers that a real Kinto can't be made to give.

Where nothing is told it is a tiny Kinto in memory (`rig.memory_kinto`), so a test scripts the one
odd answer and nothing else::

    with ScriptedServer() as server:
        server.then(Reply(503, headers={"Retry-After": "2"}), on="POST /v1/batch")
        server.then(HANG, on="POST /v1/batch", stored=True)   # stored, but the answer never comes
        server.then(Reply(409), on="PUT */records/0001")      # one request inside a batch
        deliver(server.url)                                    # "http://127.0.0.1:…/v1"
        assert server.batches()[0] == ["0001", "0002"]         # ids of the first batch
        assert set(server.records("u01kz")) == {"0001", "0002"}

Each script is used once (`times=None`: for ever); among those that match, the first told is used
first. A 409 inside a batch throws away what the batch stored before it while those answers still
say 201, as Kinto does; a 5xx inside a batch is the answer of the whole batch and stores nothing.
"""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from rig.memory_kinto import BATCH_MAX, MemoryKinto, Odd
from rig.replies import HANG, RESET, Fault, Json, Reply, Request, basic_user


@dataclass(slots=True)
class _Script:
    odd: Odd
    pattern: str
    left: int | None


Interceptor = tuple[Callable[[Request], bool], Callable[[Request], Reply | Fault]]


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True

    def shutdown_request(self, request: Any) -> None:
        """Closes at once: the base class's shutdown() would send FIN where RESET wants RST."""
        self.close_request(request)


class ScriptedServer:
    """The server; a context manager. One thread per connection, one request at a time answered.

    Args:
        create_missing: see MemoryKinto.
        batch_max: likewise.
        ingest: likewise.
        tls: makes it an HTTPS server.

    Attributes:
        requests: all requests so far, oldest first.
        connections: how many were opened so far.
        kinto: what answers where no script does.
    """

    def __init__(
        self,
        *,
        create_missing: bool = True,
        batch_max: int = BATCH_MAX,
        ingest: int | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self._scripts: list[_Script] = []
        self._interceptors: list[Interceptor] = []
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._scheme = "https" if tls else "http"
        outer = self

        class Handler(_Handler):
            scripted = outer

        self._http = _HttpServer(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._http.socket = tls.wrap_socket(self._http.socket, server_side=True)
        self.kinto = MemoryKinto(
            self._next_odd,
            self.port,
            create_missing=create_missing,
            batch_max=batch_max,
            ingest=ingest,
        )
        self._thread = threading.Thread(
            target=self._http.serve_forever, args=(0.05,), name="scripted", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def port(self) -> int:
        """The loopback port."""
        return int(self._http.server_address[1])

    @property
    def url(self) -> str:
        """The base URL, `/v1` included."""
        return f"{self._scheme}://127.0.0.1:{self.port}/v1"

    def then(
        self, answer: Reply | Fault, *, on: str = "*", times: int | None = 1, stored: bool = False
    ) -> None:
        """Adds a script.

        Args:
            answer: what to answer.
            on: pattern of `METHOD /path` (`*` matches anything); it is tried on each request that
                arrives and on each one inside a batch, `POST /v1/batch` itself first.
            times: how often; None for ever.
            stored: carry the request out before answering: an outcome the client can't know.
        """
        with self._lock:
            self._scripts.append(_Script(Odd(answer, stored), on, times))

    def intercept(
        self, matches: Callable[[Request], bool], answer: Callable[[Request], Reply | Fault]
    ) -> None:
        """Answers such requests by a function, for ever and before any script."""
        with self._lock:
            self._interceptors.append((matches, answer))

    def forget_scripts(self) -> None:
        """Drops all scripts: the faults heal."""
        with self._lock:
            self._scripts.clear()

    def batches(self) -> list[list[str]]:
        """The record ids of every batch so far."""
        with self._lock:
            return [
                [str(item["path"]).rsplit("/", 1)[-1] for item in request.body["requests"]]
                for request in self.requests
                if request.path.endswith("/batch") and isinstance(request.body, dict)
            ]

    def records(self, collection: str, bucket: str = "telemetry") -> dict[str, Json]:
        """What is stored in a collection, by id."""
        with self._lock:
            return dict(self.kinto.tree.get(bucket, {}).get(collection, {}))

    def respond(self, request: Request) -> Reply | Fault:
        """Decides on one request; called by the handler, under no lock."""
        with self._lock:
            self.requests.append(request)
            for matches, answer in self._interceptors:
                if matches(request):
                    return answer(request)
            odd = self._next_odd(f"{request.method} {request.path}")
            if odd is None:
                return self.kinto.answer(request)
            if odd.stored:
                self.kinto.answer(request)
            return odd.answer

    def wait_closed(self, seconds: float | None = None) -> bool:
        """Blocks until the server is closed (for HANG); True when it is."""
        return self._stop.wait(seconds)

    def _next_odd(self, line: str) -> Odd | None:
        for script in self._scripts:
            if fnmatchcase(line, script.pattern):
                if script.left is not None:
                    script.left -= 1
                    if script.left == 0:
                        self._scripts.remove(script)
                return script.odd
        return None


class _Handler(BaseHTTPRequestHandler):
    """Reads a request, asks the ScriptedServer, carries the answer or the fault out."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    scripted: ScriptedServer

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):
            return self._any_method
        raise AttributeError(name)

    def setup(self) -> None:
        super().setup()
        self.scripted.connections += 1

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Silent: the test reads `requests`."""

    def _any_method(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            body = json.loads(raw) if raw else None
        except ValueError:
            body = None
        headers = {k.lower(): v for k, v in self.headers.items()}
        user = basic_user(headers.get("authorization", ""))
        request = Request(time.monotonic(), self.command, self.path, headers, user, body, raw)
        answer = self.scripted.respond(request)
        if isinstance(answer, Fault):
            self._carry_out(answer)
        else:
            self._send(answer)

    def _carry_out(self, fault: Fault) -> None:
        self.close_connection = True
        if fault == HANG:
            self.scripted.wait_closed()
        elif fault == RESET:
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    def _send(self, reply: Reply) -> None:
        payload, content_type = reply.payload()
        length = len(payload) if reply.content_length is None else reply.content_length
        headers = {"Content-Type": content_type, "Content-Length": str(length), **reply.headers}
        if reply.close or reply.content_length is not None:
            self.close_connection = True
        self.send_response(reply.status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        try:
            for part in _parts(payload, reply.drip_s):
                self.wfile.write(part)
                if reply.drip_s and self.scripted.wait_closed(reply.drip_s):
                    return
        except OSError:
            self.close_connection = True  # the client gave up, which the test wanted to see


def _parts(payload: bytes, drip_s: float) -> Iterator[bytes]:
    if not drip_s:
        yield payload
        return
    for index in range(len(payload)):
        yield payload[index : index + 1]
