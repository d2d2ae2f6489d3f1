"""What each sink waits for: counts from the tallies, rows from the marks on.

A search reads a bounded range of rows at a time and lets others go first in between. How far it
came is kept in memory, and written down with the next acknowledgement.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from unisat_agent.clock import ClockState
from unisat_agent.errors import SpoolCorruptError
from unisat_agent.record import Row, Stamp
from unisat_agent.spool.database import Database, windows
from unisat_agent.spool.schema import ROW_COLUMNS, SQL_WAITING, RowState

# The youngest rows are looked through for live records, so this bounds the cost of that look.
LIVE_WINDOW_ROWS = 100
_WINDOW_ROWS = 5000

_log = logging.getLogger(__name__)


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


@dataclass(frozen=True, slots=True)
class _Queue:
    """The rows of one device that wait for one sink: how many, and none below `low`."""

    dev_id: str
    own: int
    count: int
    low: int
    turned: int


class Backlog:
    """The queues of all sinks and devices.

    Args:
        database: Where the rows are.
        sinks: The sinks of this station.
        on_damaged_row: Called with the number of a row that can't be one.
    """

    def __init__(
        self, database: Database, sinks: Sequence[str], on_damaged_row: Callable[[int, str], None]
    ) -> None:
        self._database = database
        self._sinks = sinks
        self._on_damaged_row = on_damaged_row
        # How far each queue was searched: valid while no row below began to wait (`turned`).
        self._found: dict[tuple[str, str, int], tuple[int, int]] = {}

    def devices(self, sink: str) -> list[str]:
        """The devices that have rows for this sink."""
        return [
            dev_id
            for (dev_id,) in self._database.ask(
                f"SELECT DISTINCT dev_id FROM tally WHERE {sink} > 0 ORDER BY dev_id"
            )
        ]

    def live(self, sink: str) -> list[str]:
        """The devices that have rows for this sink among the youngest, the youngest first."""
        return [
            dev_id
            for (dev_id,) in self._database.ask(
                f"SELECT dev_id FROM package WHERE seq > ? AND {sink} IN {SQL_WAITING} "
                "GROUP BY dev_id ORDER BY MAX(seq) DESC",
                (self._database.last_seq - LIVE_WINDOW_ROWS,),
            )
        ]

    def pending(self, sink: str) -> int:
        """How many rows this sink waits for."""
        return self._database.number(f"SELECT SUM({sink}) FROM tally") or 0

    def take(self, sink: str, dev_id: str, limit: int, hold: Hold | None) -> list[Waiting]:
        """See `Spool.take`."""
        queues = self._queues(sink, dev_id)
        if not queues:
            return []
        youngest = self._rows(
            sink,
            "dev_id = ? AND seq > ? ORDER BY seq DESC LIMIT ?",
            (dev_id, self._database.last_seq - LIVE_WINDOW_ROWS, -(-limit // 5)),
        )
        known = {columns[0]: columns for columns in youngest}
        oldest = 0
        for queue in queues:
            low: int | None = None
            for start, stop in windows(self._database, queue.low, self._end(queue), _WINDOW_ROWS):
                rows = self._rows(
                    sink,
                    "dev_id = ? AND seq >= ? AND seq < ? ORDER BY seq LIMIT ?",
                    (dev_id, start, stop, limit - oldest),
                )
                if rows and low is None:
                    low = rows[0][0]
                self._note(sink, queue, stop if low is None else low)
                oldest += len(rows)
                known |= {columns[0]: columns for columns in rows}
                # The counts say when all of them are found, and the rest need not be read.
                if sum((seq > 0) == queue.own for seq in known) >= queue.count or oldest >= limit:
                    break
            if oldest >= limit:
                break
        ready = [
            waiting
            for waiting in self._decoded(known.values())
            if hold is None or not hold.holds(waiting.row.stamp)
        ]
        return sorted(ready[:limit], key=lambda waiting: waiting.row.seq)

    def oldest(self, sink: str) -> tuple[int, int, str | None] | None:
        """Received, uptime (milliseconds) and boot id of the oldest row; None if none waits."""
        seq = self._first(sink, self._queues(sink))
        if seq is None:
            return None
        found = self._database.ask(
            "SELECT received_ms, uptime_ms, boot FROM package WHERE seq = ?", (seq,)
        )
        if not found:
            return None
        received_ms, uptime_ms, boot = found[0]
        return received_ms, uptime_ms, self._database.boot_id(boot)

    def lowest_own(self, dev_id: str | None = None) -> int | None:
        """The lowest own number, of a device or of all, that some sink waits for, or None."""
        firsts = [
            self._first(sink, [queue for queue in self._queues(sink, dev_id) if queue.own])
            for sink in self._sinks
        ]
        return min((first for first in firsts if first is not None), default=None)

    def write_marks(self, sink: str, dev_ids: Iterable[str]) -> None:
        """Writes down how far was searched, in a transaction of the caller.

        It changes those tallies anyway, so it costs no page.
        """
        with self._database.reading() as db:
            for dev_id in dev_ids:
                for own in (0, 1):
                    if (found := self._found.get((sink, dev_id, own))) is not None:
                        turned, low = found
                        db.execute(
                            f"UPDATE tally SET {sink}_low = ? WHERE dev_id = ? AND own = ? "
                            f"AND turned = ? AND {sink}_low < ?",
                            (low, dev_id, own, turned, low),
                        )

    def _queues(self, sink: str, dev_id: str | None = None) -> list[_Queue]:
        """The queues that are not empty, adopted rows first."""
        only, values = ("", ()) if dev_id is None else (" AND dev_id = ?", (dev_id,))
        queues = []
        for name, own, count, low, turned in self._database.ask(
            f"SELECT dev_id, own, {sink}, {sink}_low, turned FROM tally "
            f"WHERE {sink} > 0{only} ORDER BY own",
            values,
        ):
            as_of, found = self._found.get((sink, name, own), (turned, low))
            mark = max(low, found) if as_of == turned else low
            queues.append(_Queue(name, own, count, mark, turned))
        return queues

    def _note(self, sink: str, queue: _Queue, low: int) -> None:
        self._found[sink, queue.dev_id, queue.own] = (queue.turned, low)

    def _end(self, queue: _Queue) -> int:
        return self._database.last_seq + 1 if queue.own else 0

    def _first(self, sink: str, queues: list[_Queue]) -> int | None:
        """The lowest row of these queues, which are all that may have one from their mark on."""
        if not queues:
            return None
        low = min(queue.low for queue in queues)
        end = max(self._end(queue) for queue in queues)
        for start, stop in windows(self._database, low, end, _WINDOW_ROWS):
            first = self._database.number(
                f"SELECT seq FROM package WHERE seq >= ? AND seq < ? AND {sink} IN {SQL_WAITING} "
                "ORDER BY seq LIMIT 1",
                (start, stop),
            )
            for queue in queues:
                if queue.low < (stop if first is None else first):
                    self._note(sink, queue, stop if first is None else first)
            if first is not None:
                return first
        return None

    def _rows(self, sink: str, condition: str, values: tuple[Any, ...]) -> list[Any]:
        return self._database.ask(
            f"SELECT {ROW_COLUMNS}, {sink} FROM package "
            f"WHERE {sink} IN {SQL_WAITING} AND {condition}",
            values,
        )

    def _decoded(self, found: Iterable[Sequence[Any]]) -> Iterable[Waiting]:
        for columns in found:
            try:
                row = self._database.row(columns)
            except SpoolCorruptError as error:
                self._on_damaged_row(columns[0], str(error))
                continue
            yield Waiting(row, columns[-1] == RowState.STALE)
