"""What is done to a spool beside delivering: checking, exporting, copying, retrying dead letters.

All but `restore` work on the file of a running agent too: reading is safe beside it, and what
`retry_dead` changes is noticed by the agent.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from unisat_agent.errors import SpoolError
from unisat_agent.record import Row
from unisat_agent.spool import Spool
from unisat_agent.spool_file import (
    ROW_COLUMNS,
    SINKS,
    SQL_DONE,
    SQL_WAITING,
    RowState,
    connect,
    make_row,
    names,
    translated,
)

_PROGRESS_ROWS = 1000


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that a sink refused for good."""

    row: Row
    sink: str
    reason: str
    detail: str


def check(path: Path) -> list[str]:
    """Looks whether the file is whole; changes nothing.

    Returns:
        What is wrong, one line each; empty for a whole spool.

    Raises:
        SpoolError: It can't be read at all.
    """
    with _reading(path) as db:
        try:
            lines = [str(line) for (line,) in db.execute("PRAGMA integrity_check(20)")]
        except sqlite3.DatabaseError as error:
            return [str(error)]
        if lines != ["ok"]:
            return lines
        ((strays,),) = db.execute(
            "SELECT COUNT(*) FROM package WHERE boot NOT IN (SELECT number FROM boot)"
        ).fetchall()
        return [f"{strays} rows belong to no known boot"] if strays else []


def count(path: Path) -> dict[str, int]:
    """How many rows the spool has in all, that wait per sink, that are dead or quarantined.

    Raises:
        SpoolError: It can't be read.
    """
    questions = {
        "packages": "SELECT COUNT(*) FROM package",
        **{
            f"waiting for {sink}": f"SELECT COUNT(*) FROM package WHERE {sink} IN {SQL_WAITING}"
            for sink in SINKS
        },
        "dead letters": "SELECT COUNT(*) FROM dead",
        "quarantined lines": "SELECT COUNT(*) FROM quarantine",
    }
    with _reading(path) as db:
        return {name: db.execute(question).fetchone()[0] for name, question in questions.items()}


def rows(path: Path) -> Iterator[Row]:
    """Every row of the spool, oldest first, as of one moment.

    Raises:
        SpoolError: It can't be read.
    """
    with _reading(path) as db:
        db.execute("BEGIN")
        epoch, boots = names(db)
        for columns in db.execute(f"SELECT {ROW_COLUMNS} FROM package ORDER BY seq"):
            yield make_row(columns, boots, epoch)


def export(path: Path, out: TextIO, form: str, progress: Callable[[int, int], None]) -> int:
    """Writes every record to `out`, as JSON lines or as CSV with one column a field.

    Args:
        path: The spool.
        out: Where to.
        form: "jsonl" or "csv".
        progress: Called with records written and records in all.

    Raises:
        SpoolError: It can't be read.
    """
    total = count(path)["packages"]
    columns: dict[str, None] = {}
    if form == "csv":
        for row in rows(path):
            columns |= dict.fromkeys(row.record())
    writer = csv.DictWriter(out, list(columns), restval="")
    if form == "csv":
        writer.writeheader()
    written = 0
    for row in rows(path):
        record = row.record()
        if form == "csv":
            writer.writerow(
                {
                    key: json.dumps(value) if isinstance(value, (dict, list)) else value
                    for key, value in record.items()
                }
            )
        else:
            out.write(json.dumps(record, separators=(",", ":")) + "\n")
        written += 1
        if written % _PROGRESS_ROWS == 0:
            progress(written, total)
    progress(written, total)
    return written


def dead_letters(path: Path) -> list[DeadLetter]:
    """The records that a sink refused, oldest first.

    Raises:
        SpoolError: It can't be read.
    """
    with _reading(path) as db:
        epoch, boots = names(db)
        wanted = ", ".join(f"package.{name}" for name in ROW_COLUMNS.split(", "))
        return [
            DeadLetter(make_row(columns, boots, epoch), *columns[-3:])
            for columns in db.execute(
                f"SELECT {wanted}, dead.sink, dead.reason, dead.detail "
                "FROM dead JOIN package USING (seq) ORDER BY package.seq"
            )
        ]


def retry_dead(path: Path, ids: Iterable[uuid.UUID] | None = None) -> int:
    """Lets dead letters be delivered again: those with these record ids, or all.

    Returns:
        How many there were.

    Raises:
        SpoolError: The spool can't be written.
    """
    wanted = None if ids is None else set(ids)
    letters = [
        letter for letter in dead_letters(path) if wanted is None or letter.row.record_id in wanted
    ]
    with translated(path), contextlib.closing(connect(path)) as db:
        db.execute("PRAGMA synchronous = FULL")
        db.execute("BEGIN IMMEDIATE")
        for letter in letters:
            db.execute(
                f"UPDATE package SET {letter.sink} = {RowState.PENDING:d} "
                f"WHERE seq = ? AND {letter.sink} = {RowState.DEAD:d}",
                (letter.row.seq,),
            )
            db.execute("DELETE FROM dead WHERE seq = ? AND sink = ?", (letter.row.seq, letter.sink))
        # The rows wait again: whoever counts them begins from the start.
        db.execute("DELETE FROM meta WHERE key = 'settled_below'")
        db.execute("COMMIT")
    return len(letters)


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
        with _reading(path) as db, translated(to), contextlib.closing(connect(to)) as copy:
            db.backup(copy)
            # One file that is whole by itself, without a write-ahead log beside it.
            copy.execute("PRAGMA journal_mode = DELETE")
        if wrong := check(to):
            raise SpoolError(f"{path}: the copy is not whole: {wrong[0]}")
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
    with _reading(source) as db:
        db.execute("ATTACH ? AS present", (f"{spool.path.absolute().as_uri()}?mode=ro",))
        return spool.salvage(_undelivered(db))


def _undelivered(db: sqlite3.Connection) -> Iterator[tuple[Row, dict[str, RowState]]]:
    """The rows of a whole spool that some sink has not, and that `present` has not."""
    epoch, boots = names(db)
    for *columns, local, hub in db.execute(
        f"SELECT {ROW_COLUMNS}, local, hub FROM main.package "
        f"WHERE NOT (local IN {SQL_DONE} AND hub IN {SQL_DONE}) "
        "AND record_id NOT IN (SELECT record_id FROM present.package) ORDER BY seq"
    ):
        states = zip(SINKS, (RowState(local), RowState(hub)), strict=True)
        yield make_row(columns, boots, epoch), dict(states)


def ask(path: Path, note: str, answer: str, deadline_s: float) -> str | None:
    """Leaves a note in a running agent's spool and waits for its answer there.

    Returns:
        The answer, or None when none came in time.

    Raises:
        SpoolError: The spool can't be used.
    """
    token = uuid.uuid4().hex
    with translated(path), contextlib.closing(connect(path)) as db:
        db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (note, token))
        end = time.monotonic() + deadline_s
        while time.monotonic() < end:
            found = db.execute("SELECT value FROM meta WHERE key = ?", (answer,)).fetchone()
            if found is not None and str(found[0]).startswith(token):
                return str(found[0]).removeprefix(token).strip()
            time.sleep(0.2)
    return None


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    if not path.exists():
        raise SpoolError(f"{path}: there is no spool yet: has the agent run with this file?")
    with translated(path), contextlib.closing(connect(path, read_only=True)) as db:
        yield db
