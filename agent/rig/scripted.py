"""An HTTP server that answers as told, for answers that a real Kinto can't be made to give.

Where nothing is told it behaves like a tiny in-memory Kinto (batch, PUT with `If-None-Match: *`,
lists with filters, heartbeat), so a test scripts the one odd answer and nothing else::

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

import base64
import copy
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

Json = dict[str, Any]

BATCH_MAX = 25
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "gt_": lambda have, want: have > want,
    "lt_": lambda have, want: have < want,
    "min_": lambda have, want: have >= want,
    "max_": lambda have, want: have <= want,
    "not_": lambda have, want: have != want,
    "in_": lambda have, want: have in want,
    "exclude_": lambda have, want: have not in want,
}


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, right or wrong.

    Attributes:
        status: the HTTP status.
        body: JSON object, text or bytes as they are; None gives a Kinto error or an empty object.
        headers: added to the answer; `Content-Type` here replaces the one that fits the body.
        content_length: announced instead of the true length (a wrong length).
        drip_s: seconds between the bytes of the body.
        close: ends the connection after the answer.
    """

    status: int = 200
    body: Json | str | bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    content_length: int | None = None
    drip_s: float = 0.0
    close: bool = False

    def json(self) -> Json:
        """The body as a sub-answer of a batch carries it."""
        if isinstance(self.body, dict):
            return self.body
        if self.status < 400:
            return {}
        return {"code": self.status, "errno": 999, "error": "scripted"}

    def payload(self) -> tuple[bytes, str]:
        """The body as bytes and its content type."""
        if isinstance(self.body, bytes):
            return self.body, "application/octet-stream"
        if isinstance(self.body, str):
            return self.body.encode(), "text/html; charset=utf-8"
        return json.dumps(self.json()).encode(), "application/json"


@dataclass(frozen=True, slots=True)
class Fault:
    """No answer at all: see HANG, RESET and CLOSE."""

    name: str


HANG = Fault("hang")  # the connection stays open and silent
RESET = Fault("reset")  # TCP RST
CLOSE = Fault("close")  # TCP FIN without an answer

PORTAL = Reply(200, "<!DOCTYPE html><html><body>Please log in to the network</body></html>")


def redirect(location: str, status: int = 302) -> Reply:
    """A redirect, as a captive portal sends it."""
    return Reply(status, "<html>moved</html>", {"Location": location})


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came.

    Attributes:
        at: seconds on the monotonic clock.
        user: from Basic auth, None without.
        body: the parsed JSON, None where there is none or it is not JSON.
    """

    at: float
    method: str
    path: str
    headers: Mapping[str, str]
    user: str | None
    body: Any
    raw: bytes


@dataclass(slots=True)
class _Script:
    answer: Reply | Fault
    pattern: str
    stored: bool
    left: int | None


class _WholeBatchError(Exception):
    def __init__(self, reply: Reply) -> None:
        self.reply = reply


def _basic_user(authorization: str) -> str | None:
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    return base64.b64decode(value).decode().partition(":")[0]


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True

    def shutdown_request(self, request: Any) -> None:
        """Closes at once: the base class's shutdown() would send FIN where RESET wants RST."""
        self.close_request(request)


