"""The spool: the agent's durable queue, where a package is safe before anything else happens.

SQLite in WAL mode with synchronous=FULL: what `append` returned from has been fsynced. A row has
a state per sink; rows that some sink still waits for are never evicted.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from unisat_agent.errors import SpoolCorruptError
from unisat_agent.record import Row, Stamp, record_id
from unisat_agent.spool.adoption import Adoption
from unisat_agent.spool.backlog import Backlog, Hold, Waiting
from unisat_agent.spool.belief import Belief
from unisat_agent.spool.correction import ClockCorrection
from unisat_agent.spool.database import Database
from unisat_agent.spool.eviction import Eviction
from unisat_agent.spool.migrations import Progress
from unisat_agent.spool.quarantine import Quarantine, Quarantined
from unisat_agent.spool.schema import (
    DONE,
    LOWEST_SEQ,
    ROW_COLUMNS,
    SINKS,
    SQL_WAITING,
    RowState,
)

__all__ = ["Hold", "Quarantined", "Spool", "Waiting"]

_log = logging.getLogger(__name__)


class Spool:
    """The open spool of a running agent; safe to use from several threads.

    Args:
        path: The database file; its folder is made.
        sinks: The sinks that this station delivers to; no other is waited for.
        boot_id: The kernel's id of this boot.
        max_bytes: What the spool may take up on the disk with all that belongs to it.
        progress: Called now and then while an older schema is migrated.

    Raises:
        SpoolBusyError: Another agent has it.
        SpoolCorruptError: The file is damaged: see `repair.open_spool`.
        SpoolError: It can't be opened, or is of a newer schema.
    """

    def __init__(
        self,
        path: Path,
        sinks: Iterable[str],
        boot_id: str,
        max_bytes: int,
        progress: Progress = lambda: None,
    ) -> None:
        self.path = path
        self.sinks = tuple(sink for sink in SINKS if sink in set(sinks))
        self.news = {sink: threading.Event() for sink in self.sinks}
        self._boot_id = boot_id
        self._database = Database(path, max_bytes, progress)
        self.epoch = self._database.epoch
        try:
            self._quarantine = Quarantine(self._database)
            self._belief = Belief(self._database, self._quarantine)
            self._backlog = Backlog(self._database, self.sinks, self.quarantine_row)
            self.adoption = Adoption(self._database, self.wake)
            self.eviction = Eviction(self._database, self.sinks, self._quarantine)
            self.correction = ClockCorrection(self._database, self.eviction.with_reserve, self.wake)
            self.eviction.bound_copies()
            self._last_row = self._read_last_row()
            if self._database.note("sinks") != (names := ",".join(self.sinks)):
                self.eviction.with_reserve(lambda: self._database.set_note("sinks", names))
        except BaseException:
            self._database.close()
            raise
        self._database.reserve.take()
        self.wake()

    def close(self) -> None:
        """Closes the file; the spool can't be used after."""
        self._database.close()

    # Writing, by the serial thread

    def append(
        self,
        dev_id: str,
        payload: str,
        stamp: Stamp,
        bad: Sequence[Quarantined],
        *,
        expected: bool = True,
    ) -> Row:
        """Commits one package, and the bad lines that came with it, to the disk.

        Args:
            dev_id: Whose package.
            payload: See `record.payload_of`.
            stamp: When it was received.
            bad: The lines before it.
            expected: Whether the device is known to exist. Of another one the first package is
                kept, and delivered with the second (`belief`).

        Raises:
            SpoolFullError: Nothing was stored; the same call may be made again.
            SpoolError: Likewise, for another reason.
        """
        with self._database.first():
            seq = self._database.last_seq + 1
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
            with self._database.transaction():
                believed = self._belief.judge(dev_id, expected)
                state = RowState.PENDING if believed else RowState.UNBELIEVED
                self._database.insert(row, dict.fromkeys(SINKS, state), own=True)
                if not believed:
                    self._belief.doubt(seq, dev_id)
                self._quarantine.add(stamp.received_ms, bad)
            self._database.last_seq = seq
            self._last_row = row
        self.wake()
        return row

    def quarantine(self, received_ms: int, bad: Sequence[Quarantined]) -> None:
        """Commits a bundle of bad lines that belong to no package.

        Raises:
            SpoolError: Nothing was stored.
        """
        with self._database.transaction():
            self._quarantine.add(received_ms, bad)

    # Delivering, by the store and the sync thread

    def devices_waiting(self, sink: str) -> list[str]:
        """The devices that have rows for this sink."""
        return self._backlog.devices(sink)

    def devices_live(self, sink: str) -> list[str]:
        """The devices that have rows for this sink among the youngest, the youngest first."""
        return self._backlog.live(sink)

    def take(self, sink: str, dev_id: str, limit: int, hold: Hold | None = None) -> list[Waiting]:
        """Up to `limit` rows that wait: a fifth of them the youngest, then the oldest.

        So a live record is never stuck behind a backlog. The rows come in the order of seq, and
        stay in the spool until they are settled. A row that is damaged goes to quarantine.
        """
        return self._backlog.take(sink, dev_id, limit, hold)

    def settle(self, sink: str, rows: Iterable[Row]) -> None:
        """Commits that the sink has acknowledged these rows, as they were when taken."""
        rows = list(rows)
        for seq, states in self.eviction.with_reserve(lambda: self._settle(sink, rows)):
            if DONE.issuperset(states[SINKS.index(name)] for name in self.sinks):
                self.eviction.evictable(seq)

    def _settle(self, sink: str, rows: list[Row]) -> list[tuple[int, tuple[int, ...]]]:
        """The rows that were waiting, and what each sink has of them now."""
        settled: list[tuple[int, tuple[int, ...]]] = []
        with self._database.transaction() as db:
            for row in rows:
                changed = db.execute(
                    f"UPDATE package SET {sink} = CASE WHEN revision = ? "
                    f"THEN {RowState.ACKED:d} ELSE {RowState.STALE:d} END "
                    f"WHERE seq = ? AND {sink} IN {SQL_WAITING} RETURNING {', '.join(SINKS)}",
                    (row.revision, row.seq),
                )
                settled += [(row.seq, states) for states in changed.fetchall()]
            self._backlog.write_marks(sink, {row.dev_id for row in rows})
        return settled

    def mark_stale(self, sink: str, row: Row) -> None:
        """Commits that the sink has this row with another time: it will be overwritten."""

        def write() -> None:
            with self._database.transaction() as db:
                db.execute(
                    f"UPDATE package SET {sink} = {RowState.STALE:d} "
                    f"WHERE seq = ? AND {sink} IN {SQL_WAITING}",
                    (row.seq,),
                )

        self.eviction.with_reserve(write)

    def bury(self, sink: str, row: Row, reason: str, detail: str) -> None:
        """Commits that the sink will never take this row; it is kept and can be retried."""

        def write() -> None:
            with self._database.transaction() as db:
                if db.execute(
                    f"UPDATE package SET {sink} = {RowState.DEAD:d} "
                    f"WHERE seq = ? AND {sink} IN {SQL_WAITING}",
                    (row.seq,),
                ).rowcount:
                    db.execute(
                        "INSERT INTO dead (seq, sink, reason, detail) VALUES (?, ?, ?, ?)",
                        (row.seq, sink, reason, detail),
                    )

        self.eviction.with_reserve(write)

    def revive(self, sink: str, reason: str, after: int | None, limit: int) -> list[int]:
        """Lets dead letters of this reason be delivered again.

        Args:
            sink: Whose.
            reason: As `bury` was told.
            after: Those with a greater row number; None for all.
            limit: At most so many, the lowest numbers first.

        Returns:
            Their row numbers.
        """

        def write() -> list[int]:
            with self._database.transaction() as db:
                seqs = [
                    seq
                    for (seq,) in db.execute(
                        "SELECT seq FROM dead WHERE sink = ? AND reason = ? AND seq > ? "
                        "ORDER BY seq LIMIT ?",
                        (sink, reason, LOWEST_SEQ if after is None else after, limit),
                    ).fetchall()
                ]
                for seq in seqs:
                    db.execute(
                        f"UPDATE package SET {sink} = {RowState.PENDING:d} "
                        f"WHERE seq = ? AND {sink} = {RowState.DEAD:d}",
                        (seq,),
                    )
                    db.execute("DELETE FROM dead WHERE seq = ? AND sink = ?", (seq, sink))
                return seqs

        if not self.dead_by_reason(sink).get(reason):
            return []
        seqs = self.eviction.with_reserve(write)
        self.wake()
        return seqs

    def quarantine_row(self, seq: int, reason: str) -> None:
        """Commits that a row which can't be sent is in quarantine: one bad row costs no other."""
        _log.error("%s: row %d is damaged and goes to quarantine: %s", self.path, seq, reason)
        self.eviction.with_reserve(lambda: self._quarantine.move_row(seq, "damaged_row"))

    # Keeping house

    def tidy(self, history_before_ms: int | None) -> int:
        """See `Eviction.tidy`; first packages of devices that nobody heard again are bounded too.

        Returns:
            How many rows were evicted.
        """
        self.refresh()
        self._belief.bound()
        return self.eviction.tidy(history_before_ms)

    def make_room(self) -> int:
        """See `Eviction.make_room`."""
        return self.eviction.make_room()

    def refresh(self) -> bool:
        """Takes notice of what another process (`dead retry`) changed in the file."""
        if not self._database.changed_by_others():
            return False
        self.eviction.forget()
        self.wake()
        return True

    def wake(self) -> None:
        """Wakes whoever waits for news."""
        for event in self.news.values():
            event.set()

    # Looking

    @property
    def last_seq(self) -> int:
        """The number of the package that was stored last; 0 before the first."""
        return self._database.last_seq

    @property
    def last_row(self) -> Row | None:
        """The package that was stored last."""
        return self._last_row

    @property
    def unsynced(self) -> int:
        """How many rows of this boot have no right time yet."""
        return self.correction.unsynced(self._boot_id)

    def devices(self) -> list[str]:
        """The devices that have rows in the spool, history included; believed ones only."""
        return [
            dev_id
            for (dev_id,) in self._database.ask(
                "SELECT DISTINCT dev_id FROM tally WHERE rows > 0 AND (believed = 1 OR own = 0)"
            )
        ]

    def heard_once(self) -> list[str]:
        """The devices whose first package waits for a second one, the latest first."""
        return self._belief.heard_once()

    def pending(self, sink: str) -> int:
        """How many rows this sink waits for."""
        return self._backlog.pending(sink)

    def oldest_waiting(self, sink: str, boot_id: str) -> tuple[int, bool] | None:
        """When the oldest row that waits was received.

        Returns:
            Its uptime in milliseconds and True where it is of this boot, its wall clock in
            milliseconds and False where it is not; None when nothing waits.
        """
        found = self._backlog.oldest(sink)
        if found is None:
            return None
        received_ms, uptime_ms, boot = found
        return (uptime_ms, True) if boot == boot_id else (received_ms, False)

    def lowest_waiting(self, dev_id: str | None = None) -> int | None:
        """The lowest own number, of a device or of all, that some sink waits for; None for none."""
        return self._backlog.lowest_own(dev_id)

    def received_from(self, seq: int) -> int | None:
        """When the first package from this number on was received (wall clock, milliseconds)."""
        return self._database.number(
            "SELECT received_ms FROM package WHERE seq >= ? ORDER BY seq LIMIT 1", (max(seq, 1),)
        )

    def dead_between(self, sink: str, low: int, high: int) -> int:
        """How many own rows with low <= number < high are dead letters of the sink."""
        return (
            self._database.number(
                "SELECT COUNT(*) FROM dead WHERE seq >= ? AND seq < ? AND sink = ?",
                (max(low, 1), high, sink),
            )
            or 0
        )

    def dead_by_reason(self, sink: str) -> dict[str, int]:
        """The dead letters of a sink, counted by reason."""
        return dict(
            self._database.ask(
                "SELECT reason, rows FROM dead_tally WHERE sink = ? AND rows > 0", (sink,)
            )
        )

    def quarantined(self) -> int:
        """How many bad lines are kept."""
        return self._quarantine.count()

    def used_bytes(self) -> int:
        """What the spool takes up on the disk with all that belongs to it."""
        return self.eviction.used_bytes()

    def note(self, key: str) -> str | None:
        """A note that was left in the file (see `set_note`)."""
        return self._database.note(key)

    def set_note(self, key: str, value: str | None) -> None:
        """Leaves a note in the file, for the agent or for a command; None removes it."""
        self._database.set_note(key, value)

    def _read_last_row(self) -> Row | None:
        found = self._database.ask(
            f"SELECT {ROW_COLUMNS} FROM package WHERE seq > 0 ORDER BY seq DESC LIMIT 1"
        )
        try:
            return self._database.row(found[0]) if found else None
        except SpoolCorruptError:
            # It goes to quarantine when it is taken.
            return None
