"""Opening the spool, whatever state it is in: a damaged one is set aside, and its rows are saved.

It may be interrupted anywhere. A mark says that the spool is damaged until it has been renamed to
`….damaged-N`; that keeps its name until its rows are safe in the new spool, and is called
`….corrupt-N` from then on, for the operator to look at and to delete.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

from unisat_agent.errors import SpoolCorruptError, SpoolFullError
from unisat_agent.record import Row, record_id
from unisat_agent.spool import Spool
from unisat_agent.spool_file import (
    DONE,
    ROW_COLUMNS,
    SINKS,
    RowState,
    connect,
    lock,
    make_row,
    names,
)

# Rows that are taken over in one transaction.
_STEP_ROWS = 500
# After so many numbers in a row that can't be read, the rest is given up.
_GIVE_UP_ROWS = 100_000
_PARTS = ("-wal", "-shm", "")

_log = logging.getLogger(__name__)


def open_spool(path: Path, sinks: Iterable[str], boot_id: str, max_bytes: int) -> Spool:
    """Opens the spool; a damaged one is set aside, and what can be read of it taken over.

    Raises:
        SpoolBusyError: Another agent has it.
        SpoolError: It can't be opened for another reason.
    """
    sinks = tuple(sinks)
    if not _suspect_mark(path).exists():
        try:
            return _with_salvaged(Spool(path, sinks, boot_id, max_bytes))
        except SpoolCorruptError as error:
            _log.error("%s", error)
            mark_suspect(path)
    _set_aside(path)
    return _with_salvaged(Spool(path, sinks, boot_id, max_bytes))


def mark_suspect(path: Path) -> None:
    """Leaves a mark that the spool is damaged, for the next `open_spool`."""
    with contextlib.suppress(OSError):
        _suspect_mark(path).touch()


def set_aside(path: Path) -> list[Path]:
    """The damaged spools that were set aside beside this one."""
    return sorted(_databases(path, "corrupt") + _databases(path, "damaged"))


def _suspect_mark(path: Path) -> Path:
    return path.with_name(path.name + ".suspect")


def _databases(path: Path, word: str) -> list[Path]:
    return sorted(
        found
        for found in path.parent.glob(f"{path.name}.{word}-*")
        if not found.name.endswith(_PARTS[:2])
    )


def _set_aside(path: Path) -> None:
    """Renames the spool and what SQLite keeps beside it; the name stays at its head."""
    descriptor = lock(path)
    try:
        number = 1
        while any(path.parent.glob(f"{path.name}.*-{number}")):
            number += 1
        # The log goes first: a new spool must never be opened with the log of the old one.
        for suffix in _PARTS:
            part = path.with_name(path.name + suffix)
            if part.exists():
                part.rename(path.with_name(f"{path.name}.damaged-{number}{suffix}"))
        _suspect_mark(path).unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _with_salvaged(spool: Spool) -> Spool:
    """Takes over the rows of the spools that were set aside and not yet read."""
    for damaged in _databases(spool.path, "damaged"):
        rows = _readable(damaged)
        salvaged = 0
        try:
            while step := list(itertools.islice(rows, _STEP_ROWS)):
                salvaged += spool.salvage(step)
        except SpoolFullError as error:
            _log.error(
                "%s: %d packages were salvaged from %s, the next start goes on",
                error,
                salvaged,
                damaged,
            )
            continue
        aside = Path(str(damaged).replace(".damaged-", ".corrupt-"))
        for suffix in _PARTS:
            part = damaged.with_name(damaged.name + suffix)
            if part.exists():
                part.rename(aside.with_name(aside.name + suffix))
        _log.error(
            "the damaged spool was set aside as %s; %d packages that were still to be delivered "
            "were salvaged into a new one",
            aside,
            salvaged,
        )
    return spool


def _readable(path: Path) -> Iterator[tuple[Row, dict[str, RowState]]]:
    """The rows of a damaged spool that some sink has not, as far as they can be read."""
    with contextlib.closing(connect(path)) as db:
        try:
            epoch, boots = names(db)
        except (sqlite3.Error, ValueError):
            return
        # Asked one by one: for both ends at once, SQLite would read all that lies between.
        low = _ask_number(db, "SELECT MIN(seq) FROM package")
        high = _ask_number(db, "SELECT seq FROM sqlite_sequence WHERE name = 'package'")
        if low is None:
            # The first page is gone. Adopted rows, if there are any, begin at the mark.
            low = _ask_number(db, "SELECT MIN(value, 1) FROM meta WHERE key = 'settled_below'") or 1
        seq, unread = low, 0
        while unread < _GIVE_UP_ROWS:
            try:
                for *columns, local, hub in db.execute(
                    f"SELECT {ROW_COLUMNS}, local, hub FROM package WHERE seq >= ? ORDER BY seq",
                    (seq,),
                ):
                    if columns[0] < seq or (high is not None and columns[0] > high):
                        continue
                    seq, unread = columns[0] + 1, 0
                    with contextlib.suppress(SpoolCorruptError, ValueError, TypeError, OSError):
                        states = dict(zip(SINKS, (RowState(local), RowState(hub)), strict=True))
                        row = make_row(columns, boots, epoch)
                        if _is_whole(row) and not DONE.issuperset(states.values()):
                            yield row, states
            except sqlite3.Error:
                # A damaged page costs its own rows and no others.
                seq, unread = seq + 1, unread + 1
            else:
                return


def _ask_number(db: sqlite3.Connection, question: str) -> int | None:
    """One number from a file that may be damaged; None where it does not say."""
    try:
        found = db.execute(question).fetchone()
        return None if found is None or found[0] is None else int(found[0])
    except (sqlite3.Error, ValueError):
        return None


def _is_whole(row: Row) -> bool:
    """Whether the row can be sent and, where the id can tell, has the payload that it had.

    Raises:
        ValueError: Its payload is not JSON, or its time no time.
        TypeError: Likewise.
        OSError: Likewise.
    """
    json.dumps(row.record(), allow_nan=False)
    adopted = row.seq != row.record_seq
    return adopted or row.record_id == record_id(row.epoch, row.record_seq, row.payload)
