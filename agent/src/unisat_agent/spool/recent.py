"""What the station page reads of a spool beside a running agent: read-only and bounded.

Each function takes a connection of its own (`tools.reading`), so that a look never holds up the
serial thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from unisat_agent.record import Record, format_utc
from unisat_agent.spool.schema import ROW_COLUMNS, epoch_and_boots, make_row

RAW_BYTES = 200
"""So much of a bad line is shown."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which records: numbers after and before, seconds UTC since and until (not included)."""

    after: int | None = None
    before: int | None = None
    since: int | None = None
    until: int | None = None
    device: str | None = None
    limit: int = 1


def records(db: sqlite3.Connection, wanted: Wanted) -> list[Record]:
    """The station's own records, oldest first: those that follow `after`, else the newest ones.

    Those that reconcile adopted from a Kinto are not in it.

    Raises:
        SpoolCorruptError: A row is damaged.
    """
    epoch, boots = epoch_and_boots(db)
    low = 1 if wanted.after is None else wanted.after + 1
    high = 2**62 if wanted.before is None else wanted.before - 1
    if wanted.since is not None:
        low = max(low, _first_seq(db, wanted.since * 1000))
    if wanted.until is not None:
        high = min(high, _first_seq(db, wanted.until * 1000) - 1)
    forward = wanted.after is not None
    rows = db.execute(
        f"SELECT {ROW_COLUMNS} FROM package WHERE seq BETWEEN ? AND ? "
        f"AND (? IS NULL OR dev_id = ?) ORDER BY seq {'ASC' if forward else 'DESC'} LIMIT ?",
        (low, high, wanted.device, wanted.device, wanted.limit),
    ).fetchall()
    return [make_row(row, boots, epoch).record() for row in (rows if forward else rows[::-1])]


def ends(db: sqlite3.Connection) -> dict[str, Any]:
    """The spool's epoch, and the first and last number of its own records (0 where it has none)."""
    epoch, _ = epoch_and_boots(db)
    first, last = _ends(db)
    return {"epoch": str(epoch), "first_seq": first, "last_seq": last}


def bad_lines(db: sqlite3.Connection, limit: int) -> Iterator[dict[str, Any]]:
    """The newest lines in quarantine, with their bytes as `escaped` text."""
    for number, received_ms, port, reason, raw, length in db.execute(
        f"SELECT number, received_ms, port, reason, substr(raw, 1, {RAW_BYTES}), length(raw) "
        "FROM quarantine ORDER BY number DESC LIMIT ?",
        (limit,),
    ):
        yield {
            "number": number,
            "received_at": format_utc(received_ms),
            "port": port,
            "reason": reason,
            "raw": escaped(raw),
            "bytes": length,
        }


def dead_letters(db: sqlite3.Connection, limit: int) -> Iterator[dict[str, Any]]:
    """The newest records that a sink refused."""
    for letter in db.execute(
        "SELECT seq, dev_id, sink, reason, detail FROM dead JOIN package USING (seq) "
        "ORDER BY seq DESC LIMIT ?",
        (limit,),
    ):
        yield dict(zip(("seq", "devID", "sink", "reason", "detail"), letter, strict=True))


def escaped(raw: bytes) -> str:
    r"""Printable ASCII as it is, a backslash and any other byte as \xNN."""
    return "".join(
        chr(byte) if 32 <= byte < 127 and byte != ord("\\") else f"\\x{byte:02x}" for byte in raw
    )


def _ends(db: sqlite3.Connection) -> tuple[int, int]:
    ((first, last),) = db.execute(
        "SELECT (SELECT seq FROM package WHERE seq > 0 ORDER BY seq LIMIT 1), "
        "(SELECT seq FROM package WHERE seq > 0 ORDER BY seq DESC LIMIT 1)"
    ).fetchall()
    return first or 0, last or 0


def _first_seq(db: sqlite3.Connection, since_ms: int) -> int:
    """The first number that was received at this time or later.

    By halving, for there is no index on the time; where the clock was set back, it is roughly so.
    """
    low, high = _ends(db)
    high += 1
    while low < high:
        middle = (low + high) // 2
        found = db.execute(
            "SELECT received_ms FROM package WHERE seq >= ? ORDER BY seq LIMIT 1", (middle,)
        ).fetchone()
        if found is not None and found[0] < since_ms:
            low = middle + 1
        else:
            high = middle
    return low
