"""Asking a hub, as a reader: pages of records, series, and the live stream."""

from __future__ import annotations

import base64
import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

PAGE = 1000
TIMEOUT_S = 30.0
# The stream says something at least every 15 s.
SILENCE_MAX_S = 45.0
WAIT_FIRST_S = 1.0
WAIT_MAX_S = 60.0
TRIES = 8

Record = dict[str, Any]


class HubError(Exception):
    """What went wrong, as one sentence for the reader."""


@dataclass(frozen=True, slots=True)
class Hub:
    """A hub, and who asks it.

    Args:
        url: Ends in /v1.
        user: The reader's account; empty for an anonymous reader.
        password: Its password.
        bucket: Where the telemetry is.
        ca_file: The certificate of the hub's own authority, where it has one.
        pause: Waits so many seconds; called between two tries.
    """

    url: str
    user: str = ""
    password: str = field(default="", repr=False)
    bucket: str = "telemetry"
    ca_file: Path | None = None
    pause: Callable[[float], None] = time.sleep

    def devices(self) -> list[str]:
        """The devIDs that the reader may see."""
        return sorted(str(item["id"]) for item in self._all(self._path("?_fields=id")))

    def records(self, device: str, since: int, low: int | None, high: int | None) -> Pages:
        """Pages of a device's records, in the order in which the hub got them.

        Args:
            device: Its devID.
            since: The `last_modified` of the last record that is there already; 0 for none.
            low: The lowest `timestamp`, seconds UTC, or None.
            high: The `timestamp` before which to end, or None.
        """
        query: dict[str, str] = {"_sort": "last_modified", "_limit": str(PAGE)}
        # Kinto leaves tombstones out of a list unless it is asked by _since.
        query |= {"gt_last_modified": str(since)} if since else {}
        query |= {"min_timestamp": str(low)} if low is not None else {}
        query |= {"lt_timestamp": str(high)} if high is not None else {}
        return self._pages(self._path(f"/{quote(device)}/records?{urlencode(query)}"))

    def series(
        self, device: str, fields: list[str], low: int, high: int, points: int
    ) -> dict[str, Any]:
        """What the hub's `series` says of some fields: see kinto/README.md.

        A hub that has just been updated summarises its past a part at a time: it is asked until
        all of the range is there.
        """
        query = urlencode(
            {"fields": ",".join(fields), "from": low, "to": high, "points": points}
        )  # fmt: skip
        while True:
            body, _ = self._get(self._path(f"/{quote(device)}/series?{query}"))
            if not body["data"]["pending_hours"]:
                return dict(body["data"])
            self.pause(WAIT_FIRST_S)

    def follow(self, devices: list[str], last_id: str = "") -> Iterator[tuple[str, str, Record]]:
        """The live stream: id, event and record, without end, also over interruptions."""
        path = f"{self.url}/buckets/{quote(self.bucket)}/stream"
        if devices:
            path += "?" + urlencode({"collections": ",".join(devices)})
        wait_s = WAIT_FIRST_S
        while True:
            headers = {"Last-Event-ID": last_id} if last_id else {}
            try:
                with self._open(path, SILENCE_MAX_S, headers) as answer:
                    for event in _events(answer):
                        last_id = event[0] or last_id
                        wait_s = WAIT_FIRST_S
                        if event[1] == "revoked":
                            raise HubError("the hub does not let this account read any more")
                        yield event
            except _UNSETTLED:
                pass
            self.pause(wait_s)
            wait_s = min(wait_s * 2, WAIT_MAX_S)

    def _path(self, rest: str) -> str:
        return f"{self.url}/buckets/{quote(self.bucket)}/collections{rest}"

    def _all(self, path: str) -> Iterator[Record]:
        for page in self._pages(path):
            yield from page

    def _pages(self, path: str) -> Pages:
        while path:
            body, path = self._get(path)
            yield body["data"]

    def _get(self, path: str) -> tuple[dict[str, Any], str]:
        """Asks until there is an answer, a few times; returns it with the next page's address."""
        wait_s = WAIT_FIRST_S
        for left in reversed(range(TRIES)):
            try:
                with self._open(path, TIMEOUT_S, {}) as answer:
                    body = json.load(answer)
                    following = answer.headers.get("Next-Page", "")
            except _UNSETTLED as error:
                if not left:
                    raise HubError(f"{self.url} does not answer: {error}") from error
            else:
                # A proxy may know the hub by another name: only the path behind /v1 is used.
                _, _, rest = following.partition("/v1/")
                return body, f"{self.url}/{rest}" if rest else ""
            self.pause(wait_s)
            wait_s = min(wait_s * 2, WAIT_MAX_S)
        raise AssertionError  # the last try returns or raises

    def _open(self, path: str, timeout_s: float, headers: dict[str, str]) -> HTTPResponse:
        request = urllib.request.Request(path, headers=headers)  # noqa: S310 - check() looked at it
        if self.user:
            token = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
            request.add_header("Authorization", f"Basic {token}")
        context = None
        if self.ca_file is not None:
            context = ssl.create_default_context(cafile=str(self.ca_file))
        try:
            answer: HTTPResponse = urllib.request.urlopen(  # noqa: S310
                request, timeout=timeout_s, context=context
            )
        except urllib.error.HTTPError as error:
            with error:
                raise _refusal(error, path) from error
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise HubError(
                    f"{self.url}: the certificate is not trusted ({error.reason.verify_message}): "
                    f"is it a hub with an authority of its own? Then give its file with --ca-file"
                ) from error
            raise
        return answer


Pages = Iterator[list[Record]]
# What another try may mend.
_UNSETTLED = (OSError, HTTPException, json.JSONDecodeError)


class _BusyError(OSError):
    """The hub asks for patience."""


def check(url: str) -> str:
    """The URL of a hub, with /v1 at its end.

    Raises:
        HubError: It is none.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise HubError(f"{url} is no address of a hub: write https://hub.example.org")
    return url.rstrip("/") if parts.path.rstrip("/").endswith("/v1") else url.rstrip("/") + "/v1"


def _refusal(error: urllib.error.HTTPError, path: str) -> Exception:
    try:
        message = str(json.load(error).get("message", error.reason))
    except (ValueError, AttributeError):
        message = str(error.reason)
    match error.code:
        case 401:
            return HubError("the hub does not know this account or its password: --user NAME")
        case 403:
            return HubError("this account may not read that: ask the operator of the hub")
        case 404 if "/series" in path or "/stream" in path:
            return HubError("this hub has no such address: is it an older one?")
        case 404:
            return HubError("the hub has no such device: unisat-data devices lists them")
        case 429 | 502 | 503 | 504:
            return _BusyError(f"{error.code} {message}")
        case _:
            return HubError(f"the hub answered {error.code}: {message}")


def _events(answer: HTTPResponse) -> Iterator[tuple[str, str, Record]]:
    lines: dict[str, str] = {}
    while line := answer.readline().decode():
        key, _, value = line.rstrip("\n").partition(": ")
        if key in {"id", "event", "data"}:
            lines[key] = value
        elif not key and "data" in lines:
            yield lines.get("id", ""), lines.get("event", "message"), json.loads(lines["data"])
            lines = {}
