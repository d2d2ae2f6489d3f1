"""A damaged spool is set aside and a new one opened at once; its rows are salvaged afterwards.

It may be interrupted anywhere. A mark says that the spool is damaged until it has been renamed to
`….damaged-N`. That keeps its name until its rows are safe in the new spool, and is called
`….corrupt-N` from then on, for the operator to look at; see `Eviction.bound_copies`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from unisat_agent.errors import SpoolCorruptError
from unisat_agent.record import Row, record_id
from unisat_agent.spool.files import (
    PARTS,
    Pace,
    connect,
    copy_number,
    lock,
    set_aside_copies,
    unsalvaged_copies,
)
from unisat_agent.spool.migrations import Progress
from unisat_agent.spool.queue import Spool
from unisat_agent.spool.schema import DONE, ROW_COLUMNS, SINKS, RowState, epoch_and_boots, make_row

# Rows that are taken over in one transaction, at most.
_CHUNK_ROWS = 200
# After so many numbers in a row that can't be read, the rest is given up.
_GIVE_UP_ROWS = 100_000

_log = logging.getLogger(__name__)

_Salvaged = tuple[Row, dict[str, RowState]]


def open_spool(
    path: Path,
    sinks: Iterable[str],
    boot_id: str,
    max_bytes: int,
    progress: Progress = lambda: None,
) -> Spool:
    """Opens the spool; a damaged one is set aside, for `Salvage` to read.

    Raises:
        SpoolBusyError: Another agent has it.
        SpoolError: It can't be opened for another reason.
    """
    sinks = tuple(sinks)
    if not _suspect_mark(path).exists():
        try:
            return Spool(path, sinks, boot_id, max_bytes, progress)
        except SpoolCorruptError as error:
            _log.error("%s", error)
            mark_suspect(path)
    _set_aside(path)
    return Spool(path, sinks, boot_id, max_bytes, progress)


def mark_suspect(path: Path) -> None:
    """Leaves a mark that the spool is damaged, for the next `open_spool`."""
    with contextlib.suppress(OSError):
        _suspect_mark(path).touch()


class Salvage:
    """Takes over what can be read of the spools that were set aside, a chunk at a time.

    How far it came is noted in the new spool with each chunk, so that it goes on after a kill.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._source: Path | None = None
        self._rows: Iterator[_Salvaged] = iter(())
        self._chunk: list[_Salvaged] = []
        self._pace = Pace(_CHUNK_ROWS)
        self._salvaged = 0

    def step(self) -> bool:
        """Takes over one chunk.

        Returns:
            Whether there is more to do.

        Raises:
            SpoolFullError: There is no room for the chunk; the next call tries it again.
            SpoolError: Likewise, for another reason.
        """
        if self._source is None and not self._open_next():
            return False
        source = self._source
        assert source is not None  # noqa: S101 - it was opened
        self._chunk = self._chunk or list(itertools.islice(self._rows, self._pace.rows))
        if not self._chunk:
            self._finish(source)
            return True
        note = (_note_of(source), self._chunk[-1][0].seq + 1)
        with self._pace.measured():
            self._salvaged += self._spool.adoption.take_over(self._chunk, note)
        self._chunk = []
        return True

    def run(self) -> None:
        """Takes over all; for a command, while no agent runs."""
        while self.step():
            pass

    def _open_next(self) -> bool:
        found = unsalvaged_copies(self._spool.path)[:1]
        for source in found:
            self._source = source
            noted = self._spool.note(_note_of(source))
            self._rows = _readable(source, self._spool.sinks, noted)
        return bool(found)

    def _finish(self, source: Path) -> None:
        # First the note, then the name: a name may be used again.
        self._spool.set_note(_note_of(source), None)
        aside = Path(str(source).replace(".damaged-", ".corrupt-"))
        for suffix in PARTS:
            part = source.with_name(source.name + suffix)
            if part.exists():
                part.rename(aside.with_name(aside.name + suffix))
        _log.error(
            "the damaged spool was set aside as %s; %d packages that were still to be delivered "
            "were salvaged",
            aside,
            self._salvaged,
        )
        self._source, self._salvaged = None, 0
        self._spool.eviction.bound_copies()


def _note_of(source: Path) -> str:
    return f"salvaged.{source.name}"


def _suspect_mark(path: Path) -> Path:
    return path.with_name(path.name + ".suspect")


def _set_aside(path: Path) -> None:
    """Renames the spool and what SQLite keeps beside it; the name stays at its head."""
    descriptor = lock(path)
    try:
        copies = set_aside_copies(path) + unsalvaged_copies(path)
        number = max(map(copy_number, copies), default=0) + 1
        for suffix in PARTS:
            part = path.with_name(path.name + suffix)
            if part.exists():
                part.rename(path.with_name(f"{path.name}.damaged-{number}{suffix}"))
        _suspect_mark(path).unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _readable(path: Path, sinks: Sequence[str], after: str | None) -> Iterator[_Salvaged]:
    """The rows of a damaged spool that one of the sinks lacks, as far as they can be read."""
    with contextlib.closing(connect(path)) as db:
        try:
            epoch, boots = epoch_and_boots(db)
        except (sqlite3.Error, ValueError):
            return
        # Asked one by one: for both ends at once, SQLite would read all that lies between.
        low = _ask_number(db, "SELECT MIN(seq) FROM package")
        high = _ask_number(db, "SELECT MAX(newest) FROM tally")
        if high is None:
            high = _ask_number(db, "SELECT seq FROM sqlite_sequence WHERE name = 'package'")
        if low is None:
            # The first page is gone. Adopted rows, if there are any, begin at their mark.
            low = _ask_number(db, "SELECT MIN(MIN(local_low, hub_low, 1)) FROM tally") or 1
        seq, unread = low if after is None else int(after), 0
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
                        if _is_intact(row) and not DONE.issuperset(states[sink] for sink in sinks):
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


def _is_intact(row: Row) -> bool:
    """Whether the row can be sent and, where the id can tell, has the payload that it had.

    Raises:
        ValueError: Its payload is not JSON, or its time no time.
        TypeError: Likewise.
        OSError: Likewise.
    """
    json.dumps(row.record(), allow_nan=False)
    adopted = row.seq != row.record_seq
    return adopted or row.record_id == record_id(row.epoch, row.record_seq, row.payload)
