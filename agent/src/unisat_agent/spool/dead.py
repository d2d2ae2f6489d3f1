"""Dead letters: records that a sink refused for good. Listed, retried or dropped by a command."""

from __future__ import annotations

import contextlib
import itertools
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from unisat_agent.errors import SpoolCorruptError
from unisat_agent.record import Row
from unisat_agent.spool.files import Pace
from unisat_agent.spool.schema import ROW_COLUMNS, RowState, epoch_and_boots, make_row
from unisat_agent.spool.tools import PAGE_ROWS, reading, short_transaction, writing

_CHUNK_ROWS = 250
_COLUMNS = ", ".join(f"package.{name}" for name in ROW_COLUMNS.split(", "))


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that a sink refused for good."""

    row: Row
    sink: str
    reason: str
    detail: str


def dead_letters(path: Path, ids: Iterable[uuid.UUID] | None = None) -> Iterator[DeadLetter]:
    """The records that a sink refused, oldest first: those with these record ids, or all.

    Raises:
        SpoolError: It can't be read.
    """
    wanted = None if ids is None else set(ids)
    with reading(path) as db:
        after: tuple[int, str] = (-(2**63), "")
        while page := db.execute(
            f"SELECT {_COLUMNS}, dead.sink, dead.reason, dead.detail "
            "FROM dead JOIN package USING (seq) WHERE (dead.seq, dead.sink) > (?, ?) "
            "ORDER BY dead.seq, dead.sink LIMIT ?",
            (*after, PAGE_ROWS),
        ).fetchall():
            epoch, boots = epoch_and_boots(db)
            for columns in page:
                after = (columns[0], columns[-3])
                with contextlib.suppress(SpoolCorruptError):
                    row = make_row(columns, boots, epoch)
                    if wanted is None or row.record_id in wanted:
                        yield DeadLetter(row, *columns[-3:])


def retry_dead(path: Path, ids: Iterable[uuid.UUID] | None = None) -> int:
    """Lets dead letters be delivered again: those with these record ids, or all.

    Returns:
        How many there were.

    Raises:
        SpoolError: The spool can't be written.
    """
    return _turn(path, ids, RowState.PENDING)


def drop_dead(path: Path, ids: Iterable[uuid.UUID] | None = None) -> int:
    """Gives dead letters up: those with these record ids, or all. Their rows become history.

    Returns:
        How many there were.

    Raises:
        SpoolError: The spool can't be written.
    """
    return _turn(path, ids, RowState.DROPPED)


def _turn(path: Path, ids: Iterable[uuid.UUID] | None, state: RowState) -> int:
    letters = dead_letters(path, ids)
    turned = 0
    pace = Pace(_CHUNK_ROWS)
    with writing(path) as db:
        while some := list(itertools.islice(letters, pace.rows)):
            with short_transaction(db), pace.measured():
                for letter in some:
                    key = (letter.row.seq, letter.sink)
                    turned += db.execute(
                        f"UPDATE package SET {letter.sink} = {state:d} "
                        f"WHERE seq = ? AND {letter.sink} = {RowState.DEAD:d}",
                        key[:1],
                    ).rowcount
                    db.execute("DELETE FROM dead WHERE seq = ? AND sink = ?", key)
    return turned
