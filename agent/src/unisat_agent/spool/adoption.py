"""Taking over records that this spool did not make, or has let go: of a Kinto, of another spool."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from unisat_agent.record import Record, Row, row_of
from unisat_agent.spool.database import Database
from unisat_agent.spool.schema import DONE, RowState

_LET_GO = frozenset({RowState.ACKED, RowState.UNWANTED})


class Adoption:
    """Adopted rows have negative numbers, so that they leave no gap.

    Args:
        database: Where they go.
        wake: Called when rows may have begun to wait for a sink.
    """

    def __init__(self, database: Database, wake: Callable[[], None]) -> None:
        self._database = database
        self._wake = wake

    def adopt(self, records: Sequence[Record], holder: str, wanted_by: str) -> int:
        """Takes records that `holder` has and `wanted_by` lacks, to deliver them there.

        A record whose row is in the spool waits again; else a new row is made, with the record's
        own id, epoch and seq. A record that `wanted_by` refused before (a dead letter, or one that
        was dropped) is left alone.

        Returns:
            How many records will be delivered.

        Raises:
            ValueError: When a record was not made by an agent.
        """
        adopted = 0
        with self._database.mutex:
            free = self._database.first_seq
            with self._database.transaction() as db:
                for record in records:
                    row = row_of(record, free - 1)
                    known = self._adopted(row, wanted_by) or self._own(row, wanted_by)
                    if known is None:
                        free -= 1
                        self._database.insert(
                            row, {holder: RowState.ACKED, wanted_by: RowState.PENDING}, own=False
                        )
                        adopted += 1
                    elif known[1] in _LET_GO:
                        db.execute(
                            f"UPDATE package SET {wanted_by} = {RowState.PENDING:d} WHERE seq = ?",
                            (known[0],),
                        )
                        adopted += 1
            self._database.first_seq = free
        self._wake()
        return adopted

    def take_over(
        self,
        rows: Iterable[tuple[Row, Mapping[str, RowState]]],
        note: tuple[str, object] | None = None,
    ) -> int:
        """Takes over rows of another spool, with the states that they had there, all or none.

        Rows that were taken over before are left out; dead letters are tried again.

        Args:
            rows: With what each sink has of them.
            note: Key and value of a note that is left with them (`Database.set_note`).

        Returns:
            How many there were.

        Raises:
            SpoolFullError: There is no room for all of them.
        """
        taken = 0
        with self._database.mutex:
            free = self._database.first_seq
            with self._database.transaction():
                for row, states in rows:
                    if self._adopted(row, "local"):
                        continue
                    free -= 1
                    wanted = {
                        sink: state
                        if state in DONE or state is RowState.STALE
                        else RowState.PENDING
                        for sink, state in states.items()
                    }
                    self._database.insert(replace(row, seq=free), wanted, own=False)
                    taken += 1
                if note is not None:
                    self._database.set_note(*note)
            self._database.first_seq = free
        self._wake()
        return taken

    def _own(self, row: Row, sink: str) -> tuple[int, int] | None:
        """Row number and state of a record that this spool made, while it is in history."""
        if row.epoch != self._database.epoch:
            return None
        found = self._database.ask(
            f"SELECT seq, {sink} FROM package WHERE seq = ? AND record_id = ?",
            (row.record_seq, row.record_id.bytes),
        )
        return (found[0][0], found[0][1]) if found else None

    def _adopted(self, row: Row, sink: str) -> tuple[int, int] | None:
        """Row number and state of a record that this spool took over."""
        found = self._database.ask(
            f"SELECT seq, {sink} FROM package WHERE seq < 0 AND record_id = ?",
            (row.record_id.bytes,),
        )
        return (found[0][0], found[0][1]) if found else None
