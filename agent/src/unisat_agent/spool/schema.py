"""The spool's tables, what a row's states mean, and how a row is read.

No index serves the queues: each would cost every package another page of write-ahead log on an SD
card. Triggers keep counts instead, in one row of `tally` a device, and with each count a mark below
which nothing waits. So nothing is counted at a start, and a queue is searched from its mark on.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any

from unisat_agent.clock import ClockState
from unisat_agent.errors import SpoolCorruptError
from unisat_agent.record import Row, Stamp

SINKS = ("local", "hub")
# Small pages: a package touches the last leaf and its device's tally, and nothing near them, so
# that the write-ahead log grows by 2-3 kB a package and not by 8.
PAGE_BYTES = 1024
LOWEST_SEQ = -(2**62)


class RowState(IntEnum):
    """What a sink has of a row."""

    PENDING = 0
    ACKED = 1
    DEAD = 2
    """Refused for good; kept, and listed with the dead letters."""
    STALE = 3
    """Acknowledged with a time that was corrected since: to be overwritten."""
    UNWANTED = 4
    """Pending since a time without this sink. Schema 1 wrote it; it means PENDING."""
    UNBELIEVED = 5
    """The only package of a device so far: delivered when a second one proves the devID."""
    DROPPED = 6
    """A dead letter that the operator gave up."""

    @classmethod
    def _missing_(cls, value: object) -> RowState | None:
        """A state that only a newer agent knows: the row is delivered, rather twice than never."""
        return cls.PENDING if isinstance(value, int) else None


WAITING = frozenset({RowState.PENDING, RowState.STALE, RowState.UNWANTED})
DONE = frozenset({RowState.ACKED, RowState.DROPPED})
SQL_WAITING = f"({RowState.PENDING:d}, {RowState.STALE:d}, {RowState.UNWANTED:d})"
SQL_DONE = f"({RowState.ACKED:d}, {RowState.DROPPED:d})"

TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE package (
    seq INTEGER PRIMARY KEY,
    record_id BLOB NOT NULL,
    dev_id TEXT NOT NULL,
    received_ms INTEGER NOT NULL,
    uptime_ms INTEGER NOT NULL,
    boot INTEGER NOT NULL,
    clock INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    payload TEXT NOT NULL,
    local INTEGER NOT NULL,
    hub INTEGER NOT NULL,
    epoch BLOB,          -- of an adopted record; NULL is this spool's own
    record_seq INTEGER   -- of an adopted record; NULL is seq
);
-- Of adopted records alone, so that it costs a package nothing.
CREATE INDEX adopted ON package (record_id) WHERE seq < 0;
CREATE TABLE dead (seq INTEGER NOT NULL, sink TEXT NOT NULL, reason TEXT NOT NULL,
                   detail TEXT NOT NULL, PRIMARY KEY (seq, sink)) WITHOUT ROWID;
CREATE TABLE quarantine (number INTEGER PRIMARY KEY, received_ms INTEGER NOT NULL,
                         port TEXT NOT NULL, reason TEXT NOT NULL, raw BLOB NOT NULL);
CREATE TABLE boot (
    number INTEGER PRIMARY KEY,
    boot_id TEXT NOT NULL UNIQUE,
    unsynced_low INTEGER NOT NULL,        -- no unsynced row of this boot is below
    unsynced INTEGER NOT NULL DEFAULT 0,  -- rows without a right time
    offset_ms INTEGER                     -- of a correction that is under way, else NULL
);
"""

# What schema 2 added.
TALLY = """
CREATE TABLE tally (
    dev_id TEXT NOT NULL,
    own INTEGER NOT NULL,                -- 1: this spool's packages (seq > 0); 0: adopted ones
    rows INTEGER NOT NULL DEFAULT 0,
    newest INTEGER NOT NULL DEFAULT 0,   -- the greatest own number ever, evicted or not
    believed INTEGER NOT NULL DEFAULT 0, -- whether the devID was expected or heard twice
    turned INTEGER NOT NULL DEFAULT 0,   -- how often a row that is not the newest began to wait
    local INTEGER NOT NULL DEFAULT 0,    -- rows that wait for the sink
    local_low INTEGER NOT NULL DEFAULT 0,-- none below waits
    hub INTEGER NOT NULL DEFAULT 0,
    hub_low INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (dev_id, own)
) WITHOUT ROWID;
CREATE TABLE unbelieved (seq INTEGER PRIMARY KEY, dev_id TEXT NOT NULL);
CREATE TABLE dead_tally (sink TEXT NOT NULL, reason TEXT NOT NULL, rows INTEGER NOT NULL,
                         PRIMARY KEY (sink, reason)) WITHOUT ROWID;
"""


def _waits(column: str) -> str:
    """In a trigger, `IN (…)` would make a temporary table for each row, four times the cost."""
    return f"({' OR '.join(f'{column} = {state:d}' for state in sorted(WAITING))})"


def _counted(sink: str, sign: str, row: str) -> str:
    return f"{sink} = {sink} {sign} {_waits(f'{row}.{sink}')}"