class ScriptedServer:
    """The server; a context manager. One thread per connection, one request at a time answered.

    Attributes:
        requests: all requests so far, oldest first.
        tree: collections and records that the default behaviour stored, by bucket.
        create_missing: whether a PUT of a record makes bucket and collection by itself.
    """

    def __init__(self, *, create_missing: bool = True, batch_max: int = BATCH_MAX) -> None:
        self.requests: list[Request] = []
        self.tree: dict[str, dict[str, dict[str, Json]]] = {}
        self.create_missing = create_missing
        self.batch_max = batch_max
        self._scripts: list[_Script] = []
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._modified = 1_700_000_000_000
        outer = self

        class Handler(_Handler):
            scripted = outer

        self._http = _HttpServer(("127.0.0.1", 0), Handler)
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
        return f"http://127.0.0.1:{self.port}/v1"

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
            self._scripts.append(_Script(answer, on, stored, times))

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
            return dict(self.tree.get(bucket, {}).get(collection, {}))

    def respond(self, request: Request) -> Reply | Fault:
        """Decides on one request; called by the handler, under no lock."""
        with self._lock:
            self.requests.append(request)
            script = self._next_script(f"{request.method} {request.path}")
            if script is None:
                return self._default(request)
            if script.stored:
                self._default(request)
            return script.answer

    def wait_closed(self, seconds: float | None = None) -> bool:
        """Blocks until the server is closed (for HANG); True when it is."""
        return self._stop.wait(seconds)

    def _next_script(self, line: str) -> _Script | None:
        for script in self._scripts:
            if fnmatchcase(line, script.pattern):
                if script.left is not None:
                    script.left -= 1
                    if script.left == 0:
                        self._scripts.remove(script)
                return script
        return None

    # The default behaviour

    def _default(self, request: Request) -> Reply:
        parts = urlsplit(request.path)
        path = parts.path.removeprefix("/v1")
        if path in {"/", ""}:
            settings = {"batch_max_requests": self.batch_max, "readonly": False}
            body: Json = {"project_name": "scripted", "settings": settings}
            if request.user is not None:
                body["user"] = {"id": f"account:{request.user}"}
            return Reply(200, body)
        if path in {"/__heartbeat__", "/__lbheartbeat__"}:
            return Reply(200, {"storage": True, "permission": True, "cache": True})
        if path == "/batch":
            return self._batch(request)
        return self._resource(
            request.method, path, dict(parse_qsl(parts.query)), request.headers, request.body
        )

    def _batch(self, request: Request) -> Reply:
        body = request.body
        if not isinstance(body, dict) or not isinstance(body.get("requests"), list):
            return Reply(400)
        if len(body["requests"]) > self.batch_max:
            return Reply(400)
        defaults = body.get("defaults", {})
        before = copy.deepcopy(self.tree)
        try:
            answers = [self._item({**defaults, **item}, before) for item in body["requests"]]
        except _WholeBatchError as error:
            self.tree = before
            return error.reply
        return Reply(200, {"responses": answers})

    def _item(self, item: Json, before: dict[str, dict[str, dict[str, Json]]]) -> Json:
        path = str(item["path"])
        path = path if path.startswith("/v1/") else f"/v1{path}"
        method = str(item.get("method", "GET"))
        headers = {k.lower(): v for k, v in item.get("headers", {}).items()}
        script = self._next_script(f"{method} {path}")
        if script is None or script.stored:
            parts = urlsplit(path)
            query = dict(parse_qsl(parts.query))
            reply = self._resource(
                method, parts.path.removeprefix("/v1"), query, headers, item.get("body")
            )
        if script is not None:
            if isinstance(script.answer, Fault):
                raise _WholeBatchError(Reply(500))
            reply = script.answer
            if reply.status >= 500:
                raise _WholeBatchError(reply)
            if reply.status == 409:
                self.tree = copy.deepcopy(before)
        return {
            "status": reply.status,
            "path": path,
            "headers": {"Content-Type": "application/json", **reply.headers},
            "body": reply.json(),
        }

    def _resource(
        self, method: str, path: str, query: Json, headers: Mapping[str, str], body: Any
    ) -> Reply:
        names = path.strip("/").split("/")
        if names[0] != "buckets" or len(names) > 6 or names[2:3] not in ([], ["collections"]):
            return Reply(404)
        if len(names) == 5 and names[4] == "records":
            return self._list(method, path, names[1], names[3], query)
        if len(names) == 6 and names[4] == "records":
            return self._record(method, names, headers, body)
        known = self.tree.get(names[1], {} if self.create_missing else None)
        if len(names) == 2:
            return self._container(method, names[1], known is not None and names[1] in self.tree)
        if len(names) == 4:
            if known is None:
                return Reply(403)
            there = names[3] in known
            if method == "PUT":
                self.tree.setdefault(names[1], {}).setdefault(names[3], {})
            return self._container(method, names[3], there)
        if len(names) == 3 and method in {"GET", "HEAD"}:
            return Reply(200, {"data": [{"id": name} for name in sorted(known or {})]})
        return Reply(405)

    def _container(self, method: str, name: str, there: bool) -> Reply:
        if method == "PUT":
            self.tree.setdefault(name, {}) if not there else None
            return Reply(200 if there else 201, {"data": {"id": name}, "permissions": {}})
        return Reply(200, {"data": {"id": name}}) if there else Reply(404)

    def _record(
        self, method: str, names: list[str], headers: Mapping[str, str], body: Any
    ) -> Reply:
        bucket, collection, name = names[1::2]
        if self.create_missing:
            records = self.tree.setdefault(bucket, {}).setdefault(collection, {})
        else:
            if bucket not in self.tree:
                return Reply(403)
            if collection not in self.tree[bucket]:
                return Reply(404)
            records = self.tree[bucket][collection]
        existing = records.get(name)
        if method == "PUT":
            if existing is not None and headers.get("if-none-match") == "*":
                return Reply(412, {"code": 412, "errno": 114, "details": {"existing": existing}})
            if not isinstance(body, dict) or not isinstance(body.get("data"), dict):
                return Reply(400)
            self._modified += 1
            records[name] = {**body["data"], "id": name, "last_modified": self._modified}
            return Reply(201 if existing is None else 200, {"data": records[name]})
        if existing is None:
            return Reply(404)
        if method == "DELETE":
            del records[name]
        return Reply(200, {"data": existing})

    def _list(self, method: str, path: str, bucket: str, collection: str, query: Json) -> Reply:
        if collection not in self.tree.get(bucket, {}):
            return Reply(404)
        rows = [
            row
            for row in self.tree[bucket][collection].values()
            if all(_matches(row, key, value) for key, value in query.items())
        ]
        for key in reversed(query.get("_sort", "-last_modified").split(",")):
            rows.sort(key=lambda row, key=key: row.get(key.lstrip("-"), 0), reverse=key[0] == "-")  # type: ignore[misc]
        headers = {"ETag": f'"{self._modified}"'}
        if method == "HEAD":
            total = str(len(rows))
            return Reply(200, "", {**headers, "Total-Objects": total, "Total-Records": total})
        start = int(query.get("_token", 0))
        limit = int(query.get("_limit", 1000))
        if start + limit < len(rows):
            following = urlencode({**query, "_token": start + limit})
            headers["Next-Page"] = f"http://127.0.0.1:{self.port}/v1{path}?{following}"
        page = rows[start : start + limit]
        if "_fields" in query:
            wanted = {"id", "last_modified", *query["_fields"].split(",")}
            page = [{k: v for k, v in row.items() if k in wanted} for row in page]
        return Reply(200, {"data": page}, headers)


def _matches(row: Json, key: str, text: str) -> bool:
    if key.startswith("_"):
        return True
    for prefix, compare in _COMPARISONS.items():
        if key.startswith(prefix):
            have = row.get(key.removeprefix(prefix))
            if prefix in {"in_", "exclude_"}:
                return compare(have, [_native(part) for part in text.split(",")])
            return have is not None and compare(have, _native(text))
    return bool(row.get(key) == _native(text))


def _native(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


class _Handler(BaseHTTPRequestHandler):
    """Reads a request, asks the ScriptedServer, carries the answer or the fault out."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    scripted: ScriptedServer

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):
            return self._any_method
        raise AttributeError(name)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Silent: the test reads `requests`."""

    def _any_method(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            body = json.loads(raw) if raw else None
        except ValueError:
            body = None
        headers = {k.lower(): v for k, v in self.headers.items()}
        user = _basic_user(headers.get("authorization", ""))
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
