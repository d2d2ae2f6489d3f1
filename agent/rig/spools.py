"""Spools for tests: made, filled and looked at as a test puts it."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from unisat_agent.clock import ClockState
from unisat_agent.errors import SpoolFullError
from unisat_agent.protocols.events import Package
from unisat_agent.protocols.psott import Decoder
from unisat_agent.record import Record, Row, Stamp, payload_of, record_id
from unisat_agent.spool.queue import Spool
from unisat_agent.spool.repair import Salvage, open_spool
from unisat_agent.spool.schema import PAGE_BYTES, SINKS

BOOTS = ("boot-a", "boot-b")
MAX_BYTES = 64 * 1024 * 1024
# Thousands of commits: on a disk, each would wait for it.
_SHM = Path("/dev", "shm")
MEMORY = _SHM if _SHM.is_dir() else None


@contextlib.contextmanager
def spool_path() -> Iterator[Path]:
    """A path for a spool, in memory where there is such a place."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        yield Path(folder) / "spool.db"


def stamp(
    received_ms: int = 1_700_000_000_000,
    uptime_ms: int = 5_000,
    boot: str = BOOTS[0],
    clock: ClockState = ClockState.SYNCED,
) -> Stamp:
    """A stamp of the first boot, with the right time."""
    return Stamp(received_ms, uptime_ms, boot, clock)


def opened(path: Path, *, hub: bool = True, boot: str = BOOTS[0], size: int = MAX_BYTES) -> Spool:
    """The spool as an agent opens it."""
    return Spool(path, SINKS if hub else SINKS[:1], boot, size)


def append(spool: Spool, count: int = 1, dev_id: str = "u01", at: Stamp | None = None) -> list[Row]:
    """Stores so many packages of a device."""
    return [
        spool.append(dev_id, json.dumps({"groups": {}, "n": n}), at or stamp(), [])
        for n in range(count)
    ]


@contextlib.contextmanager
def beside(path: Path) -> Iterator[sqlite3.Connection]:
    """The file as another process has it; what is done is committed at the end."""
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        yield db


def take(spool: Spool, sink: str = "hub", limit: int = 10_000, dev_id: str = "u01") -> list[int]:
    """The numbers of the rows that a sink would get."""
    return [waiting.row.seq for waiting in spool.take(sink, dev_id, limit)]


def foreign(number: int, dev_id: str = "u01") -> Record:
    """A record of another spool, as a Kinto gives it back; every second one has no right time."""
    epoch = uuid.UUID(int=7)
    clock = ClockState(number % 2)
    payload = json.dumps({"groups": {}, "n": number})
    row = Row(
        0, record_id(epoch, number, payload), dev_id, stamp(clock=clock), payload, 0, epoch, 1
    )
    return replace(row, record_seq=number).record()


def package(number: int) -> str:
    """The payload of a package, as a device sends it."""
    text = b"devID=u01\nsubID=meteo\ntemperature=%d.5\nhumidity=20\nbattery=true\n\n" % number
    (event,) = Decoder().feed(text)
    assert isinstance(event, Package)
    return payload_of(event)


def fill(spool: Spool, count: int, clock: ClockState = ClockState.SYNCED) -> list[Row]:
    """Stores so many packages of u01, each with a content of its own."""
    stamp = Stamp(1_661_000_000_123, 5_000, BOOTS[0], clock)
    return [spool.append("u01", package(number), stamp, []) for number in range(count)]


def reopened(path: Path, size: int = MAX_BYTES, sinks: tuple[str, ...] = SINKS) -> Spool:
    """Opened as the agent opens it, and salvaged what there is to salvage and room for."""
    spool = open_spool(path, sinks, BOOTS[0], size)
    with contextlib.suppress(SpoolFullError):
        Salvage(spool).run()
    return spool


def ids(spool: Spool, sink: str = "hub") -> set[uuid.UUID]:
    """The records of u01 that wait for a sink."""
    return {waiting.row.record_id for waiting in spool.take(sink, "u01", 100_000)}


def damage(path: Path, at: int, size: int = PAGE_BYTES) -> None:
    """Writes nonsense over a part of the file."""
    content = bytearray(path.read_bytes())
    content[at : at + size] = b"\xa5" * size
    path.write_bytes(content)


def last_row(folder: Path) -> tuple[str, dict[str, Any]] | None:
    """DevID and content of the package committed last, from a copy of a dead agent's spool."""
    with tempfile.TemporaryDirectory() as scratch:
        for file in folder.glob("spool.db*"):
            shutil.copy(file, scratch)
        if not (copy := Path(scratch, "spool.db")).exists():
            return None
        with contextlib.closing(sqlite3.connect(copy)) as database:
            found = database.execute(
                "SELECT dev_id, payload FROM package WHERE seq > 0 ORDER BY seq DESC LIMIT 1"
            ).fetchone()
    return None if found is None else (found[0], json.loads(found[1]))
