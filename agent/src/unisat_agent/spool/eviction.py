"""Letting history go: by its age, and when there is no room.

Only rows that no sink waits for go. Each look reads a bounded range of rows.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from unisat_agent.errors import SpoolError, SpoolFullError
from unisat_agent.spool.database import Database, windows
from unisat_agent.spool.files import copy_bytes, delete_copy, set_aside_copies, wal_bytes
from unisat_agent.spool.quarantine import Quarantine
from unisat_agent.spool.schema import LOWEST_SEQ, PAGE_BYTES, SQL_DONE

EVICT_ROWS = 250
SWEEP_ROWS = 5000
COPIES_MAX = 3
_SWEEP_STEP_ROWS = 250
_WINDOW_ROWS = 5000
_FULL = 0.9

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Eviction:
    """Keeps the spool within its size.

    Args:
        database: Where the rows are.
        sinks: The sinks of this station; no other is waited for.
        quarantine: Goes before history does.
    """

    def __init__(self, database: Database, sinks: Sequence[str], quarantine: Quarantine) -> None:
        self._database = database
        self._quarantine = quarantine
        self._done = " AND ".join(f"{sink} IN {SQL_DONE}" for sink in sinks)
        # No row below can be evicted.
        self._evictable_from = LOWEST_SEQ
        self._swept = LOWEST_SEQ
        self._copies_bytes = 0

    def evictable(self, seq: int) -> None:
        """Notes that no sink waits for this row any more."""
        with self._database.mutex:
            self._evictable_from = min(self._evictable_from, seq)

    def tidy(self, history_before_ms: int | None) -> int:
        """Evicts acknowledged rows: those received before, and the oldest when room is short.

        One call looks at SWEEP_ROWS rows for their age, and the next call at those after them.

        Returns:
            How many rows were evicted.
        """
        self.bound_copies()
        evicted = 0 if history_before_ms is None else self._sweep(history_before_ms)
        while self._pages() > _FULL * self._database.max_pages:
            if not (batch := self._evict()):
                break
            evicted += batch
            self._database.pause()
        self._database.reserve.take()
        return evicted

    def make_room(self) -> int:
        """After SpoolFullError: lets go what can be spared, the least valuable first.

        Bad lines go before the oldest acknowledged rows, and those before set-aside copies.

        Returns:
            How many lines, rows or copies went.
        """
        freed = self._use_reserve()
        if not freed:
            # Only acknowledgements can make room now, and to write them down takes some.
            self._database.reserve.take()
        return freed

    def with_reserve(self, write: Callable[[], _T]) -> _T:
        """Does what makes rows leave one day, with the room of the reserve if there is no other."""
        try:
            return write()
        except SpoolFullError:
            self._use_reserve()
            try:
                with self._database.beyond_limit():
                    return write()
            finally:
                # Or packages would take the room, and the next acknowledgement found none.
                self._database.checkpoint()
                self._database.reserve.take()

    def used_bytes(self) -> int:
        """What the spool takes up on the disk: rows, log, reserve and set-aside copies."""
        return (
            self._pages() * PAGE_BYTES
            + wal_bytes(self._database.path)
            + self._database.reserve.size
            + self._copies_bytes
        )

    def bound_copies(self) -> None:
        """Deletes the oldest set-aside copies when they are many or large.

        They count against the spool's size. A damaged spool that is still being read does not:
        there would be no room for what is saved from it.
        """
        sizes = {copy: copy_bytes(copy) for copy in set_aside_copies(self._database.path)}
        while sizes and (
            len(sizes) > COPIES_MAX or sum(sizes.values()) > self._database.max_bytes // 2
        ):
            oldest = next(iter(sizes))
            self._delete_copy(oldest)
            del sizes[oldest]
        total = sum(sizes.values())
        if total != self._copies_bytes:
            self._copies_bytes = total
            self._database.limit(total)

    def forget(self) -> None:
        """Another process changed the file: any row may be evictable now."""
        with self._database.mutex:
            self._evictable_from = LOWEST_SEQ

    def _delete_copy(self, copy: Path) -> None:
        delete_copy(copy)
        _log.warning("%s: deleted: the copies of damaged spools take up too much room", copy)

    def _pages(self) -> int:
        pages = self._database.number("PRAGMA page_count") or 0
        return pages - (self._database.number("PRAGMA freelist_count") or 0)

    def _use_reserve(self) -> int:
        """With the disk full, SQLite can't even delete; the reserve's room is what lets it."""
        self._database.reserve.give_up()
        freed = 0
        with contextlib.suppress(SpoolError):
            freed = self._quarantine.make_room() or self._evict() or self._evict_copy()
        self._database.checkpoint()
        return freed

    def _evict_copy(self) -> int:
        oldest = set_aside_copies(self._database.path)[:1]
        for copy in oldest:
            self._delete_copy(copy)
            self.bound_copies()
        return len(oldest)

    def _evict(self) -> int:
        """Evicts the oldest rows that no sink waits for."""
        position = self._evictable_from
        for start, stop in windows(
            self._database, position, self._database.last_seq + 1, _WINDOW_ROWS
        ):
            with self._database.mutex:
                evicted = self._delete(
                    "seq IN (SELECT seq FROM package WHERE seq >= ? AND seq < ? "
                    f"AND {self._done} ORDER BY seq LIMIT ?)",
                    (start, stop, EVICT_ROWS),
                )
                if evicted:
                    return evicted
                if self._evictable_from != position:
                    # A row below became evictable meanwhile.
                    return self._evict()
                self._evictable_from = position = stop
        return 0

    def _sweep(self, before_ms: int) -> int:
        """Evicts old rows from the next part of the spool."""
        evicted = 0
        steps = SWEEP_ROWS // _SWEEP_STEP_ROWS
        for start, stop in windows(
            self._database, self._swept, self._database.last_seq + 1, _SWEEP_STEP_ROWS
        ):
            if not steps:
                return evicted
            steps -= 1
            evicted += self._delete(
                f"seq >= ? AND seq < ? AND received_ms < ? AND {self._done}",
                (start, stop, before_ms),
            )
            self._swept = stop
        self._swept = LOWEST_SEQ
        return evicted

    def _delete(self, condition: str, values: tuple[int, ...]) -> int:
        with self._database.transaction() as db:
            return db.execute(f"DELETE FROM package WHERE {condition}", values).rowcount
