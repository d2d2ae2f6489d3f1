"""Gives packages that were received before the clock was right their right time.

In chunks, each a short transaction, on a slow machine too; how far it came is in the file, so that
it goes on after a kill, and even in the next boot.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from unisat_agent.clock import ClockState
from unisat_agent.spool.database import Database
from unisat_agent.spool.files import Pace
from unisat_agent.spool.schema import SINKS, RowState

CHUNK_ROWS = 500


class ClockCorrection:
    """The times of the rows.

    Args:
        database: Where the rows are.
        with_reserve: Does what it is given, with the room of the reserve if there is no other.
        wake: Called when rows may have begun to wait for a sink.
    """

    def __init__(
        self,
        database: Database,
        with_reserve: Callable[[Callable[[], int]], int],
        wake: Callable[[], None],
    ) -> None:
        self._database = database
        self._with_reserve = with_reserve
        self._wake = wake
        self._pace = Pace(CHUNK_ROWS)

    def unsynced(self, boot_id: str) -> int:
        """How many rows of this boot have no right time yet."""
        return self._database.number("SELECT unsynced FROM boot WHERE boot_id = ?", (boot_id,)) or 0

    def correct(
        self, boot_id: str, offset_ms: int, go_on: Callable[[], bool] = lambda: True
    ) -> int:
        """Gives the unsynced rows of this boot their right time: uptime plus `offset_ms`.

        Rows that a sink acknowledged with the wrong time become STALE there.

        Args:
            boot_id: Of the boot whose clock is right now.
            offset_ms: Wall clock less uptime.
            go_on: Asked after each chunk; the rest is left for `resume` when it says no.

        Returns:
            How many rows were corrected.
        """

        def begin() -> int:
            with self._database.transaction() as db:
                return db.execute(
                    "UPDATE boot SET offset_ms = ? WHERE boot_id = ? AND unsynced > 0",
                    (offset_ms, boot_id),
                ).rowcount

        self._with_reserve(begin)
        return self.resume(go_on)

    def resume(self, go_on: Callable[[], bool] = lambda: True) -> int:
        """Goes on with what was begun and interrupted, of any boot.

        Returns:
            How many rows were corrected.
        """
        corrected = 0
        begun = "SELECT number FROM boot WHERE offset_ms IS NOT NULL ORDER BY number DESC LIMIT 1"
        while (number := self._database.number(begun)) is not None:
            corrected += self._with_reserve(functools.partial(self._chunk, number))
            self._wake()
            if not go_on():
                break
            self._database.pause()
        return corrected

    def _chunk(self, number: int) -> int:
        """Corrects the next rows of a boot, or ends its correction."""
        acked_to_stale = ", ".join(
            f"{sink} = CASE {sink} WHEN {RowState.ACKED:d} THEN {RowState.STALE:d} ELSE {sink} END"
            for sink in SINKS
        )
        with self._database.transaction() as db:
            low, left, offset_ms = db.execute(
                "SELECT unsynced_low, unsynced, offset_ms FROM boot WHERE number = ?", (number,)
            ).fetchone()
            start = self._database.number("SELECT MIN(seq) FROM package WHERE seq >= ?", (low,))
            if left <= 0 or start is None:
                db.execute("UPDATE boot SET offset_ms = NULL WHERE number = ?", (number,))
                return 0
            stop = start + self._pace.rows
            with self._pace.measured():
                corrected = db.execute(
                    f"UPDATE package SET received_ms = uptime_ms + ?, revision = revision + 1, "
                    f"clock = {ClockState.CORRECTED:d}, {acked_to_stale} "
                    f"WHERE seq >= ? AND seq < ? AND boot = ? AND clock = {ClockState.UNSYNCED:d}",
                    (offset_ms, start, stop, number),
                ).rowcount
            db.execute("UPDATE boot SET unsynced_low = ? WHERE number = ?", (stop, number))
            return corrected
