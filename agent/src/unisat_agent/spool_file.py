"""The spool's file: its schema, its connection, its lock, and what its errors mean."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import uuid
from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any

from unisat_agent.clock import ClockState
from unisat_agent.errors import SpoolBusyError, SpoolCorruptError, SpoolError, SpoolFullError
from unisat_agent.record import Row, Stamp

SINKS = ("local", "hub")
# Small pages: a package touches the last leaf and sqlite_sequence, and nothing near them, so that
# the write-ahead log grows by 2-3 kB a package and not by 8.
PAGE_BYTES = 1024
RESERVE_BYTES = 1024 * 1024
BUSY_TIMEOUT_S = 10.0
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
# What a worn-out SD card gives: the page can't be read, and never will be.
_UNREADABLE = {sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_CORRUPTFS}

LOWEST_SEQ = -(2**62)
SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE boot (number INTEGER PRIMARY KEY, boot_id TEXT NOT NULL UNIQUE,
                   first_seq INTEGER NOT NULL);
CREATE TABLE package (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    record_id BLOB NOT NULL,
    dev_id TEXT NOT NULL,
    received_ms INTEGER NOT NULL,
    uptime_ms INTEGER NOT NULL,
    boot INTEGER NOT NULL,
    clock INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    payload TEXT NOT NULL,
    local INTEGER NOT NULL,
    hub INTEGER NOT NULL,
    epoch BLOB,          -- of an adopted record; NULL is this spool's own
    record_seq INTEGER   -- of an adopted record; NULL is seq
);
-- Of adopted records alone, so that it costs a package nothing.
CREATE INDEX adopted ON package (record_id) WHERE seq < 0;
CREATE TABLE dead (seq INTEGER NOT NULL, sink TEXT NOT NULL, reason TEXT NOT NULL,
                   detail TEXT NOT NULL, PRIMARY KEY (seq, sink)) WITHOUT ROWID;
CREATE TABLE quarantine (number INTEGER PRIMARY KEY, received_ms INTEGER NOT NULL,
                         port TEXT NOT NULL, reason TEXT NOT NULL, raw BLOB NOT NULL);
"""
ROW_COLUMNS = (
    "seq, record_id, dev_id, received_ms, uptime_ms, boot, clock, revision, payload, epoch, "
    "record_seq"
)


class RowState(IntEnum):
    """What a sink has of a row."""

    PENDING = 0
    ACKED = 1
    DEAD = 2
    STALE = 3
    """Acknowledged with a time that was corrected since: to be written over."""
    UNWANTED = 4
    """There is no such sink in this station."""


WAITING = frozenset({RowState.PENDING, RowState.STALE})
DONE = frozenset({RowState.ACKED, RowState.UNWANTED})
SQL_WAITING = f"({RowState.PENDING:d}, {RowState.STALE:d})"
SQL_DONE = f"({RowState.ACKED:d}, {RowState.UNWANTED:d})"


class Reserve:
    """A file beside the spool that only takes up room, to be given up when the disk is full."""

    def __init__(self, spool: Path) -> None:
        self._path = spool.with_name(spool.name + ".reserve")

    def take(self) -> None:
        """Takes the room, if it is there."""
        if self._path.exists() and self._path.stat().st_size >= RESERVE_BYTES:
            return
        try:
            with self._path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, RESERVE_BYTES)
        except OSError:
            self.give_up()

    def give_up(self) -> None:
        """Lets the room go."""
        self._path.unlink(missing_ok=True)


def make_row(columns: Sequence[Any], boots: Mapping[int, str], epoch: uuid.UUID) -> Row:
    """The row of ROW_COLUMNS.

    Raises:
        SpoolCorruptError: It can't be one.
    """
    (seq, rid, dev_id, received, uptime, boot, clock, revision, payload, own, number) = columns[:11]
    try:
        return Row(
            seq=seq,
            record_id=uuid.UUID(bytes=rid),
            dev_id=dev_id,
            stamp=Stamp(received, uptime, boots[boot], ClockState(clock)),
            payload=payload,
            revision=revision,
            epoch=epoch if own is None else uuid.UUID(bytes=own),
            record_seq=seq if number is None else number,
        )
    except (KeyError, ValueError, TypeError) as error:
        raise SpoolCorruptError(f"the spool is damaged: row {seq} is no package") from error


def names(db: sqlite3.Connection) -> tuple[uuid.UUID, dict[int, str]]:
    """The spool's epoch, and the boot ids by number."""
    ((epoch,),) = db.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchall()
    return uuid.UUID(epoch), dict(db.execute("SELECT number, boot_id FROM boot"))


def lock(path: Path) -> int:
    """Takes the spool for this process, until the descriptor that is returned is closed.

    Raises:
        SpoolBusyError: Another agent has it.
        SpoolError: The folder can't be used.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(
            path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640
        )
    except OSError as error:
        raise SpoolError(
            f"{path.parent}: the spool's folder can't be used: {error.strerror}: "
            f"make it writable for the agent's user"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise SpoolBusyError(
            f"{path}: another agent has this spool: stop it first (systemctl stop unisat-agent)"
        ) from None
    return descriptor


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection to the file.

    Raises:
        SpoolError: It can't be opened.
    """
    try:
        return sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}",
            uri=True,
            timeout=BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
        )
    except sqlite3.Error as error:
        raise SpoolError(f"{path}: the spool can't be opened: {error}") from error


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turns SQLite's errors into the spool's own."""
    try:
        yield
    except sqlite3.Error as error:
        extended = getattr(error, "sqlite_errorcode", 0)
        code = extended & 0xFF
        if code == sqlite3.SQLITE_FULL:
            raise SpoolFullError(
                f"{path}: there is no room for another package: free space on the disk, or raise "
                f"[spool] max_mb"
            ) from error
        if code in _DAMAGE or extended in _UNREADABLE:
            raise SpoolCorruptError(f"{path}: the spool is damaged: {error}") from error
        raise SpoolError(f"{path}: the spool can't be used: {error}") from error
