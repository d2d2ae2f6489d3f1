"""A thin Kinto client for the delivery path: one request out, one answer or one error back.

It knows nothing of records. Whatever leaves the outcome unknown (time-out, reset, a web page of a
captive portal, half an answer) is a TransportError; everything else is an Answer, whatever its
status. Connections are kept alive; connect, read and the whole request have time-outs.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import socket
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Self
from urllib.parse import urlsplit

from unisat_agent import __version__
from unisat_agent.config import SinkSettings
from unisat_agent.errors import AgentError

MAX_ANSWER_BYTES = 16 * 1024 * 1024
MAX_WAIT_S = 300.0


class TransportError(AgentError):
    """No answer that can be believed: the request may or may not have been carried out."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What Kinto said: HTTP status, headers by lower-case name, the parsed JSON body."""

    status: int
    headers: Mapping[str, str]
    body: Any

    def wait_s(self) -> float | None:
        """Seconds that the server asks to stay away (Retry-After, Backoff), at most MAX_WAIT_S."""
        return asked_wait_s(self.headers)

    def words(self) -> str:
        """The error in words, for a log."""
        if isinstance(self.body, dict):
            said = self.body.get("message") or self.body.get("error") or ""
            return f"{self.status} {said}".strip()
        return str(self.status)


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
    """One connection to one Kinto, for one thread; `abort` alone may be called from another."""

    def __init__(self, settings: SinkSettings) -> None:
        self.settings = settings
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
        self._cut = False

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
        reused = self._connection is not None
        self._cut = False
        try:
            return self._exchange(method, path, content, sent)
        except TransportError as error:
            # The server may have closed the idle connection; every request here can be repeated.
            closed = (http.client.RemoteDisconnected, ConnectionError)
            if not reused or self._cut or not isinstance(error.__cause__, closed):
                raise
        return self._exchange(method, path, content, sent)

    def alive(self) -> bool:
        """Whether Kinto and all its backends answer (`__heartbeat__`)."""
        try:
            return self.request("GET", "/__heartbeat__").status == 200
        except TransportError:
            return False

    def close(self) -> None:
        """Closes the connection; the next request opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def abort(self) -> None:
        """Ends the request that another thread is waiting for."""
        self._cut = True
        connection = self._connection
        sock = connection.sock if connection is not None else None
        if sock is not None:
            with contextlib.suppress(OSError):
                # Not sock.shutdown(): a TLS socket would drop its state under the other thread.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def _exchange(
        self, method: str, path: str, content: bytes | None, headers: Mapping[str, str]
    ) -> Answer:
        try:
            return self._converse(method, path, content, headers)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            raise TransportError(self._failure(error)) from error
        except TransportError:
            self.close()
            raise

    def _converse(
        self, method: str, path: str, content: bytes | None, headers: Mapping[str, str]
    ) -> Answer:
        connection = self._connect()
        read_s = self.settings.read_timeout_s
        # The socket's time-out starts anew with every byte; this one bounds a server that drips.
        overdue = threading.Timer(2 * read_s, self.abort)
        overdue.daemon = True
        overdue.start()
        try:
            connection.request(method, self._root + path, body=content, headers=dict(headers))
            response = connection.getresponse()
            raw = response.read(MAX_ANSWER_BYTES + 1)
        finally:
            overdue.cancel()
        if len(raw) > MAX_ANSWER_BYTES:
            raise TransportError(f"{self._name}: the answer is larger than {MAX_ANSWER_BYTES} B")
        if response.length:
            # read() with a limit says nothing of an answer that is shorter than announced.
            raise TransportError(f"{self._name}: the answer is cut off")
        found = {name.lower(): value for name, value in response.getheaders()}
        if response.will_close:
            self.close()
        if 300 <= response.status < 400 and response.status != 304:
            raise TransportError(
                f"{self._name}: answers with a redirect to {found.get('location', 'nowhere')}: "
                f"correct the url, or log in to the network that asks for it"
            )
        if method == "HEAD" or not raw:
            return Answer(response.status, found, None)
        if "json" not in found.get("content-type", ""):
            raise TransportError(
                f"{self._name}: the answer ({response.status}) is "
                f"{found.get('content-type', 'of no type')}, not Kinto's JSON: the url is not a "
                f"Kinto's, or the network asks for a login"
            )
        return Answer(response.status, found, json.loads(raw))

    def _connect(self) -> http.client.HTTPConnection:
        if self._connection is not None:
            return self._connection
        timeout = self.settings.connect_timeout_s
        connection: http.client.HTTPConnection
        if self._tls:
            connection = http.client.HTTPSConnection(
                self._host, self._port, timeout=timeout, context=self._tls_context()
            )
        else:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=timeout)
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sock.settimeout(self.settings.read_timeout_s)
        self._connection = connection
        return connection

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
