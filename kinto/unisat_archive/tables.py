"""How a month of records becomes a table: its bounds, its columns, and the text of its cells. Pure.

A column has one kind: boolean, integer, double, string, or json, which holds lists, objects and
whatever is not of one kind through the month, as JSON text.
"""

from __future__ import annotations

import heapq
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

Record = dict[str, Any]
Kinds = dict[str, str]

# First in a table, in this order; then what was measured, by name; then the rest.
_FIRST = ("timestamp", "devID")
_LAST = (
    "clock", "received_at", "epoch", "seq", "boot_id", "uptime", "groups", "missing", "id",
    "last_modified",
)  # fmt: skip
_PLAIN = frozenset({"boolean", "integer", "double", "string"})


def month_of(timestamp: float) -> str:
    """The month of a moment (seconds UTC), as 2026-03."""
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m")


def bounds(month: str) -> tuple[int, int]:
    """Where a month begins and where the next one does, in seconds UTC."""
    year, number = map(int, month.split("-"))
    ends = [(year, number), (year + number // 12, number % 12 + 1)]
    first, following = (int(datetime(*end, 1, tzinfo=UTC).timestamp()) for end in ends)
    return first, following


def kind_of(seen: Iterable[str]) -> str:
    """The kind of a column that holds values of these JSON types, or of columns of these kinds."""
    kinds = set(seen) - {"null"}
    if kinds == {"integer", "double"}:
        return "double"
    return kinds.pop() if len(kinds) == 1 and kinds <= _PLAIN else "json"


def columns(kinds: Mapping[str, str]) -> list[str]:
    """The columns of a table in their order; `time`, for people, unless a device calls one so."""
    measured = sorted(set(kinds) - {*_FIRST, *_LAST})
    known = [name for name in (*_FIRST, *measured, *_LAST) if name in kinds]
    return known if "time" in kinds else ["time", *known]


def moment(record: Mapping[str, Any]) -> datetime:
    """What stands in the column `time`."""
    return datetime.fromtimestamp(int(record["timestamp"]), UTC)


def encoded(value: Any, kind: str) -> Any:
    """A value of a record as its column holds it."""
    if value is None:
        return None
    if kind == "json":
        return json.dumps(value, separators=(",", ":"))
    return float(value) if kind == "double" else value


def decoded(value: Any, kind: str) -> Any:
    """The opposite of `encoded`."""
    return json.loads(value) if kind == "json" and value is not None else value


def cell(value: Any) -> str:
    """A value of a column as CSV has it; nothing where there is none."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%SZ")
    return value if isinstance(value, str) else repr(value)


def place(record: Mapping[str, Any]) -> tuple[float, str]:
    """Where a record stands in its month's table."""
    return record["timestamp"], record["id"]


def merged(archived: Iterable[Record], stored: Iterable[Record]) -> Iterator[Record]:
    """Both in order, each of which is; what both have comes once, as it is stored now."""
    both = heapq.merge(archived, stored, key=place)
    for _, same in itertools.groupby(both, key=place):
        # Stable: what is stored comes behind what is archived.
        *_, last = same
        yield last
