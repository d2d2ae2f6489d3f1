"""A copy of the spool, and what becomes of it when a card was lost."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from unisat_agent.errors import SpoolError
from unisat_agent.record import Row
from unisat_agent.spool.files import connect, translated
from unisat_agent.spool.queue import Spool
from unisat_agent.spool.schema import (
    ROW_COLUMNS,
    SINKS,
    SQL_DONE,
    RowState,
    epoch_and_boots,
    make_row,
)
from unisat_agent.spool.tools import check, reading


def backup(path: Path, to: Path) -> None:
    """Copies the spool as of one moment, beside a running agent, into one new file (mode 0600).

    Raises:
        SpoolError: The spool can't be read, or the copy not be written; there is no copy then.
    """
    try:
        os.close(os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError as error:
        raise SpoolError(f"{to}: the copy can't be written: {error.strerror}") from error
    try:
        with (
            reading(path, any_schema=True) as db,
            translated(to),
            contextlib.closing(connect(to)) as copy,
        ):
            db.backup(copy)
            # One file that is complete by itself, without a write-ahead log beside it.
            copy.execute("PRAGMA journal_mode = DELETE")
        if wrong := check(to):
            raise SpoolError(f"{path}: the copy is not intact: {wrong[0]}")
    except SpoolError:
        to.unlink()
        raise


def restore(spool: Spool, source: Path) -> int:
    """Takes over what was not delivered yet in a copy that `backup` made.

    The records keep their ids, so that a sink that has them meanwhile takes none of them twice.
    The numbers of the copy are not continued: those after it may be taken already. Dead letters
    are tried again; what the spool has itself is not taken twice.

    Args:
        spool: The station's own, empty or not; no agent runs on it.
        source: The copy.

    Returns:
        How many records were taken over.

    Raises:
        SpoolError: The copy can't be read, or the spool has no room for all; nothing is taken then.
    """
    if wrong := check(source):
        raise SpoolError(f"{source}: the copy is damaged: {wrong[0]}")
    with reading(source, any_schema=True) as db:
        db.execute("ATTACH ? AS present", (f"{spool.path.absolute().as_uri()}?mode=ro",))
        return spool.adoption.take_over(_undelivered(db, spool.sinks))


def _undelivered(
    db: sqlite3.Connection, sinks: Sequence[str]
) -> Iterator[tuple[Row, dict[str, RowState]]]:
    """The rows of an intact spool that one of the sinks lacks, and that `present` has not."""
    done = " AND ".join(f"{sink} IN {SQL_DONE}" for sink in sinks)
    epoch, boots = epoch_and_boots(db)
    for *columns, local, hub in db.execute(
        f"SELECT {ROW_COLUMNS}, local, hub FROM main.package "
        f"WHERE NOT ({done}) "
        "AND record_id NOT IN (SELECT record_id FROM present.package) ORDER BY seq"
    ):
        states = zip(SINKS, (RowState(local), RowState(hub)), strict=True)
        yield make_row(columns, boots, epoch), dict(states)
