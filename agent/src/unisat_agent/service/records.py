"""The pages that are read from the spool: /records, /refused and /table; README.md, "Status"."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path

from unisat_agent.service.http import Page, Route, json_page
from unisat_agent.service.snapshot import Snapshot
from unisat_agent.service.table import table
from unisat_agent.spool import recent
from unisat_agent.spool.tools import reading

RECORDS_DEFAULT = 300
RECORDS_MAX = 5000
TABLE_ROWS = 20
REFUSED_DEFAULT = 20
REFUSED_MAX = 200


class _QueryError(ValueError):
    """A parameter can't be used; says which and why."""


def spool_routes(path: Path, snapshot: Callable[[], Snapshot]) -> dict[str, Route]:
    """The pages; a parameter that can't be used is a 400 that says why."""

    def checked(page: Callable[[Path, Mapping[str, str]], Page]) -> Route:
        def route(query: Mapping[str, str]) -> Page:
            try:
                return page(path, query)
            except _QueryError as error:
                return json_page({"error": str(error)}, HTTPStatus.BAD_REQUEST)

        return route

    return {
        "/records": checked(_records),
        "/refused": checked(_refused),
        "/table": lambda _: _table(path, snapshot()),
    }


def _records(path: Path, query: Mapping[str, str]) -> Page:
    wanted = recent.Wanted(
        after=_number(query, "after"),
        before=_number(query, "before"),
        since=_number(query, "from"),
        until=_number(query, "to"),
        device=query.get("device"),
        limit=_limit(query, RECORDS_DEFAULT, RECORDS_MAX),
    )
    with reading(path) as db:
        records = recent.records(db, wanted)
        ends = recent.ends(db)
    disk = shutil.disk_usage(path.parent)
    content = {
        **ends,
        "now": time.time(),
        "timezone": _timezone(),
        "disk": {"free": disk.free, "total": disk.total},
        "records": records,
    }
    return Page(json.dumps(content, separators=(",", ":")).encode() + b"\n", "application/json")


def _refused(path: Path, query: Mapping[str, str]) -> Page:
    limit = _limit(query, REFUSED_DEFAULT, REFUSED_MAX)
    with reading(path) as db:
        lines = list(recent.bad_lines(db, limit))
        dead = list(recent.dead_letters(db, limit))
    return json_page({"lines": lines, "dead": dead})


def _table(path: Path, snapshot: Snapshot) -> Page:
    with reading(path) as db:
        records = recent.records(db, recent.Wanted(limit=TABLE_ROWS))
    return Page(table(snapshot, records[::-1]).encode(), "text/html; charset=utf-8")


def _number(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > 15:
        raise _QueryError(f"{name} must be a whole number, not negative")
    return int(text)


def _limit(query: Mapping[str, str], default: int, most: int) -> int:
    limit = _number(query, "limit")
    if limit is None:
        return default
    if not 1 <= limit <= most:
        raise _QueryError(f"limit must be from 1 to {most}")
    return limit


def _timezone() -> str:
    """The host's time zone by its name, such as Asia/Almaty; UTC where it has none."""
    with contextlib.suppress(OSError):
        _, found, name = str(Path("/etc/localtime").resolve()).partition("/zoneinfo/")
        if found:
            return name
    return "UTC"
