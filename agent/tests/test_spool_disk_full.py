"""Not one free block on the disk: what must go on all the same, and what goes on afterwards."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rig.scale import BOOT, MAX_BYTES, PAYLOAD, START_MS, make_spool
from rig.small_disk import SmallDisk
from unisat_agent.clock import ClockState
from unisat_agent.spool.schema import TRIGGERS

ROWS = 5_000
_PREAMBLE = f"""
import contextlib, json
from pathlib import Path
from unisat_agent.clock import ClockState
from unisat_agent.errors import SpoolFullError
from unisat_agent.record import Stamp
from unisat_agent.spool.queue import Spool
from unisat_agent.spool.repair import Salvage, mark_suspect, open_spool

at = Stamp(1, 1, {BOOT!r}, ClockState.SYNCED)


def fill():
    with contextlib.suppress(SpoolFullError):
        while True:
            spool.append("live", {PAYLOAD!r}, at, [])
"""


class Host:
    """A host whose disk is full, and an agent's spool on it."""

    def __init__(self, disk: SmallDisk, folder: Path) -> None:
        self.disk = disk
        self._inside = folder / "spool.db"

    def run(self, code: str) -> Any:
        """Opens the spool in a process of its own and does something; what it leaves in `found`.

        The process ends as by a power cut: a close would make room.
        """
        opening = f"path = Path({str(self._inside)!r})\nopen_it = lambda: open_spool("
        opening += f"path, ('local', 'hub'), {BOOT!r}, {MAX_BYTES})\nspool = open_it()"
        text = f"{_PREAMBLE}\n{opening}\n{code}\nprint(json.dumps(found), flush=True)\n"
        done = subprocess.run(
            self.disk.inside([sys.executable, "-c", f"{text}\nimport os\nos._exit(0)"]),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A spool on a disk with room."""
    path = tmp_path / "spool.db"
    make_spool(path, ROWS, clock=ClockState.UNSYNCED)
    return path


@pytest.fixture
def host(made: Path, tmp_path: Path) -> Iterator[Host]:
    """A host with this spool and its reserve, and nothing else on its disk that is free."""
    disk = SmallDisk(tmp_path / "disk", 8)
    for part in ("", ".reserve"):
        shutil.copy(f"{made}{part}", disk.outside())
    disk.fill()
    yield Host(disk, tmp_path / "disk")
    disk.close()


def test_packages_that_find_no_room_are_stored_once_there_is_some(host: Host) -> None:
    stored = host.run("fill()\nfound = spool.last_seq")
    host.disk.fill().unlink()
    again = host.run("spool.append('live', '{}', at, [])\nfound = spool.last_seq")
    assert again == stored + 1


def test_records_are_acknowledged_and_buried(host: Host) -> None:
    found = host.run(
        "fill()\n"
        "rows = [w.row for w in spool.take('hub', 'sat1', 200)]\n"
        "spool.settle('hub', rows[:-1])\n"
        "spool.bury('hub', rows[-1], 'refused', '400')\n"
        "found = [spool.pending('hub') - spool.pending('local'), spool.dead_by_reason('hub')]"
    )
    assert found == [-200, {"refused": 1}]


def test_times_are_corrected(host: Host) -> None:
    found = host.run(
        f"fill()\nfound = [spool.correction.correct({BOOT!r}, {START_MS}), spool.unsynced]"
    )
    assert found == [ROWS, 0]


def test_delivered_rows_make_room(host: Host) -> None:
    found = host.run(
        "fill()\n"
        "rows = [w.row for w in spool.take('hub', 'sat1', 300)]\n"
        "for sink in ('local', 'hub'): spool.settle(sink, rows)\n"
        "freed = spool.make_room()\n"
        "before = spool.last_seq\n"
        "fill()\n"
        "found = [freed, spool.last_seq - before]"
    )
    assert found[0] > 0
    assert found[1] > 50


@pytest.fixture
def older(made: Path) -> None:
    """Gives the spool the schema of an older agent."""
    with contextlib.closing(sqlite3.connect(made)) as db:
        for trigger in TRIGGERS:
            db.execute(f"DROP TRIGGER {trigger.split()[2]}")
        for table in ("tally", "dead_tally", "unbelieved"):
            db.execute(f"DROP TABLE {table}")
        db.execute("ALTER TABLE boot RENAME COLUMN unsynced_low TO first_seq")
        for column in ("unsynced", "offset_ms"):
            db.execute(f"ALTER TABLE boot DROP COLUMN {column}")
        db.execute("CREATE TABLE numbered (number INTEGER PRIMARY KEY AUTOINCREMENT)")
        db.execute("INSERT INTO sqlite_sequence VALUES ('package', ?)", (ROWS,))
        db.execute("PRAGMA user_version = 1")
        db.commit()


def test_an_older_spool_is_migrated(older: None, request: pytest.FixtureRequest) -> None:
    host: Host = request.getfixturevalue("host")
    assert host.run("found = [spool.pending('hub'), spool.unsynced]") == [ROWS, ROWS]
