"""A thin Kinto client for the delivery path: one request out, one answer or one error back.

It knows nothing of records. Whatever leaves the outcome unknown (time-out, reset, a log-in page,
half an answer) is a TransportError; everything else is an Answer, whatever its status. A refusal
(4xx, 5xx) is one whatever its body is: proxies and firewalls answer with pages of their own.
Connections are kept; connecting, each wait and the whole request have time-outs.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Self
from urllib.parse import urlsplit

from unisat_agent import __version__
from unisat_agent.config.model import SinkSettings
from unisat_agent.delivery.channel import Channel
from unisat_agent.delivery.requests import RequestLog
from unisat_agent.errors import AgentError

MAX_ANSWER_BYTES = 16 * 1024 * 1024
MAX_WAIT_S = 300.0
# Routers forget silent connections, the strictest of them after a minute.
IDLE_MAX_S = 50.0
# 511: a network that asks for a log-in says so.
_LOGIN_REQUIRED = 511


class TransportError(AgentError):
    """No answer that can be believed: the request may or may not have been carried out."""

    late = False
    """Whether it was sent, and no answer came in time."""


@dataclass(frozen=True, slots=True)
class Answer:
    """HTTP status, headers by lower-case name, and the JSON body; None where it is no JSON."""

    status: int
    headers: Mapping[str, str]
    body: Any

    def wait_s(self) -> float | None:
        """Seconds that the server asks to stay away (Retry-After, Backoff), at most MAX_WAIT_S."""
        return asked_wait_s(self.headers)

    @property
    def by_kinto(self) -> bool:
        """Whether the error is Kinto's own, and not of something in front of it."""
        return isinstance(self.body, dict) and "code" in self.body

    def words(self) -> str:
        """The error in words, for a log."""
        if isinstance(self.body, dict):
            text = self.body.get("message") or self.body.get("error") or ""
            # Kinto's sentences end in a full stop, and are parts of others here.
            return f"{self.status} {text}".strip().removesuffix(".")
        kind = self.headers.get("content-type", "").partition(";")[0]
        return f"{self.status} ({kind}, not of Kinto)" if kind == "text/html" else str(self.status)


def asked_wait_s(headers: Mapping[str, str]) -> float | None:
    """Seconds from Retry-After or Backoff, whichever is longer; None where neither is given.

    A date in Retry-After is measured against the server's own Date, so that the clock of a host
    without a real-time clock does not matter.
    """
    waits: list[float] = []
    for name in ("retry-after", "backoff"):
        text = headers.get(name)
        if text is None:
            continue
        try:
            waits.append(float(text))
        except ValueError:
            with contextlib.suppress(KeyError, TypeError, ValueError):
                until = parsedate_to_datetime(text)
                waits.append((until - parsedate_to_datetime(headers["date"])).total_seconds())
    if not waits:
        return None
    return min(max(0.0, *waits), MAX_WAIT_S)


