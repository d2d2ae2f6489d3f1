"""What a scripted server is asked and answers: replies, right or wrong, and no answer at all."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


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


def basic_user(authorization: str) -> str | None:
    """The user's name in an Authorization header."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    return base64.b64decode(value).decode().partition(":")[0]
