"""The schema's versions (PRAGMA user_version): a new file, an older one, a newer one."""

from __future__ import annotations

import sqlite3
import uuid
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from unisat_agent.clock import ClockState
from unisat_agent.errors import SpoolError
from unisat_agent.spool.schema import SINKS, TABLES, TALLY, TRIGGERS, WAITING, statements

SCHEMA_VERSION = 2
_STEP_ROWS = 10_000

Progress = Callable[[], None]


def schema_version(db: sqlite3.Connection, path: Path) -> int:
    """The version of the file's schema; 0 for an empty file.

    Raises:
        SpoolError: It is newer than this program.
    """
    ((version,),) = db.execute("PRAGMA user_version").fetchall()
    if version > SCHEMA_VERSION:
        raise SpoolError(
            f"{path}: was written by a newer agent (schema {version}, this one knows "
            f"{SCHEMA_VERSION}): install that version or a later one"
        )
    return int(version)


def migrate(db: sqlite3.Connection, path: Path, progress: Progress) -> None:
    """Brings the file to SCHEMA_VERSION, all or nothing.

    Args:
        db: In autocommit mode.
        path: Named in errors.
        progress: Called now and then during a migration that takes long.

    Raises:
        SpoolError: The file is of a newer schema.
    """
    version = schema_version(db, path)
    if version == SCHEMA_VERSION:
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        if version == 0:
            for statement in statements(TABLES):
                db.execute(statement)
            db.execute("INSERT INTO meta (key, value) VALUES ('epoch', ?)", (str(uuid.uuid4()),))
            _create_tally(db)
        else:
            for step in range(version, SCHEMA_VERSION):
                _STEPS[step](db, progress)
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _create_tally(db: sqlite3.Connection) -> None:
    for statement in statements(TALLY):
        db.execute(statement)
    for trigger in TRIGGERS:
        db.execute(trigger)


def _count_rows(db: sqlite3.Connection, progress: Progress) -> None:
    """From schema 1: counts what triggers keep counted from now on, in one pass.

    Schema 1 numbered by AUTOINCREMENT. The table keeps that, since removing it would rewrite all
    rows; it only costs a package one page more.
    """
    db.execute("ALTER TABLE boot RENAME COLUMN first_seq TO unsynced_low")
    db.execute("ALTER TABLE boot ADD COLUMN unsynced INTEGER NOT NULL DEFAULT 0")
    db.execute("ALTER TABLE boot ADD COLUMN offset_ms INTEGER")
    tally: dict[tuple[str, bool], list[int]] = {}
    unsynced: dict[int, int] = defaultdict(int)
    cursor = db.execute("SELECT seq, dev_id, boot, clock, local, hub FROM package ORDER BY seq")
    while rows := cursor.fetchmany(_STEP_ROWS):
        for seq, dev_id, boot, clock, *states in rows:
            counts = tally.setdefault((dev_id, seq > 0), [0] * (1 + 2 * len(SINKS)))
            counts[0] += 1
            for index, state in enumerate(states):
                if state in WAITING:
                    count, low = 1 + 2 * index, 2 + 2 * index
                    # In the order of seq: the first that waits is the lowest.
                    counts[low] = counts[low] if counts[count] else seq
                    counts[count] += 1
            if clock == ClockState.UNSYNCED:
                unsynced[boot] += 1
        progress()
    found = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'package'").fetchone()
    newest = max(int(found[0]), 0) if found else 0
    _create_tally(db)
    db.executemany(
        "INSERT INTO tally (dev_id, own, newest, believed, rows, local, local_low, hub, hub_low) "
        "VALUES (?, ?, ?, 1, ?, ?, ?, ?, ?)",
        [(dev_id, own, newest if own else 0, *counts) for (dev_id, own), counts in tally.items()],
    )
    db.executemany(
        "UPDATE boot SET unsynced = ? WHERE number = ?",
        [(count, number) for number, count in unsynced.items()],
    )
    db.execute(
        "INSERT INTO dead_tally SELECT sink, reason, COUNT(*) FROM dead GROUP BY sink, reason"
    )
    db.execute("DELETE FROM meta WHERE key IN ('settled_below', 'sink.local', 'sink.hub')")
    # All of the rows may be evicted: then no device's tally knows which numbers were given.
    db.execute("INSERT OR REPLACE INTO meta VALUES ('last_seq', ?)", (str(newest),))


_STEPS: dict[int, Callable[[sqlite3.Connection, Progress], None]] = {1: _count_rows}