class KintoClient:
    """One connection to one Kinto, for one thread; `abort` alone may be called from another.

    Args:
        settings: Where it is, and the account.
        monotonic: Seconds that never jump.
    """

    def __init__(
        self, settings: SinkSettings, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.settings = settings
        self._monotonic = monotonic
        parts = urlsplit(settings.url)
        self._tls = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._tls else 80)
        self._root = parts.path.rstrip("/")
        token = base64.b64encode(f"{settings.user}:{settings.password}".encode()).decode()
        self._headers = {
            "Authorization": f"Basic {token}",
            "Accept": "application/json",
            "User-Agent": f"unisat-agent/{__version__}",
        }
        self._connection: http.client.HTTPConnection | None = None
        self._channel: Channel | None = None
        self._used_at = 0.0
        self._cut = False
        self.log = RequestLog()
        """The requests so far."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def root(self) -> str:
        """The path of the API's root on the server, as "/v1"."""
        return self._root

    def request(
        self,
        method: str,
        path: str,
        body: object | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Sends one request and reads its answer.

        Args:
            method: The HTTP method.
            path: The path under the API's root, as "/batch"; the query included.
            body: Sent as JSON.
            headers: Further headers.

        Raises:
            TransportError: The outcome is unknown.
        """
        content = None if body is None else json.dumps(body, allow_nan=False).encode()
        sent = dict(self._headers) | dict(headers or {})
        if content is not None:
            sent["Content-Type"] = "application/json"
        return self.send(method, path, content, sent)

    def send(
        self, method: str, path: str, content: bytes | None, headers: Mapping[str, str]
    ) -> Answer:
        """Like `request`, with a body that is ready to be sent."""
        sent = dict(self._headers) | dict(headers)
        started = self._monotonic()
        if started - self._used_at > IDLE_MAX_S:
            self.close()
        deadline = started + 2 * self.settings.read_timeout_s
        reused = self._connection is not None
        self._cut = False
        try:
            return self._exchange(method, path, content, sent, deadline)
        except TransportError as error:
            # The server may have closed an idle connection, or a router forgotten it; every request
            # here can be repeated.
            gone = (http.client.RemoteDisconnected, ConnectionError, TimeoutError)
            if not reused or self._cut or not isinstance(error.__cause__, gone):
                raise
        return self._exchange(method, path, content, sent, deadline)

    def close(self) -> None:
        """Closes the connection; the next request opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def abort(self) -> None:
        """Ends the request that another thread is waiting for."""
        self._cut = True
        channel = self._channel
        if channel is not None:
            channel.shutdown()

    def _exchange(
        self,
        method: str,
        path: str,
        content: bytes | None,
        headers: Mapping[str, str],
        deadline: float,
    ) -> Answer:
        started, status = self._monotonic(), None
        try:
            answer = self._converse(method, path, content, headers, deadline)
            status = answer.status
        except (OSError, http.client.HTTPException, ValueError) as error:
            failure = TransportError(self._failure(error))
            failure.late = isinstance(error, TimeoutError) and self._connection is not None
            self.close()
            raise failure from error
        except TransportError:
            self.close()
            raise
        finally:
            self._used_at = self._monotonic()
            self.log.note(self._used_at - started, status)
        return answer

    def _converse(
        self,
        method: str,
        path: str,
        content: bytes | None,
        headers: Mapping[str, str],
        deadline: float,
    ) -> Answer:
        connection, channel = self._connect()
        channel.deadline = deadline
        # A proxy may refuse a large body before it has read it, and close: its answer is there.
        with contextlib.suppress(BrokenPipeError):
            connection.request(method, self._root + path, body=content, headers=dict(headers))
        response = connection.getresponse()
        raw = response.read(MAX_ANSWER_BYTES + 1)
        if len(raw) > MAX_ANSWER_BYTES:
            raise TransportError(f"{self._name}: the answer is larger than {MAX_ANSWER_BYTES} B")
        if response.length:
            # read() with a limit says nothing of an answer that is shorter than announced.
            raise TransportError(f"{self._name}: the answer is cut off")
        found = {name.lower(): value for name, value in response.getheaders()}
        if response.will_close:
            self.close()
        return self._answer(response.status, found, None if method == "HEAD" else raw)

    def _answer(self, status: int, headers: Mapping[str, str], raw: bytes | None) -> Answer:
        """Tells a refusal, whatever its body is, from what nobody at the other end has decided."""
        if 300 <= status < 400 and status != 304:
            raise TransportError(
                f"{self._name}: answers with a redirect to {headers.get('location', 'nowhere')}: "
                f"correct the url, or log in to the network that asks for it"
            )
        if not raw:
            return Answer(status, headers, None)
        is_json = "json" in headers.get("content-type", "")
        if status >= 400 and status != _LOGIN_REQUIRED:
            body = None
            if is_json:
                with contextlib.suppress(ValueError):
                    body = json.loads(raw)
            return Answer(status, headers, body)
        if not is_json:
            raise TransportError(
                f"{self._name}: the answer ({status}) is "
                f"{headers.get('content-type', 'of no type')}, not Kinto's JSON: the url is not a "
                f"Kinto's, or the network asks for a login"
            )
        return Answer(status, headers, json.loads(raw))

    def _connect(self) -> tuple[http.client.HTTPConnection, Channel]:
        if self._connection is not None and self._channel is not None:
            return self._connection, self._channel
        timeout = self.settings.connect_timeout_s
        connection: http.client.HTTPConnection
        if self._tls:
            connection = http.client.HTTPSConnection(
                self._host, self._port, timeout=timeout, context=self._tls_context()
            )
        else:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=timeout)
        connection.connect()
        channel = Channel(connection.sock, self._monotonic, self.settings.read_timeout_s)
        connection.sock = channel
        self._connection, self._channel = connection, channel
        return connection, channel

    def _tls_context(self) -> ssl.SSLContext:
        ca_file = self.settings.ca_file
        try:
            return ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
        except OSError as error:
            raise TransportError(
                f"{self._name}: ca_file {ca_file} holds no certificate that can be used: {error}"
            ) from error

    @property
    def _name(self) -> str:
        return self.settings.url

    def _failure(self, error: Exception) -> str:
        """One sentence for the operator."""
        if isinstance(error, ssl.SSLCertVerificationError):
            return (
                f"{self._name}: the server's certificate is not trusted "
                f"({error.verify_message}): set ca_file, or check the clock of this host"
            )
        if isinstance(error, TimeoutError):
            return f"{self._name}: no answer in time"
        if isinstance(error, socket.gaierror):
            return f"{self._name}: the host name {self._host} can't be resolved"
        if isinstance(error, ConnectionRefusedError):
            return f"{self._name}: nothing listens there"
        if isinstance(error, OSError) and error.strerror:
            return f"{self._name}: {error.strerror}"
        return f"{self._name}: {type(error).__name__}: {error}".rstrip(": ")
