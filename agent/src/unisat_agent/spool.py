"""The spool: the agent's durable queue, where a package is safe before anything else happens.

SQLite in WAL mode with synchronous=FULL: what `append` returned from has been fsynced. A row has
a state per sink; rows that some sink still waits for are never evicted.

No index serves the queues, because each would cost every package another page of write-ahead log
on an SD card. What the delivery must know (how many rows wait, and from where) is kept in memory
instead, counted anew when the spool is opened.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from unisat_agent.clock import ClockState
from unisat_agent.errors import SpoolCorruptError, SpoolError, SpoolFullError
from unisat_agent.queues import Queues
from unisat_agent.record import Record, Row, Stamp, record_id, row_of
from unisat_agent.spool_file import (
    DONE,
    LOWEST_SEQ,
    PAGE_BYTES,
    ROW_COLUMNS,
    SCHEMA,
    SCHEMA_VERSION,
    SINKS,
    SQL_DONE,
    SQL_WAITING,
    Reserve,
    RowState,
    connect,
    lock,
    make_row,
    names,
    translated,
)

QUARANTINE_ROWS = 10_000
# The youngest rows are looked through for live records, so this bounds the cost of that look.
LIVE_WINDOW_ROWS = 100
EVICT_ROWS = 500
SWEEP_ROWS = 5000

_T = TypeVar("_T")


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


class Spool:
    """The open spool of a running agent; safe to use from several threads.

    Args:
        path: The database file; its folder is made.
        sinks: The sinks that this station delivers to; rows wait for no other.
        boot_id: The kernel's id of this boot.
        max_bytes: The size that the file may reach.

    Raises:
        SpoolBusyError: Another agent has it.
        SpoolCorruptError: The file is damaged: see `spool_repair.open_spool`.
        SpoolError: It can't be opened.
    """

    def __init__(self, path: Path, sinks: Iterable[str], boot_id: str, max_bytes: int) -> None:
        self.path = path
        self.sinks = tuple(sink for sink in SINKS if sink in set(sinks))
        self.news = {sink: threading.Event() for sink in self.sinks}
        self._mutex = threading.RLock()
        self._max_pages = max(max_bytes // PAGE_BYTES, 64)
        self._reserve = Reserve(path)
        self._queues = Queues(self.sinks)
        self.unsynced = 0
        """Rows of this boot whose time is not known yet."""
        self._last_seq = 0
        self._first_seq = 0
        self._last_row: Row | None = None
        self._boots: dict[int, str] = {}
        self._boot_id = boot_id
        self._data_version = 0
        # Whether there may be a row that no sink waits for, and how far they were swept for age.
        self._evictable = True
        self._swept = LOWEST_SEQ
        self._lock_file = lock(path)
        try:
            self._db = connect(path)
            try:
                with self._errors():
                    self._prepare()
            except BaseException:
                self._db.close()
                raise
        except BaseException:
            os.close(self._lock_file)
            raise
        self._reserve.take()

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
            return self._queues.devices(sink)

    def take(self, sink: str, dev_id: str, limit: int, hold: Hold | None = None) -> list[Waiting]:
        """Up to `limit` rows that wait: a fifth of them the youngest, then the oldest.

        So a live record is never stuck behind a backlog. The rows come in the order of seq, and
        stay in the spool until they are settled.
        """
        with self._mutex, self._errors():
            low = self._queues.low(sink, dev_id)
            if low is None:
                return []
            select = f"SELECT {ROW_COLUMNS}, {sink} FROM package WHERE {sink} IN {SQL_WAITING} "
            oldest = self._db.execute(
                select + "AND dev_id = ? AND seq >= ? ORDER BY seq LIMIT ?",
                (dev_id, low, limit),
            ).fetchall()
            if oldest:
                low = oldest[0][0]
                self._queues.raise_low(sink, dev_id, low)
            youngest = self._db.execute(
                select + "AND dev_id = ? AND seq > ? ORDER BY seq DESC LIMIT ?",
                (dev_id, max(low - 1, self._last_seq - LIVE_WINDOW_ROWS), -(-limit // 5)),
            ).fetchall()
            found = {
                columns[0]: Waiting(self._row(columns), columns[-1] == RowState.STALE)
                for columns in (*youngest, *oldest)
            }
        ready = [w for w in found.values() if hold is None or not hold.holds(w.row.stamp)]
        return sorted(ready[:limit], key=lambda waiting: waiting.row.seq)

    def settle(self, sink: str, rows: Iterable[Row]) -> None:
        """Commits that the sink has acknowledged these rows, as they were when taken."""
        rows = list(rows)
        with self._mutex:
            for row, states in self._with_reserve(lambda: self._settle(sink, rows)):
                self._queues.remove(sink, row.dev_id)
                self._evictable |= DONE.issuperset(states)

    def _settle(self, sink: str, rows: list[Row]) -> list[tuple[Row, list[int]]]:
        """The rows that wait no more, and what each sink has of them."""
        done: list[tuple[Row, list[int]]] = []
        with self._transaction():
            for row in rows:
                cursor = self._db.execute(
                    f"UPDATE package SET {sink} = CASE WHEN revision = ? "
                    f"THEN {RowState.ACKED:d} ELSE {RowState.STALE:d} END "
                    f"WHERE seq = ? AND {sink} IN {SQL_WAITING} RETURNING {sink}, local, hub",
                    (row.revision, row.seq),
                )
                done += [
                    (row, states) for new, *states in cursor.fetchall() if new == RowState.ACKED
                ]
        return done

    def mark_stale(self, sink: str, row: Row) -> None:
        """Commits that the sink has this row with another time: it will be written over."""

        def write() -> None:
            with self._transaction():
                self._db.execute(
                    f"UPDATE package SET {sink} = {RowState.STALE:d} "
                    f"WHERE seq = ? AND {sink} = {RowState.PENDING:d}",
                    (row.seq,),
                )

        with self._mutex:
            self._with_reserve(write)

    def bury(self, sink: str, row: Row, reason: str, detail: str) -> None:
        """Commits that the sink will never take this row; it is kept and can be retried."""

        def write() -> int:
            with self._transaction():
                changed = self._db.execute(
                    f"UPDATE package SET {sink} = {RowState.DEAD:d} "
                    f"WHERE seq = ? AND {sink} IN {SQL_WAITING}",
                    (row.seq,),
                ).rowcount
                if changed:
                    self._db.execute(
                        "INSERT OR REPLACE INTO dead (seq, sink, reason, detail) "
                        "VALUES (?, ?, ?, ?)",
                        (row.seq, sink, reason, detail),
                    )
                return changed

        with self._mutex:
            if self._with_reserve(write):
                self._queues.remove(sink, row.dev_id)

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
            with self._errors():
                found = self._db.execute(
                    "SELECT number, first_seq FROM boot WHERE boot_id = ?", (boot_id,)
                ).fetchone()
            if found is None:
                return 0
            number, first_seq = found
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
            waits = " OR ".join(f"{sink} IN {SQL_WAITING}" for sink in self.sinks)
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
            expected: list[tuple[str, int]] = []
            unsynced = 0
            free = min(self._first_seq, 0) - 1
            with self._transaction():
                for record in records:
                    row = row_of(record, free)
                    known = self._adopted(row, wanted_by) or self._own_row(row, wanted_by)
                    if known is None:
                        self._insert(
                            row,
                            {holder: RowState.ACKED, wanted_by: RowState.PENDING},
                            own=False,
                        )
                        expected.append((row.dev_id, free))
                        unsynced += self._waits_for_time(row)
                        free -= 1
                    elif known[1] in {RowState.ACKED, RowState.UNWANTED}:
                        self._db.execute(
                            f"UPDATE package SET {wanted_by} = {RowState.PENDING:d} WHERE seq = ?",
                            (known[0],),
                        )
                        expected.append((row.dev_id, known[0]))
                self._lower_mark(min((seq for _, seq in expected), default=self._last_seq))
            self._first_seq = min(self._first_seq, free + 1)
            self.unsynced += unsynced
            for dev_id, seq in expected:
                self._expect(wanted_by, dev_id, seq)
            return len(expected)

    def salvage(self, rows: Iterable[tuple[Row, Mapping[str, RowState]]]) -> int:
        """Takes over rows of another spool, with the states that they had there, all or none.

        Rows that were taken over before are left out; dead letters are tried again.

        Returns:
            How many there were.

        Raises:
            SpoolFullError: There is no room for all of them.
        """
        with self._mutex:
            taken = unsynced = 0
            free = min(self._first_seq, 0) - 1
            with self._transaction():
                for row, states in rows:
                    if self._adopted(row, "local"):
                        continue
                    wanted = {sink: self._wanted(sink, state) for sink, state in states.items()}
                    self._insert(replace(row, seq=free), wanted, own=False)
                    unsynced += self._waits_for_time(row)
                    taken += 1
                    free -= 1
                self._lower_mark(free)
            self._first_seq = min(self._first_seq, free + 1)
            self.unsynced += unsynced
            self._evictable = True
            self.recount()
            return taken

    def _wanted(self, sink: str, state: RowState) -> RowState:
        """What a row of another spool is for a sink of this one."""
        if sink not in self.sinks:
            return RowState.UNWANTED if state is not RowState.ACKED else state
        return RowState.PENDING if state in {RowState.DEAD, RowState.UNWANTED} else state

    def _waits_for_time(self, row: Row) -> bool:
        return row.stamp.clock is ClockState.UNSYNCED and row.stamp.boot_id == self._boot_id

    # Keeping house

    def tidy(self, history_before_ms: int | None) -> int:
        """Evicts acknowledged rows: those received before, and the oldest when room is short.

        One call looks at SWEEP_ROWS rows for their age, and the next call at those after them:
        nobody waits long for it, however much history there is.

        Returns:
            How many rows were evicted.
        """
        evicted = 0
        with self._mutex:
            with self._transaction():
                # The mark must not pass the dead letters that another process lets wait again.
                self.refresh()
                if self._meta("settled_below") != str(self._settled_below()):
                    self._set_meta("settled_below", self._settled_below())
            if history_before_ms is not None:
                evicted = self._sweep(history_before_ms)
            while self.used_bytes() > 0.9 * self._max_pages * PAGE_BYTES:
                if not (batch := self._evict()):
                    break
                evicted += batch
        self._reserve.take()
        return evicted

    def make_room(self) -> int:
        """After SpoolFullError: evicts the oldest acknowledged rows.

        Returns:
            How many rows were evicted.
        """
        with self._mutex:
            evicted = self._use_reserve()
            if not evicted:
                # Only acknowledgements can make room now, and to write them down takes some.
                self._reserve.take()
            return evicted

    def _use_reserve(self) -> int:
        """With the disk full, SQLite can't even delete; the reserve's room is what lets it."""
        self._reserve.give_up()
        evicted = 0
        with contextlib.suppress(SpoolError):
            evicted = self._evict()
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return evicted

    def _with_reserve(self, write: Callable[[], _T]) -> _T:
        """Does what makes rows leave one day, with the room of the reserve if there is no other."""
        try:
            return write()
        except SpoolFullError:
            self._use_reserve()
            return write()

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
            start = int(self._meta("settled_below") or LOWEST_SEQ)
            for sink in self.sinks:
                found = self._db.execute(
                    f"SELECT dev_id, COUNT(*), MIN(seq) FROM package "
                    f"WHERE seq >= ? AND {sink} IN {SQL_WAITING} GROUP BY dev_id",
                    (start,),
                )
                self._queues.recount(sink, found)
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
            return self._queues.pending(sink)

    def oldest_waiting(self, sink: str, boot_id: str) -> tuple[int, bool] | None:
        """When the oldest row that waits was received.

        Returns:
            Its uptime in milliseconds and True where it is of this boot, its wall clock in
            milliseconds and False where it is not; None when nothing waits.
        """
        with self._mutex, self._errors():
            low = self._queues.lowest(sink)
            if low is None:
                return None
            found = self._db.execute(
                f"SELECT received_ms, uptime_ms, boot FROM package "
                f"WHERE seq >= ? AND {sink} IN {SQL_WAITING} ORDER BY seq LIMIT 1",
                (low,),
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

    def _prepare(self) -> None:
        db = self._db
        db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute(f"PRAGMA max_page_count = {self._max_pages}")
        ((version,),) = db.execute("PRAGMA user_version").fetchall()
        if version not in {0, SCHEMA_VERSION}:
            raise SpoolError(
                f"{self.path}: was written by a newer agent (format {version}): update this one"
            )
        with self._transaction():
            if version == 0:
                for statement in SCHEMA.split(";\n"):
                    if statement.strip():
                        db.execute(statement)
                self._set_meta("epoch", uuid.uuid4())
                db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            self._follow_configuration()
        try:
            self.epoch, self._boots = names(db)
        except ValueError as error:
            raise SpoolCorruptError(
                f"{self.path}: the spool is damaged: it has no epoch"
            ) from error
        # Of AUTOINCREMENT, not of the rows: a number never comes back, evicted or not.
        found = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'package'").fetchone()
        self._last_seq = max(int(found[0]), 0) if found else 0
        ((first,),) = db.execute("SELECT MIN(seq) FROM package").fetchall()
        self._first_seq = first if first is not None else 0
        ((self.unsynced,),) = db.execute(
            "SELECT COUNT(*) FROM boot JOIN package ON seq >= first_seq AND boot = number "
            f"WHERE boot_id = ? AND clock = {ClockState.UNSYNCED:d}",
            (self._boot_id,),
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
                    f"UPDATE package SET {sink} = {RowState.UNWANTED:d} "
                    f"WHERE {sink} IN {SQL_WAITING}"
                )
            self._set_meta(f"sink.{sink}", there)
            self._lower_mark(LOWEST_SEQ)

    def _insert(self, row: Row, states: Mapping[str, RowState], *, own: bool) -> None:
        boot = self._boot_number(row.stamp.boot_id, row.seq)
        self._db.execute(
            f"INSERT INTO package ({ROW_COLUMNS}, local, hub) "
            f"VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                row.seq,
                row.record_id.bytes,
                row.dev_id,
                row.stamp.received_ms,
                row.stamp.uptime_ms,
                boot,
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

    def _adopted(self, row: Row, sink: str) -> tuple[int, int] | None:
        """Row number and state of a record that this spool took over."""
        found = self._db.execute(
            f"SELECT seq, {sink} FROM package WHERE seq < 0 AND record_id = ?",
            (row.record_id.bytes,),
        ).fetchone()
        return None if found is None else (found[0], found[1])

    def _evict(self) -> int:
        """Evicts the oldest rows that no sink waits for."""
        if not self._evictable:
            return 0
        evicted = self._delete(
            f"seq IN (SELECT seq FROM package WHERE local IN {SQL_DONE} AND hub IN {SQL_DONE} "
            "ORDER BY seq LIMIT ?)",
            (EVICT_ROWS,),
        )
        # So that a spool full of waiting rows is not searched again until some are acknowledged.
        self._evictable = evicted == EVICT_ROWS
        return evicted

    def _sweep(self, before_ms: int) -> int:
        """Evicts old rows from the next part of the spool."""
        with self._errors():
            ((count, last),) = self._db.execute(
                "SELECT COUNT(*), MAX(seq) FROM "
                "(SELECT seq FROM package WHERE seq > ? ORDER BY seq LIMIT ?)",
                (self._swept, SWEEP_ROWS),
            ).fetchall()
        evicted = self._delete(
            f"seq > ? AND seq <= ? AND received_ms < ? "
            f"AND local IN {SQL_DONE} AND hub IN {SQL_DONE}",
            (self._swept, last, before_ms),
        )
        self._swept = last if count == SWEEP_ROWS else LOWEST_SEQ
        return evicted

    def _delete(self, condition: str, values: tuple[int, ...]) -> int:
        with self._transaction():
            gone = self._db.execute(
                f"DELETE FROM package WHERE {condition} RETURNING clock, boot", values
            ).fetchall()
        self.unsynced -= sum(
            clock == ClockState.UNSYNCED and self._boots.get(boot) == self._boot_id
            for clock, boot in gone
        )
        return len(gone)

    def _expect(self, sink: str, dev_id: str, seq: int) -> None:
        self._queues.add(sink, dev_id, seq)
        self.news[sink].set()

    def _settled_below(self) -> int:
        low = self._queues.lowest()
        return self._last_seq + 1 if low is None else low

    def _lower_mark(self, seq: int) -> None:
        """Rows from `seq` on wait again: no count may begin above it."""
        mark = int(self._meta("settled_below") or LOWEST_SEQ)
        self._set_meta("settled_below", min(mark, seq))

    def _boot_number(self, boot_id: str, seq: int) -> int:
        """The number of a boot that has the row `seq`."""
        for number, known in self._boots.items():
            if known == boot_id:
                if seq < 0:
                    self._db.execute(
                        "UPDATE boot SET first_seq = ? WHERE number = ? AND first_seq > ?",
                        (seq, number, seq),
                    )
                return number
        cursor = self._db.execute(
            "INSERT INTO boot (boot_id, first_seq) VALUES (?, ?)", (boot_id, seq)
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
