"""The open database of a spool: one connection, one mutex, short transactions."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from unisat_agent.errors import SpoolCorruptError, SpoolError
from unisat_agent.record import Row
from unisat_agent.spool.files import Pace, Reserve, connect, lock, translated
from unisat_agent.spool.migrations import Progress, migrate
from unisat_agent.spool.schema import (
    PAGE_BYTES,
    ROW_COLUMNS,
    SINKS,
    RowState,
    epoch_and_boots,
    make_row,
)

# SQLite copies the log into the database from 1,000 pages on, 1 MB; a long reader lets it grow, and
# afterwards it is cut to this. Both are an eighth of a small spool's size at most.
WAL_LIMIT_BYTES = 4 * 1024 * 1024
RESERVE_BYTES = 1024 * 1024
_CHECKPOINT_PAGES = 1000
_MIN_PAGES = 64
# Between two chunks of a long task, so that a package that came meanwhile is stored first.
_PAUSE_S = 0.001
_PAUSES_MAX = 1000
_WINDOW_ROWS_MIN = 500


class Database:
    """The database of a running agent, locked against other agents.

    Args:
        path: The file; its folder is made.
        max_bytes: What the spool may take up on the disk with all that belongs to it.
        progress: Called now and then while an older schema is migrated.

    Raises:
        SpoolBusyError: Another agent has it.
        SpoolCorruptError: The file is damaged.
        SpoolError: It can't be opened.
    """

    def __init__(self, path: Path, max_bytes: int, progress: Progress) -> None:
        self.path = path
        self.mutex = threading.RLock()
        # Waited for, not slept: a sleep fails where the test's libfaketime steps the clock.
        self._never = threading.Event()
        self._urgent = 0
        self._counting = threading.Lock()
        self.max_bytes = max_bytes
        self._wal_limit = min(WAL_LIMIT_BYTES, max_bytes // 8)
        self._reserve_bytes = min(RESERVE_BYTES, max_bytes // 8)
        self.reserve = Reserve(path, self._reserve_bytes)
        self._overhead = self._wal_limit + self._reserve_bytes
        self.max_pages = 0
        self.last_seq = 0
        """The number of the package that was stored last; 0 before the first."""
        self.first_seq = 0
        """The lowest number of an adopted row; 0 before the first."""
        self._boots: dict[int, str] = {}
        self._data_version = 0
        self._lock_file = lock(path)
        try:
            try:
                self._open(progress)
            except SpoolCorruptError:
                raise
            except SpoolError:
                # With the disk full SQLite can't even make the index of its log.
                if not self.reserve.give_up():
                    raise
                self._open(progress)
        except BaseException:
            os.close(self._lock_file)
            raise

    def _open(self, progress: Progress) -> None:
        self._db = connect(self.path)
        try:
            with translated(self.path):
                self._db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = FULL")
                self._db.execute(f"PRAGMA journal_size_limit = {self._wal_limit}")
                pages = min(_CHECKPOINT_PAGES, max(self._wal_limit // PAGE_BYTES // 2, 1))
                self._db.execute(f"PRAGMA wal_autocheckpoint = {pages}")
                migrate(self._db, self.path, progress)
                try:
                    self.epoch, self._boots = epoch_and_boots(self._db)
                except ValueError as error:
                    raise SpoolCorruptError(
                        f"{self.path}: the spool is damaged: it has no epoch"
                    ) from error
                self._data_version = self._asked_data_version()
                # From the tallies, so a number is never reused, even after eviction.
                self.last_seq = max(
                    self.number("SELECT MAX(newest) FROM tally") or 0,
                    int(self.note("last_seq") or 0),
                )
                self.first_seq = min(self.number("SELECT MIN(seq) FROM package") or 0, 0)
            self.limit(0)
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Closes the file; nothing can be done with it after."""
        with self.mutex:
            self._db.close()
            # What the log took up is free now: the next start may need it.
            self.reserve.take()
            os.close(self._lock_file)

    def limit(self, others_bytes: int) -> None:
        """Caps the file at what `max_bytes` leaves beside the log, the reserve and others."""
        room = self.max_bytes - self._overhead - others_bytes
        self.max_pages = max(room // PAGE_BYTES, _MIN_PAGES)
        self._cap(self.max_pages)

    @contextlib.contextmanager
    def beyond_limit(self) -> Iterator[None]:
        """Lets the file grow by the size of the reserve, for what makes rows leave one day."""
        with self.mutex:
            self._cap(self.max_pages + self._reserve_bytes // PAGE_BYTES)
            try:
                yield
            finally:
                self._cap(self.max_pages)

    def _cap(self, pages: int) -> None:
        with self.reading() as db:
            db.execute(f"PRAGMA max_page_count = {pages}")

    # Using it

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, for short questions.

        Raises:
            SpoolError: The spool can't be used.
        """
        with self.mutex, translated(self.path):
            yield self._db

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """The connection in a transaction, committed to the disk at the end.

        Raises:
            SpoolFullError: Nothing was changed.
            SpoolError: Likewise, for another reason.
        """
        with self.reading() as db:
            boots = dict(self._boots)
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                # SQLite has already rolled back by itself after some of its errors.
                if db.in_transaction:
                    db.execute("ROLLBACK")
                self._boots = boots
                raise

    @contextlib.contextmanager
    def first(self) -> Iterator[None]:
        """The mutex, before any long task goes on: for a package, which can't wait."""
        with self._counting:
            self._urgent += 1
        try:
            with self.mutex:
                yield
        finally:
            with self._counting:
                self._urgent -= 1

    def pause(self) -> None:
        """Between two chunks of a long task, without the mutex: others go first."""
        self._never.wait(_PAUSE_S)
        # A mutex is not fair: whoever waits for it may come too late in that moment.
        for _ in range(_PAUSES_MAX):
            if not self._urgent:
                break
            self._never.wait(_PAUSE_S)

    def ask(self, question: str, values: Sequence[Any] = ()) -> list[Any]:
        """All rows of the answer."""
        with self.reading() as db:
            return db.execute(question, values).fetchall()

    def number(self, question: str, values: Sequence[Any] = ()) -> int | None:
        """The one number of the answer, or None."""
        found = self.ask(question, values)
        return None if not found or found[0][0] is None else int(found[0][0])

    def checkpoint(self) -> None:
        """Copies the log into the database and cuts it, as far as that is possible now."""
        with contextlib.suppress(SpoolError), self.reading() as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def changed_by_others(self) -> bool:
        """Whether another process wrote to the file since the last call."""
        with self.mutex:
            version = self._asked_data_version()
            if version == self._data_version:
                return False
            self._data_version = version
            return True

    def _asked_data_version(self) -> int:
        return self.number("PRAGMA data_version") or 0

    # Rows

    def insert(self, row: Row, states: Mapping[str, RowState], *, own: bool) -> None:
        """Inserts a row, in a transaction of the caller; a sink without a state is PENDING."""
        boot = self._boot_number(row.stamp.boot_id, row.seq)
        self._db.execute(
            f"INSERT INTO package ({ROW_COLUMNS}, {', '.join(SINKS)}) "
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
                *(states.get(sink, RowState.PENDING) for sink in SINKS),
            ),
        )

    def row(self, columns: Sequence[Any]) -> Row:
        """The row of ROW_COLUMNS.

        Raises:
            SpoolCorruptError: It can't be one.
        """
        return make_row(columns, self._boots, self.epoch)

    def boot_id(self, number: int) -> str | None:
        """The id of the boot with this number."""
        return self._boots.get(number)

    def _boot_number(self, boot_id: str, seq: int) -> int:
        for number, known in self._boots.items():
            if known == boot_id:
                return number
        cursor = self._db.execute(
            "INSERT INTO boot (boot_id, unsynced_low) VALUES (?, ?)", (boot_id, seq)
        )
        number = cursor.lastrowid or 0
        self._boots[number] = boot_id
        return number

    # Notes

    def note(self, key: str) -> str | None:
        """A note in the file (see `set_note`)."""
        found = self.ask("SELECT value FROM meta WHERE key = ?", (key,))
        return str(found[0][0]) if found else None

    def set_note(self, key: str, value: object | None) -> None:
        """Leaves a note in the file; None removes it. In a transaction of the caller, or alone."""
        with self.reading() as db:
            if value is None:
                db.execute("DELETE FROM meta WHERE key = ?", (key,))
            else:
                db.execute(
                    "INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (key, str(value))
                )


def windows(database: Database, start: int, stop: int, size: int) -> Iterator[tuple[int, int]]:
    """Splits the numbers from `start` up to `stop` into ranges of at most `size` numbers.

    Gaps between rows are skipped; between two ranges others have the spool. Ranges are smaller
    where rows come slowly from the disk.
    """
    pace = Pace(size, _WINDOW_ROWS_MIN)
    while start < stop:
        found = database.number(
            "SELECT MIN(seq) FROM package WHERE seq >= ? AND seq < ?", (start, stop)
        )
        if found is None:
            return
        start = min(found + pace.rows, stop)
        with pace.measured():
            yield found, start
        database.pause()
