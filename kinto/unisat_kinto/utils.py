"""The body of an ingest request as records: pure functions, no HTTP, no database."""

from __future__ import annotations

import json
import math
import re
import zlib
from dataclasses import dataclass, field
from typing import Any

MAX_RECORD_BYTES = 64 * 1024
# JSON numbers beyond that are not the same number in JavaScript.
MAX_INTEGER = 2**53 - 1
_ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_-]{0,63}")
# Kinto's own: it fills them itself.
_SERVER_KEYS = ("last_modified", "schema")
_GZIP = zlib.MAX_WBITS | 16


class BodyError(Exception):
    """Why a body is no batch at all, as a sentence."""


class TooLargeError(BodyError):
    """The body holds more than the limits allow."""


@dataclass
class Batch:
    """The records of a request.

    Attributes:
        records: what can be stored, each with its id.
        invalid: what cannot: its place in the request from 0, its id if it has one, the reason.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    invalid: list[dict[str, Any]] = field(default_factory=list)

    def as_json(self) -> str:
        """The records as one JSON array."""
        return json.dumps(self.records, ensure_ascii=False, separators=(",", ":"))


def unzip(body: bytes, max_bytes: int) -> bytes:
    """The content of a gzip file with one member.

    Raises:
        TooLargeError: It is larger than max_bytes; no more than that is ever unpacked.
        BodyError: It is damaged, incomplete, or something follows it.
    """
    inflater = zlib.decompressobj(_GZIP)
    try:
        content = inflater.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise BodyError("The body is not what Content-Encoding says: gzip.") from error
    if len(content) > max_bytes:
        raise TooLargeError(f"The unpacked body is larger than {max_bytes} bytes.")
    if not inflater.eof or inflater.unused_data:
        raise BodyError("The gzip body is incomplete, or something follows it.")
    return content


def read_batch(body: bytes, *, ndjson: bool, max_records: int) -> Batch:
    """The records of a JSON array, or of NDJSON: one object a line.

    Raises:
        TooLargeError: There are more than max_records.
        BodyError: It is neither.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise BodyError("The body is not UTF-8.") from error
    items: list[Any]
    if ndjson:
        items = [_load_line(line) for line in text.split("\n") if line.strip()]
    else:
        try:
            items = _load(text)
        except (ValueError, RecursionError) as error:
            raise BodyError(f"The body is not JSON: {error}.") from error
        if not isinstance(items, list):
            raise BodyError("The body is not a JSON array of records.")
    if len(items) > max_records:
        raise TooLargeError(f"The batch holds more than {max_records} records.")
    batch = Batch()
    for index, item in enumerate(items):
        reason = fault(item)
        if reason is None:
            batch.records.append(_without_server_keys(item))
        else:
            name = item.get("id") if isinstance(item, dict) else None
            shown = name if isinstance(name, str) and _ID.fullmatch(name) else None
            batch.invalid.append({"index": index, "id": shown, "reason": reason})
    return batch


def fault(item: Any) -> str | None:
    """Why an item can't be stored as a record; None where it can."""
    if isinstance(item, _Unreadable):
        return item.reason
    if not isinstance(item, dict):
        return "it is not a JSON object"
    name = item.get("id")
    if not isinstance(name, str) or not _ID.fullmatch(name):
        return "id has to be 1 to 64 letters, digits, - and _, the first a letter or digit"
    if "deleted" in item:
        return "deleted is a name that Kinto uses itself"
    for key in ("timestamp", "seq"):
        value = item.get(key, 0)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_INTEGER:
            return f"{key} has to be an integer from 0 to {MAX_INTEGER}"
    reason = _bad_value(item)
    if reason is None and len(json.dumps(item, ensure_ascii=False).encode()) > MAX_RECORD_BYTES:
        return f"it is larger than {MAX_RECORD_BYTES} bytes"
    return reason


def _bad_value(value: Any) -> str | None:
    """The first thing inside a value that PostgreSQL can't hold, or would change."""
    if isinstance(value, float):
        return (
            None if math.isfinite(value) else "NaN and infinity are not JSON, or a number overflows"
        )
    if isinstance(value, str):
        return _bad_text(value)
    if isinstance(value, int):
        return None if abs(value) <= MAX_INTEGER else f"an integer is beyond {MAX_INTEGER}"
    if isinstance(value, dict):
        for key, inner in value.items():
            if reason := _bad_text(key) or _bad_value(inner):
                return reason
    elif isinstance(value, list):
        for inner in value:
            if reason := _bad_value(inner):
                return reason
    return None


def _bad_text(text: str) -> str | None:
    if "\0" in text:
        return "a text holds the character NUL"
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return "a text holds half of a surrogate pair"
    return None


@dataclass
class _Unreadable:
    """A line of NDJSON that is not JSON."""

    reason: str


def _load_line(line: str) -> Any:
    try:
        return _load(line)
    except (ValueError, RecursionError) as error:
        return _Unreadable(f"the line is not JSON: {error}")


def _load(text: str) -> Any:
    return json.loads(text, parse_int=_integer)


def _integer(digits: str) -> int:
    """An integer; one that is far too long stands for all of its kind, as converting it is slow."""
    return int(digits) if len(digits) <= 20 else MAX_INTEGER + 1


def _without_server_keys(record: dict[str, Any]) -> dict[str, Any]:
    for key in _SERVER_KEYS:
        record.pop(key, None)
    return record
