"""A spool of an older agent is brought to today's schema, with nothing lost."""

from __future__ import annotations

import contextlib
import sqlite3
import uuid
from pathlib import Path

import pytest

from unisat_agent.clock import ClockState
from unisat_agent.errors import SpoolError
from unisat_agent.record import Stamp, record_id
from unisat_agent.spool import tools as spool_tools
from unisat_agent.spool.backup import restore
from unisat_agent.spool.dead import retry_dead
from unisat_agent.spool.queue import Spool
from unisat_agent.spool.repair import Salvage, mark_suspect, open_spool
from unisat_agent.spool.schema import SINKS

BOOT = "boot-a"
MAX_BYTES = 16 * 1024 * 1024
EPOCH = uuid.UUID(int=3)
SCHEMA_1 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE boot (number INTEGER PRIMARY KEY, boot_id TEXT NOT NULL UNIQUE,
                   first_seq INTEGER NOT NULL);
CREATE TABLE package (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, record_id BLOB NOT NULL, dev_id TEXT NOT NULL,
    received_ms INTEGER NOT NULL, uptime_ms INTEGER NOT NULL, boot INTEGER NOT NULL,
    clock INTEGER NOT NULL, revision INTEGER NOT NULL, payload TEXT NOT NULL,
    local INTEGER NOT NULL, hub INTEGER NOT NULL, epoch BLOB, record_seq INTEGER);
CREATE INDEX adopted ON package (record_id) WHERE seq < 0;
CREATE TABLE dead (seq INTEGER NOT NULL, sink TEXT NOT NULL, reason TEXT NOT NULL,
                   detail TEXT NOT NULL, PRIMARY KEY (seq, sink)) WITHOUT ROWID;
CREATE TABLE quarantine (number INTEGER PRIMARY KEY, received_ms INTEGER NOT NULL,
                         port TEXT NOT NULL, reason TEXT NOT NULL, raw BLOB NOT NULL);
PRAGMA user_version = 1;
"""
# seq, device, boot, clock, local, hub. The station had no hub at first (state 4).
ROWS = (
    (-1, "u02", 2, 1, 1, 0),
    (3, "u01", 1, 1, 1, 4),
    (4, "u01", 1, 0, 0, 0),
    (5, "u02", 2, 0, 1, 2),
    (6, "u01", 2, 0, 1, 3),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A spool of schema 1, with rows of two boots and two devices; number 9 was the last."""
    path = tmp_path / "spool.db"
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.executescript(f"PRAGMA page_size = 1024; PRAGMA journal_mode = WAL; {SCHEMA_1}")
        db.executemany(
            "INSERT INTO meta VALUES (?, ?)",
            [("epoch", str(EPOCH)), ("settled_below", "3"), ("sink.hub", "True")],
        )
        db.executemany("INSERT INTO boot VALUES (?, ?, ?)", [(1, "boot-0", 1), (2, BOOT, -1)])
        for seq, dev_id, boot, clock, local, hub in (*ROWS, (9, "u01", 2, 1, 1, 1)):
            db.execute(
                "INSERT INTO package VALUES (?, ?, ?, 7000, 5000, ?, ?, 0, '{}', ?, ?, ?, ?)",
                (seq, record_id(EPOCH, seq, "{}").bytes, dev_id, boot, clock, local, hub)
                + ((uuid.uuid4().bytes, 12) if seq < 0 else (None, None)),
            )
        db.execute("DELETE FROM package WHERE seq = 9")
        db.execute("INSERT INTO dead VALUES (5, 'hub', 'refused', '400')")
    return path


def test_counts_and_marks_are_right(path: Path) -> None:
    calls: list[None] = []
    spool = Spool(path, SINKS, BOOT, MAX_BYTES, lambda: calls.append(None))
    assert calls, "the start's time-out is extended"
    assert (spool.epoch, spool.last_seq, spool.unsynced) == (EPOCH, 9, 2)
    assert (spool.pending("local"), spool.pending("hub")) == (1, 4)
    assert spool.dead_by_reason("hub") == {"refused": 1}
    assert [w.row.seq for w in spool.take("hub", "u01", 9)] == [3, 4, 6]
    assert [w.row.seq for w in spool.take("hub", "u02", 9)] == [-1]
    assert spool.lowest_waiting() == 3
    assert spool_tools.check(path) == []
    row = spool.append("u01", "{}", Stamp(1, 1, BOOT, ClockState.SYNCED), [], expected=False)
    assert row.seq == 10, "numbers go on, and a device of the older spool is believed"
    assert spool.correction.correct(BOOT, 10**12) == 2
    assert retry_dead(path) == 1
    assert [w.row.seq for w in spool.take("hub", "u02", 9)] == [-1, 5]
    spool.close()
    again = Spool(path, SINKS, BOOT, MAX_BYTES, lambda: calls.append(None))
    assert (again.last_seq, len(calls)) == (10, 1), "once"
    again.close()


def test_a_migration_that_fails_changes_nothing(path: Path) -> None:
    def fail() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Spool(path, SINKS, BOOT, MAX_BYTES, fail)
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
        assert db.execute("SELECT COUNT(*) FROM boot WHERE first_seq < 2").fetchone() == (2,)
    spool = Spool(path, SINKS, BOOT, MAX_BYTES)
    assert spool.pending("hub") == 4
    spool.close()


def test_commands_ask_for_a_start_first(path: Path) -> None:
    assert spool_tools.check(path) == []
    with pytest.raises(SpoolError, match=r"an older agent \(schema 1\): start the agent once"):
        spool_tools.count(path)


def test_an_older_backup_is_restored(path: Path, tmp_path: Path) -> None:
    spool = Spool(tmp_path / "new.db", SINKS, BOOT, MAX_BYTES)
    assert restore(spool, path) == len(ROWS)
    assert (spool.pending("local"), spool.pending("hub")) == (1, 5)
    spool.close()


def test_an_update_that_is_taken_back_loses_no_package(path: Path) -> None:
    """The older agent refuses the newer spool; at the mark it takes over what is undelivered."""
    Spool(path, SINKS, BOOT, MAX_BYTES).close()
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        # What a later schema may change: more columns, more tables, other states.
        db.executescript(
            "ALTER TABLE package ADD COLUMN later TEXT; CREATE TABLE later (x);"
            "UPDATE package SET hub = 99 WHERE seq = 4; PRAGMA user_version = 99;"
        )
    with pytest.raises(SpoolError, match="written by a newer agent"):
        open_spool(path, SINKS, BOOT, MAX_BYTES)
    mark_suspect(path)
    spool = open_spool(path, SINKS, BOOT, MAX_BYTES)
    Salvage(spool).run()
    assert (spool.pending("local"), spool.pending("hub")) == (1, 5)
    assert spool.epoch != EPOCH, "its numbers may be on the hub already"
    spool.close()