def _lowered(sink: str, begins: str) -> str:
    return (
        f"{sink}_low = CASE WHEN {begins} THEN "
        f"CASE WHEN {sink} > 0 THEN min({sink}_low, NEW.seq) ELSE NEW.seq END ELSE {sink}_low END"
    )


_INSERTED = ", ".join(
    f"{_counted(sink, '+', 'NEW')}, {_lowered(sink, _waits(f'NEW.{sink}'))}" for sink in SINKS
)
_BEGINS = {sink: f"{_waits(f'NEW.{sink}')} AND NOT {_waits(f'OLD.{sink}')}" for sink in SINKS}
_UPDATED = ", ".join(
    f"{sink} = {sink} + {_waits(f'NEW.{sink}')} - {_waits(f'OLD.{sink}')}, {_lowered(sink, begins)}"
    for sink, begins in _BEGINS.items()
)
_DELETED = ", ".join(_counted(sink, "-", "OLD") for sink in SINKS)
_UNSYNCED = f"{ClockState.UNSYNCED:d}"

TRIGGERS = (
    f"""CREATE TRIGGER package_inserted AFTER INSERT ON package BEGIN
    INSERT INTO tally (dev_id, own) VALUES (NEW.dev_id, NEW.seq > 0) ON CONFLICT DO NOTHING;
    UPDATE tally SET rows = rows + 1, turned = turned + (NEW.seq <= newest),
        newest = max(newest, NEW.seq), {_INSERTED}
        WHERE dev_id = NEW.dev_id AND own = (NEW.seq > 0); END""",
    f"""CREATE TRIGGER package_updated AFTER UPDATE OF local, hub ON package BEGIN
    UPDATE tally SET turned = turned + ({" OR ".join(f"({b})" for b in _BEGINS.values())}),
        {_UPDATED} WHERE dev_id = NEW.dev_id AND own = (NEW.seq > 0); END""",
    f"""CREATE TRIGGER package_deleted AFTER DELETE ON package BEGIN
    UPDATE tally SET rows = rows - 1, {_DELETED}
        WHERE dev_id = OLD.dev_id AND own = (OLD.seq > 0); END""",
    f"""CREATE TRIGGER unsynced_inserted AFTER INSERT ON package WHEN NEW.clock = {_UNSYNCED} BEGIN
    UPDATE boot SET unsynced = unsynced + 1,
        unsynced_low = CASE WHEN unsynced > 0 THEN min(unsynced_low, NEW.seq) ELSE NEW.seq END
        WHERE number = NEW.boot; END""",
    f"""CREATE TRIGGER unsynced_corrected AFTER UPDATE OF clock ON package
    WHEN OLD.clock = {_UNSYNCED} AND NEW.clock <> {_UNSYNCED} BEGIN
    UPDATE boot SET unsynced = unsynced - 1 WHERE number = OLD.boot; END""",
    f"""CREATE TRIGGER unsynced_deleted AFTER DELETE ON package WHEN OLD.clock = {_UNSYNCED} BEGIN
    UPDATE boot SET unsynced = unsynced - 1 WHERE number = OLD.boot; END""",
    """CREATE TRIGGER dead_inserted AFTER INSERT ON dead BEGIN
    INSERT INTO dead_tally (sink, reason, rows) VALUES (NEW.sink, NEW.reason, 1)
        ON CONFLICT DO UPDATE SET rows = rows + 1; END""",
    """CREATE TRIGGER dead_deleted AFTER DELETE ON dead BEGIN
    UPDATE dead_tally SET rows = rows - 1 WHERE sink = OLD.sink AND reason = OLD.reason; END""",
)
ROW_COLUMNS = (
    "seq, record_id, dev_id, received_ms, uptime_ms, boot, clock, revision, payload, epoch, "
    "record_seq"
)


def statements(script: str) -> list[str]:
    """The single statements of TABLES or TALLY; executescript() would commit in between."""
    return [statement for statement in script.split(";\n") if statement.strip()]


def make_row(columns: Sequence[Any], boots: Mapping[int, str], epoch: uuid.UUID) -> Row:
    """The row of ROW_COLUMNS.

    Raises:
        SpoolCorruptError: It can't be one.
    """
    (seq, rid, dev_id, received, uptime, boot, clock, revision, payload, own, number) = columns[:11]
    try:
        return Row(
            seq=seq,
            record_id=uuid.UUID(bytes=rid),
            dev_id=dev_id,
            stamp=Stamp(received, uptime, boots[boot], ClockState(clock)),
            payload=payload,
            revision=revision,
            epoch=epoch if own is None else uuid.UUID(bytes=own),
            record_seq=seq if number is None else number,
        )
    except (KeyError, ValueError, TypeError) as error:
        raise SpoolCorruptError(f"the spool is damaged: row {seq} is not a package") from error


def epoch_and_boots(db: sqlite3.Connection) -> tuple[uuid.UUID, dict[int, str]]:
    """The spool's epoch, and the boot ids by number.

    Raises:
        ValueError: There is no epoch, or it is not one.
    """
    ((epoch,),) = db.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchall()
    return uuid.UUID(epoch), dict(db.execute("SELECT number, boot_id FROM boot"))
