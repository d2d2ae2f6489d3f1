"""What commands do with a spool, also beside the agent that runs on it.

Reading is done in short transactions, so that the write-ahead log of a running agent never has to
wait for a slow reader; so is writing, so that no package does.
"""

from __future__ import annotations

import contextlib
import csv
import json
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from unisat_agent.errors import SpoolCorruptError, SpoolError
from unisat_agent.record import Row
from unisat_agent.spool.files import Pace, connect, translated
from unisat_agent.spool.migrations import SCHEMA_VERSION, schema_version
from unisat_agent.spool.schema import ROW_COLUMNS, SINKS, SQL_WAITING, epoch_and_boots, make_row

PAGE_ROWS = 500
_PROGRESS_ROWS = 1000
_DISCARD_WINDOW_ROWS = 250


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows are wanted; None is any. Times are UTC in milliseconds."""

    dev_id: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None

    def has(self, row: Row) -> bool:
        """Whether the row is wanted: received at `since_ms` or later, and before `until_ms`."""
        at = row.stamp.received_ms
        return (
            (self.dev_id is None or row.dev_id == self.dev_id)
            and (self.since_ms is None or at >= self.since_ms)
            and (self.until_ms is None or at < self.until_ms)
        )


ALL = Selection()


def check(path: Path) -> list[str]:
    """Looks whether the file is intact; changes nothing.

    Returns:
        What is wrong, one line each; empty for an intact spool.

    Raises:
        SpoolError: It can't be read at all.
    """
    with reading(path, any_schema=True) as db:
        try:
            lines = [str(line) for (line,) in db.execute("PRAGMA integrity_check(20)")]
        except sqlite3.DatabaseError as error:
            return [str(error)]
        if lines != ["ok"]:
            return lines
        ((strays,),) = db.execute(
            "SELECT COUNT(*) FROM package WHERE boot NOT IN (SELECT number FROM boot)"
        ).fetchall()
        wrong = [f"{strays} rows belong to no known boot"] if strays else []
        if schema_version(db, path) == SCHEMA_VERSION:
            wrong += _wrong_counts(db)
        return wrong


def _wrong_counts(db: sqlite3.Connection) -> Iterator[str]:
    """What the tallies say differently from the rows, both read at one moment."""
    sums = ", ".join(f"TOTAL({sink})" for sink in SINKS)
    waiting = ", ".join(f"TOTAL({sink} IN {SQL_WAITING})" for sink in SINKS)
    found = db.execute(
        f"SELECT * FROM (SELECT TOTAL(rows), {sums} FROM tally), "
        f"(SELECT COUNT(*), {waiting} FROM package)"
    ).fetchone()
    half = len(found) // 2
    for name, kept, there in zip(("rows", *SINKS), found[:half], found[half:], strict=True):
        if kept != there:
            yield f"the count of {name} is {kept:.0f}, but there are {there:.0f}"


def count(path: Path) -> dict[str, int]:
    """How many rows the spool has in all, that wait per sink, that are dead or quarantined.

    Raises:
        SpoolError: It can't be read.
    """
    with reading(path) as db:
        noted = db.execute("SELECT value FROM meta WHERE key = 'sinks'").fetchone()
        sinks = str(noted[0]).split(",") if noted else SINKS
        questions = {
            "packages": "SELECT TOTAL(rows) FROM tally",
            **{f"waiting for {sink}": f"SELECT TOTAL({sink}) FROM tally" for sink in sinks},
            "dead letters": "SELECT TOTAL(rows) FROM dead_tally",
            "quarantined lines": "SELECT COUNT(*) FROM quarantine",
        }
        return {
            name: int(db.execute(question).fetchone()[0]) for name, question in questions.items()
        }


def rows(path: Path, selection: Selection = ALL) -> Iterator[Row]:
    """The rows of the spool, oldest first, that were there at the beginning and still are.

    A row that is damaged is left out.

    Raises:
        SpoolError: The spool can't be read.
    """
    with reading(path) as db:
        ((low, high),) = db.execute(
            "SELECT (SELECT MIN(seq) FROM package), (SELECT MAX(seq) FROM package)"
        ).fetchall()
        while low is not None and low <= high:
            epoch, boots = epoch_and_boots(db)
            page = db.execute(
                f"SELECT {ROW_COLUMNS} FROM package WHERE seq >= ? AND seq <= ? "
                "ORDER BY seq LIMIT ?",
                (low, high, PAGE_ROWS),
            ).fetchall()
            if not page:
                return
            low = page[-1][0] + 1
            for columns in page:
                with contextlib.suppress(SpoolCorruptError):
                    row = make_row(columns, boots, epoch)
                    if selection.has(row):
                        yield row


def export(
    path: Path,
    out: TextIO,
    form: str,
    progress: Callable[[int, int], None],
    selection: Selection = ALL,
) -> int:
    """Writes every record to `out`, as JSON lines or as CSV with one column a field.

    Args:
        path: The spool.
        out: Where to; it may be slow.
        form: "jsonl" or "csv".
        progress: Called with records written and records in all.
        selection: Which ones.

    Raises:
        SpoolError: It can't be read.
    """
    total = count(path)["packages"]
    columns: dict[str, None] = {}
    if form == "csv":
        for row in rows(path, selection):
            columns |= dict.fromkeys(row.record())
    writer = csv.DictWriter(out, list(columns), restval="", extrasaction="ignore")
    if form == "csv":
        writer.writeheader()
    written = 0
    for row in rows(path, selection):
        record = row.record()
        if form == "csv":
            writer.writerow({key: _cell(value) for key, value in record.items()})
        else:
            out.write(json.dumps(record, separators=(",", ":")) + "\n")
        written += 1
        if written % _PROGRESS_ROWS == 0:
            progress(written, total)
    progress(written, total if selection == ALL else written)
    return written


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (dict, list)) else value


def discard(path: Path, dev_id: str) -> int:
    """Deletes all rows of a device, delivered or not: of a devID that never was, for example.

    The device is not believed from then on, until it is heard twice.

    Returns:
        How many rows there were.

    Raises:
        SpoolError: The spool can't be written.
    """
    discarded = 0
    pace = Pace(_DISCARD_WINDOW_ROWS)
    with writing(path) as db:
        ((low, high),) = db.execute(
            "SELECT (SELECT MIN(seq) FROM package), (SELECT MAX(seq) FROM package)"
        ).fetchall()
        while low is not None and low <= high and _rows_of(db, dev_id):
            gone = "seq >= ? AND seq < ? AND dev_id = ?"
            stop = low + pace.rows
            values = (low, stop, dev_id)
            with short_transaction(db), pace.measured():
                for table in ("dead", "unbelieved"):
                    db.execute(
                        f"DELETE FROM {table} WHERE seq IN (SELECT seq FROM package WHERE {gone})",
                        values,
                    )
                discarded += db.execute(f"DELETE FROM package WHERE {gone}", values).rowcount
            ((low,),) = db.execute(
                "SELECT MIN(seq) FROM package WHERE seq >= ?", (stop,)
            ).fetchall()
        db.execute("UPDATE tally SET believed = 0 WHERE dev_id = ?", (dev_id,))
    return discarded


def _rows_of(db: sqlite3.Connection, dev_id: str) -> int:
    ((left,),) = db.execute("SELECT TOTAL(rows) FROM tally WHERE dev_id = ?", (dev_id,)).fetchall()
    return int(left)


def ask(
    path: Path,
    note: str,
    answer: str,
    deadline_s: float,
    waiting: Callable[[float], None] = lambda _: None,
) -> str | None:
    """Leaves a note in a running agent's spool and waits for its answer there.

    Args:
        path: The spool.
        note: The note's key.
        answer: The answer's key.
        deadline_s: How long to wait.
        waiting: Called while there is no answer, with the seconds so far; may raise to end it.

    Returns:
        The answer, or None when none came in time.

    Raises:
        SpoolError: The spool can't be used.
    """
    token = uuid.uuid4().hex
    with translated(path), contextlib.closing(connect(path)) as db:
        db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (note, token))
        begun = time.monotonic()
        while (waited_s := time.monotonic() - begun) < deadline_s:
            found = db.execute("SELECT value FROM meta WHERE key = ?", (answer,)).fetchone()
            if found is not None and str(found[0]).startswith(token):
                return str(found[0]).removeprefix(token).strip()
            waiting(waited_s)
            time.sleep(0.2)
    return None


@contextlib.contextmanager
def reading(path: Path, *, any_schema: bool = False) -> Iterator[sqlite3.Connection]:
    """A connection for questions.

    Args:
        path: The spool.
        any_schema: Whether an older schema will do.

    Raises:
        SpoolError: There is no spool, it can't be read, or its schema is another one.
    """
    with _opened(path, read_only=True) as db:
        if not any_schema:
            _demand_schema(db, path)
        yield db


@contextlib.contextmanager
def writing(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection for short transactions beside a running agent.

    Raises:
        SpoolError: There is no spool, it can't be written, or its schema is another one.
    """
    with _opened(path, read_only=False) as db:
        _demand_schema(db, path)
        db.execute("PRAGMA synchronous = FULL")
        yield db


@contextlib.contextmanager
def short_transaction(db: sqlite3.Connection) -> Iterator[None]:
    """One of many on a running agent's spool: the agent has as much time between two of them."""
    began = time.monotonic()
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")
    time.sleep(time.monotonic() - began)


@contextlib.contextmanager
def _opened(path: Path, *, read_only: bool) -> Iterator[sqlite3.Connection]:
    if not path.exists():
        raise SpoolError(f"{path}: there is no spool yet: has the agent run with this file?")
    with translated(path), contextlib.closing(connect(path, read_only=read_only)) as db:
        yield db


def _demand_schema(db: sqlite3.Connection, path: Path) -> None:
    version = schema_version(db, path)
    if version < SCHEMA_VERSION:
        raise SpoolError(
            f"{path}: was written by an older agent (schema {version}): start the agent once, it "
            f"brings the spool to schema {SCHEMA_VERSION}"
        )
