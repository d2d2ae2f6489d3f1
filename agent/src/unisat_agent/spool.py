"""The spool: the agent's durable queue, where a package is safe before anything else happens.

SQLite in WAL mode with synchronous=FULL: what `append` returned from has been fsynced. A row has
a state per sink; rows that some sink still waits for are never evicted.

No index serves the queues, because each would cost every package another page of write-ahead log
on an SD card. What the delivery must know (how many rows wait, and from where) is kept in memory
instead, counted anew when the spool is opened.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import Any

from unisat_agent.clock import ClockState
from unisat_agent.errors import (
    SpoolBusyError,
    SpoolCorruptError,
    SpoolError,
    SpoolFullError,
)
from unisat_agent.record import Record, Row, Stamp, record_id, row_of

SINKS = ("local", "hub")
QUARANTINE_ROWS = 10_000
RESERVE_BYTES = 1024 * 1024
# Small pages: a package touches the last leaf and sqlite_sequence, and nothing near them, so that
# the write-ahead log grows by 2-3 kB a package and not by 8.
PAGE_BYTES = 1024
# The youngest rows are looked through for live records, so this bounds the cost of that look.
LIVE_WINDOW_ROWS = 100
BUSY_TIMEOUT_S = 10.0
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}

_LOWEST_SEQ = -(2**62)
_SCHEMA_VERSION = 1
_SCHEMA = """
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


_WAITING = f"({RowState.PENDING:d}, {RowState.STALE:d})"
_DONE = f"({RowState.ACKED:d}, {RowState.UNWANTED:d})"


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A line that could not be used, as it came."""

    port: str
    reason: str
    raw: bytes


@dataclass(frozen=True, slots=True)
class Waiting:
    """A row that a sink waits for. `overwrite`: the sink has it with a wrong time."""

    row: Row
    overwrite: bool


@dataclass(frozen=True, slots=True)
class Hold:
    """Which rows wait for the clock: unsynced ones of this boot received after `since_ms`."""

    boot_id: str
    since_ms: int

    def holds(self, stamp: Stamp) -> bool:
        """Whether a row with this stamp must still wait. Times are uptimes in milliseconds."""
        return (
            stamp.clock is ClockState.UNSYNCED
            and stamp.boot_id == self.boot_id
            and stamp.uptime_ms > self.since_ms
        )


@dataclass(slots=True)
class _Queue:
    """The rows of one device that one sink waits for: how many, and none below `low`."""

    count: int
    low: int


class Spool:
    """The open spool of a running agent; safe to use from several threads.

    Args:
        path: The database file; its folder is made.
        sinks: The sinks that this station delivers to; rows wait for no other.
        boot_id: The kernel's id of this boot.
        max_bytes: The size that the file may reach.

    Raises:
        SpoolBusyError: Another agent has it.
        SpoolCorruptError: The file is damaged: see `spool_tools.open_spool`.
        SpoolError: It can't be opened.
    """

    def __init__(self, path: Path, sinks: Iterable[str], boot_id: str, max_bytes: int) -> None:
        self.path = path
        self.sinks = tuple(sink for sink in SINKS if sink in set(sinks))
        self.news = {sink: threading.Event() for sink in self.sinks}
        self._mutex = threading.RLock()
        self._max_pages = max(max_bytes // PAGE_BYTES, 64)
        self._reserve = path.with_name(path.name + ".reserve")
        self._queues: dict[str, dict[str, _Queue]] = {sink: {} for sink in self.sinks}
        self.unsynced = 0
        """Rows of this boot whose time is not known yet."""
        self._last_seq = 0
        self._first_seq = 0
        self._last_row: Row | None = None
        self._boots: dict[int, str] = {}
        self._data_version = 0
        self._lock_file = lock(path)
        try:
            self._db = connect(path)
            with self._errors():
                self._prepare(boot_id)
        except BaseException:
            os.close(self._lock_file)
            raise
        self._keep_reserve()

    def close(self) -> None:
        """Closes the file; the spool can't be used after."""
        with self._mutex:
            self._db.close()
            os.close(self._lock_file)

    # Writing, by the serial thread

    def append(self, dev_id: str, payload: str, stamp: Stamp, bad: Sequence[Quarantined]) -> Row:
        """Commits one package, and the bad lines that came with it, to the disk.

        Raises:
            SpoolFullError: Nothing was stored; the same call may be made again.
            SpoolError: Likewise, for another reason.
        """
        with self._mutex:
            seq = self._last_seq + 1
            row = Row(
                seq=seq,
                record_id=record_id(self.epoch, seq, payload),
                dev_id=dev_id,
                stamp=stamp,
                payload=payload,
                revision=0,
                epoch=self.epoch,
                record_seq=seq,
            )
            with self._transaction():
                self._insert(row, dict.fromkeys(self.sinks, RowState.PENDING), own=True)
                self._insert_quarantine(stamp.received_ms, bad)
            self._last_seq = seq
            self._last_row = row
            self.unsynced += stamp.clock is ClockState.UNSYNCED
            for sink in self.sinks:
                self._expect(sink, dev_id, seq)
            return row

    def quarantine(self, received_ms: int, bad: Sequence[Quarantined]) -> None:
        """Commits bad lines that belong to no package.

        Raises:
            SpoolError: Nothing was stored.
        """
        with self._mutex, self._transaction():
            self._insert_quarantine(received_ms, bad)

    # Delivering, by the store and the sync thread

    def devices_waiting(self, sink: str) -> list[str]:
        """The devices that have rows for this sink."""
        with self._mutex:
            return [dev_id for dev_id, queue in self._queues[sink].items() if queue.count]

    def take(self, sink: str, dev_id: str, limit: int, hold: Hold | None = None) -> list[Waiting]:
        """Up to `limit` rows that wait: a fifth of them the youngest, then the oldest.

        So a live record is never stuck behind a backlog. The rows come in the order of seq, and
        stay in the spool until they are settled.
        """
        with self._mutex, self._errors():
            queue = self._queues[sink].get(dev_id)
            if queue is None or not queue.count:
                return []
            select = f"SELECT {ROW_COLUMNS}, {sink} FROM package WHERE {sink} IN {_WAITING} "
            oldest = self._db.execute(
                select + "AND dev_id = ? AND seq >= ? ORDER BY seq LIMIT ?",
                (dev_id, queue.low, limit),
            ).fetchall()
            if oldest:
                queue.low = oldest[0][0]
            youngest = self._db.execute(
                select + "AND dev_id = ? AND seq > ? ORDER BY seq DESC LIMIT ?",
                (dev_id, max(queue.low - 1, self._last_seq - LIVE_WINDOW_ROWS), -(-limit // 5)),
            ).fetchall()
            found = {
                columns[0]: Waiting(self._row(columns), columns[-1] == RowState.STALE)
                for columns in (*youngest, *oldest)
            }
        ready = [w for w in found.values() if hold is None or not hold.holds(w.row.stamp)]
        return sorted(ready[:limit], key=lambda waiting: waiting.row.seq)

    def settle(self, sink: str, rows: Iterable[Row]) -> None:
        """Commits that the sink has acknowledged these rows, as they were when taken."""
        with self._mutex:
            done: list[Row] = []
            with self._transaction():
                for row in rows:
                    cursor = self._db.execute(
                        f"UPDATE package SET {sink} = "
                        f"CASE WHEN revision = ? THEN {RowState.ACKED:d} "
                        f"ELSE {RowState.STALE:d} END "
                        f"WHERE seq = ? AND {sink} IN {_WAITING} RETURNING {sink}",
                        (row.revision, row.seq),
                    )
                    if any(state == RowState.ACKED for (state,) in cursor.fetchall()):
                        done.append(row)
            for row in done:
                self._queues[sink][row.dev_id].count -= 1

    def mark_stale(self, sink: str, row: Row) -> None:
        """Commits that the sink has this row with another time: it will be written over."""
        with self._mutex, self._transaction():
            self._db.execute(
                f"UPDATE package SET {sink} = {RowState.STALE:d} "
                f"WHERE seq = ? AND {sink} = {RowState.PENDING:d}",
                (row.seq,),
            )

    def bury(self, sink: str, row: Row, reason: str, detail: str) -> None:
        """Commits that the sink will never take this row; it is kept and can be retried."""
        with self._mutex:
            with self._transaction():
                changed = self._db.execute(
                    f"UPDATE package SET {sink} = {RowState.DEAD:d} "
                    f"WHERE seq = ? AND {sink} IN {_WAITING}",
                    (row.seq,),
                ).rowcount
                self._db.execute(
                    "INSERT OR REPLACE INTO dead (seq, sink, reason, detail) VALUES (?, ?, ?, ?)",
                    (row.seq, sink, reason, detail),
                )
            self._queues[sink][row.dev_id].count -= changed

    # The clock

    def correct(self, boot_id: str, offset_ms: int) -> int:
        """Gives the unsynced rows of this boot their right time: uptime plus `offset_ms`.

        Rows that a sink acknowledged with the wrong time become STALE there.

        Returns:
            How many rows were corrected.
        """
        acked_to_stale = ", ".join(
            f"{sink} = CASE {sink} WHEN {RowState.ACKED:d} THEN {RowState.STALE:d} ELSE {sink} END"
            for sink in SINKS
        )
        with self._mutex:
            number = self._boot_number(boot_id)
            with self._errors():
                ((first_seq,),) = self._db.execute(
                    "SELECT first_seq FROM boot WHERE number = ?", (number,)
                ).fetchall()
            with self._transaction():
                corrected = self._db.execute(
                    f"UPDATE package SET received_ms = uptime_ms + ?, revision = revision + 1, "
                    f"clock = {ClockState.CORRECTED:d}, {acked_to_stale} "
                    f"WHERE seq >= ? AND boot = ? AND clock = {ClockState.UNSYNCED:d}",
                    (offset_ms, first_seq, number),
                ).rowcount
                self._lower_mark(first_seq)
            self.unsynced = 0
            if corrected:
                self.recount()
            return corrected

    # Reconciling

    def lowest_waiting(self) -> int | None:
        """The lowest own number that some sink still waits for, or None."""
        with self._mutex, self._errors():
            waits = " OR ".join(f"{sink} IN {_WAITING}" for sink in self.sinks)
            ((low,),) = self._db.execute(
                f"SELECT MIN(seq) FROM package WHERE seq >= ? AND ({waits})",
                (max(self._settled_below(), 0),),
            ).fetchall()
            return None if low is None else int(low)

    def adopt(self, records: Sequence[Record], holder: str, wanted_by: str) -> int:
        """Takes records that `holder` has and `wanted_by` lacks, to deliver them there.

        A record whose row is in the spool waits again; else a new row is made, with the record's
        own id, epoch and seq, and a negative row number, so that it leaves no gap. A record that
        `wanted_by` refused before (a dead letter) is left alone.

        Returns:
            How many records will be delivered.

        Raises:
            ValueError: When a record was not made by an agent.
        """
        with self._mutex:
            with self._errors():
                adopted = {
                    bytes(rid): (seq, state)
                    for seq, rid, state in self._db.execute(
                        f"SELECT seq, record_id, {wanted_by} FROM package WHERE seq < 0"
                    )
                }
            expected: list[tuple[str, int]] = []
            free = min(self._first_seq, 0) - 1
            with self._transaction():
                for record in records:
                    row = row_of(record, free)
                    known = adopted.get(row.record_id.bytes) or self._own_row(row, wanted_by)
                    if known is None:
                        self._insert(
                            row,
                            {holder: RowState.ACKED, wanted_by: RowState.PENDING},
                            own=False,
                        )
                        expected.append((row.dev_id, free))
                        free -= 1
                    elif known[1] in {RowState.ACKED, RowState.UNWANTED}:
                        self._db.execute(
                            f"UPDATE package SET {wanted_by} = {RowState.PENDING:d} WHERE seq = ?",
                            (known[0],),
                        )
                        expected.append((row.dev_id, known[0]))
                self._lower_mark(min((seq for _, seq in expected), default=self._last_seq))
            self._first_seq = min(self._first_seq, free + 1)
            for dev_id, seq in expected:
                self._expect(wanted_by, dev_id, seq)
            return len(expected)

    def salvage(self, rows: Iterable[tuple[Row, Mapping[str, RowState]]]) -> int:
        """Takes over rows of a damaged spool, with the states that they had there.

        Returns:
            How many there were.
        """
        with self._mutex:
            free = min(self._first_seq, 0) - 1
            with self._transaction():
                known = {
                    bytes(rid)
                    for (rid,) in self._db.execute("SELECT record_id FROM package WHERE seq < 0")
                }
                for row, states in rows:
                    # An attempt before this one may have been cut off after its commit.
                    if row.record_id.bytes in known:
                        continue
                    self._insert(replace(row, seq=free), states, own=False)
                    free -= 1
                self._lower_mark(free)
            taken = min(self._first_seq, 0) - 1 - free
            self._first_seq = free + 1
            self.recount()
            return taken

    # Keeping house

    def tidy(self, history_before_ms: int | None) -> int:
        """Evicts acknowledged rows: those received before, and the oldest when room is short.

        Returns:
            How many rows were evicted.
        """
        evicted = 0
        with self._mutex:
            with self._transaction():
                self._set_meta("settled_below", self._settled_below())
            if history_before_ms is not None:
                while batch := self._evict("AND received_ms < ?", (history_before_ms,)):
                    evicted += batch
            while self.used_bytes() > 0.9 * self._max_pages * PAGE_BYTES:
                if not (batch := self._evict()):
                    break
                evicted += batch
        self._keep_reserve()
        return evicted

    def make_room(self) -> int:
        """After SpoolFullError: gives up the reserve and evicts the oldest acknowledged rows.

        With the disk full, SQLite can't even delete; the reserve's room is what lets it.

        Returns:
            How many rows were evicted.
        """
        with self._mutex:
            self._reserve.unlink(missing_ok=True)
            evicted = 0
            with contextlib.suppress(SpoolError):
                evicted = self._evict()
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            return evicted

    def refresh(self) -> bool:
        """Takes notice of what another process (`dead retry`) changed in the file."""
        with self._mutex, self._errors():
            ((version,),) = self._db.execute("PRAGMA data_version").fetchall()
            if version == self._data_version:
                return False
            self._data_version = version
            self.recount()
            return True

    def recount(self) -> None:
        """Counts the rows that wait, per sink and device."""
        with self._mutex, self._errors():
            start = int(self._meta("settled_below") or _LOWEST_SEQ)
            for sink in self.sinks:
                found = self._db.execute(
                    f"SELECT dev_id, COUNT(*), MIN(seq) FROM package "
                    f"WHERE seq >= ? AND {sink} IN {_WAITING} GROUP BY dev_id",
                    (start,),
                )
                self._queues[sink] = {dev: _Queue(count, low) for dev, count, low in found}
                self.news[sink].set()

    # Looking

    @property
    def last_seq(self) -> int:
        """The number of the package that was stored last; 0 before the first."""
        return self._last_seq

    @property
    def last_row(self) -> Row | None:
        """The package that was stored last."""
        return self._last_row

    def devices(self) -> list[str]:
        """The devices that have rows in the spool, history included."""
        with self._mutex, self._errors():
            return [dev for (dev,) in self._db.execute("SELECT DISTINCT dev_id FROM package")]

    def pending(self, sink: str) -> int:
        """How many rows this sink waits for."""
        with self._mutex:
            return sum(queue.count for queue in self._queues[sink].values())

    def oldest_waiting(self, sink: str, boot_id: str) -> tuple[int, bool] | None:
        """When the oldest row that waits was received.

        Returns:
            Its uptime in milliseconds and True where it is of this boot, its wall clock in
            milliseconds and False where it is not; None when nothing waits.
        """
        with self._mutex, self._errors():
            lows = [queue.low for queue in self._queues[sink].values() if queue.count]
            if not lows:
                return None
            found = self._db.execute(
                f"SELECT received_ms, uptime_ms, boot FROM package "
                f"WHERE seq >= ? AND {sink} IN {_WAITING} ORDER BY seq LIMIT 1",
                (min(lows),),
            ).fetchone()
            if found is None:
                return None
            received_ms, uptime_ms, boot = found
            if self._boots[boot] == boot_id:
                return uptime_ms, True
            return received_ms, False

    def dead_by_reason(self, sink: str) -> dict[str, int]:
        """The dead letters of a sink, counted by reason."""
        with self._mutex, self._errors():
            return dict(
                self._db.execute(
                    "SELECT reason, COUNT(*) FROM dead WHERE sink = ? GROUP BY reason", (sink,)
                ).fetchall()
            )

    def quarantined(self) -> int:
        """How many bad lines are kept."""
        with self._mutex, self._errors():
            ((count,),) = self._db.execute("SELECT COUNT(*) FROM quarantine").fetchall()
            return int(count)

    def used_bytes(self) -> int:
        """The part of the file that is in use."""
        with self._mutex, self._errors():
            ((pages,),) = self._db.execute("PRAGMA page_count").fetchall()
            ((free,),) = self._db.execute("PRAGMA freelist_count").fetchall()
            return int(pages - free) * PAGE_BYTES

    def note(self, key: str) -> str | None:
        """A note that was left in the file (see `set_note`)."""
        with self._mutex, self._errors():
            return self._meta(key)

    def set_note(self, key: str, value: str | None) -> None:
        """Leaves a note in the file, for the agent or for a command; None takes it away."""
        with self._mutex, self._transaction():
            if value is None:
                self._db.execute("DELETE FROM meta WHERE key = ?", (key,))
            else:
                self._set_meta(key, value)

    # Inside

    def _prepare(self, boot_id: str) -> None:
        db = self._db
        db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute(f"PRAGMA max_page_count = {self._max_pages}")
        ((version,),) = db.execute("PRAGMA user_version").fetchall()
        if version not in {0, _SCHEMA_VERSION}:
            raise SpoolError(
                f"{self.path}: was written by a newer agent (format {version}): update this one"
            )
        with self._transaction():
            if version == 0:
                for statement in _SCHEMA.split(";\n"):
                    if statement.strip():
                        db.execute(statement)
                self._set_meta("epoch", uuid.uuid4())
                db.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
            self._follow_configuration()
        epoch = self._meta("epoch")
        if epoch is None:
            raise SpoolCorruptError(f"{self.path}: has no epoch")
        self.epoch = uuid.UUID(epoch)
        # Of AUTOINCREMENT, not of the rows: a number never comes back, evicted or not.
        found = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'package'").fetchone()
        self._last_seq = max(int(found[0]), 0) if found else 0
        ((first,),) = db.execute("SELECT MIN(seq) FROM package").fetchall()
        self._first_seq = first if first is not None else 0
        self._boots = dict(db.execute("SELECT number, boot_id FROM boot"))
        boot = self._boot_number(boot_id)
        ((self.unsynced,),) = db.execute(
            "SELECT COUNT(*) FROM package "
            "WHERE seq >= (SELECT first_seq FROM boot WHERE number = ?) AND boot = ? "
            f"AND clock = {ClockState.UNSYNCED:d}",
            (boot, boot),
        ).fetchall()
        last = db.execute(f"SELECT {ROW_COLUMNS} FROM package ORDER BY seq DESC LIMIT 1").fetchone()
        self._last_row = self._row(last) if last else None
        ((self._data_version,),) = db.execute("PRAGMA data_version").fetchall()
        self.recount()

    def _follow_configuration(self) -> None:
        """Rows wait for the sinks that there are now: a hub that came, or one that went."""
        for sink in SINKS:
            there = sink in self.sinks
            if self._meta(f"sink.{sink}") == str(there):
                continue
            if there:
                self._db.execute(
                    f"UPDATE package SET {sink} = {RowState.PENDING:d} "
                    f"WHERE {sink} = {RowState.UNWANTED:d}"
                )
            else:
                self._db.execute(
                    f"UPDATE package SET {sink} = {RowState.UNWANTED:d} WHERE {sink} IN {_WAITING}"
                )
            self._set_meta(f"sink.{sink}", there)
            self._lower_mark(_LOWEST_SEQ)

    def _insert(self, row: Row, states: Mapping[str, RowState], *, own: bool) -> None:
        self._db.execute(
            f"INSERT INTO package ({ROW_COLUMNS}, local, hub) "
            f"VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                row.seq,
                row.record_id.bytes,
                row.dev_id,
                row.stamp.received_ms,
                row.stamp.uptime_ms,
                self._boot_number(row.stamp.boot_id),
                row.stamp.clock,
                row.revision,
                row.payload,
                None if own else row.epoch.bytes,
                None if own else row.record_seq,
                *(states.get(sink, RowState.UNWANTED) for sink in SINKS),
            ),
        )

    def _insert_quarantine(self, received_ms: int, bad: Sequence[Quarantined]) -> None:
        if not bad:
            return
        self._db.executemany(
            "INSERT INTO quarantine (received_ms, port, reason, raw) VALUES (?, ?, ?, ?)",
            [(received_ms, item.port, item.reason, item.raw) for item in bad],
        )
        self._db.execute(
            "DELETE FROM quarantine WHERE number <= (SELECT MAX(number) FROM quarantine) - ?",
            (QUARANTINE_ROWS,),
        )

    def _own_row(self, row: Row, sink: str) -> tuple[int, int] | None:
        """Row number and state of a record that this spool made, while it is in history."""
        if row.epoch != self.epoch:
            return None
        found = self._db.execute(
            f"SELECT seq, {sink} FROM package WHERE seq = ? AND record_id = ?",
            (row.record_seq, row.record_id.bytes),
        ).fetchone()
        return None if found is None else (found[0], found[1])

    def _evict(self, condition: str = "", values: tuple[Any, ...] = ()) -> int:
        with self._transaction():
            return self._db.execute(
                "DELETE FROM package WHERE seq IN (SELECT seq FROM package "
                f"WHERE local IN {_DONE} AND hub IN {_DONE} {condition} ORDER BY seq LIMIT 500)",
                values,
            ).rowcount

    def _expect(self, sink: str, dev_id: str, seq: int) -> None:
        queue = self._queues[sink].setdefault(dev_id, _Queue(0, seq))
        queue.low = min(queue.low, seq) if queue.count else seq
        queue.count += 1
        self.news[sink].set()

    def _settled_below(self) -> int:
        lows = [q.low for queues in self._queues.values() for q in queues.values() if q.count]
        return min(lows, default=self._last_seq + 1)

    def _lower_mark(self, seq: int) -> None:
        """Rows from `seq` on wait again: no count may begin above it."""
        mark = int(self._meta("settled_below") or _LOWEST_SEQ)
        self._set_meta("settled_below", min(mark, seq))

    def _boot_number(self, boot_id: str) -> int:
        for number, known in self._boots.items():
            if known == boot_id:
                return number
        cursor = self._db.execute(
            "INSERT INTO boot (boot_id, first_seq) VALUES (?, ?)", (boot_id, self._last_seq + 1)
        )
        number = cursor.lastrowid or 0
        self._boots[number] = boot_id
        return number

    def _row(self, columns: Sequence[Any]) -> Row:
        return make_row(columns, self._boots, self.epoch)

    def _meta(self, key: str) -> str | None:
        found = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if found is None else str(found[0])

    def _set_meta(self, key: str, value: object) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (key, str(value))
        )

    def _keep_reserve(self) -> None:
        if self._reserve.exists() and self._reserve.stat().st_size >= RESERVE_BYTES:
            return
        try:
            with self._reserve.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, RESERVE_BYTES)
        except OSError:
            self._reserve.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        boots = dict(self._boots)
        with self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                # SQLite has already rolled back by itself after some of its errors.
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                self._boots = boots
                raise

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        with translated(self.path):
            yield


def make_row(columns: Sequence[Any], boots: Mapping[int, str], epoch: uuid.UUID) -> Row:
    """The row of ROW_COLUMNS."""
    (seq, rid, dev_id, received, uptime, boot, clock, revision, payload, own, number) = columns[:11]
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
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            raise SpoolFullError(
                f"{path}: there is no room for another package: free space on the disk, or raise "
                f"[spool] max_mb"
            ) from error
        if code in _DAMAGE:
            raise SpoolCorruptError(f"{path}: the spool is damaged: {error}") from error
        raise SpoolError(f"{path}: the spool can't be used: {error}") from error
