"""Spools of years, made by SQL, and what an agent has to wait for on one.

`python -m rig.scale` prints the figures; the rows are UNISAT_SCALE_ROWS, 200,000 by default.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from rig.site import make_site, running
from unisat_agent.clock import ClockState
from unisat_agent.record import Stamp
from unisat_agent.spool.queue import Spool
from unisat_agent.spool.schema import SINKS, RowState

BOOT = "9a1d6c0e-6f0d-4a0e-8f43-0f6f2b1c7d11"
DEVICES = 10
MAX_BYTES = 4 * 1024**3
START = "start"
STATUS = "/status with dead letters"
TOOK_MAX_S = {START: 3.0, STATUS: 0.05}
WAIT_MAX_S = 0.1
WAL_MAX_BYTES = 8_000_000
START_MS = 1_650_000_000_000
PAYLOAD = json.dumps(
    {
        "groups": {"air": ["pm25", "pm10"], "meteo": ["temperature", "humidity", "pressure"]},
        "humidity": 20.0,
        "pm10": 11.1,
        "pm25": 4.0,
        "pressure": 1304.4,
        "temperature": 32.0,
    },
    separators=(",", ":"),
)
_PREAMBLE = """
import re, sys
from pathlib import Path
from unisat_agent.spool import dead, tools

path = Path(sys.argv[1])


def peak_mb():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024
"""
_EXPORT = "tools.export(path, open('/dev/null', 'w'), 'jsonl', lambda *_: None)"
_DISCARD = "tools.discard(path, 'sat1')"
_DEAD_LIST = "print(sum(1 for _ in dead.dead_letters(path)))"
_DEAD_RETRY = "print(dead.retry_dead(path))"
_REPEAT_EVERY_S = 0.005
_LOOKS = 50


def scale_rows() -> int:
    """How many rows a spool has in the tests of scale."""
    return int(os.environ.get("UNISAT_SCALE_ROWS", "200000"))


def opened(path: Path, max_bytes: int = MAX_BYTES) -> Spool:
    """The spool as an agent opens it."""
    return Spool(path, SINKS, BOOT, max_bytes)


def make_spool(
    path: Path,
    rows: int,
    *,
    local: RowState = RowState.PENDING,
    hub: RowState = RowState.PENDING,
    clock: ClockState = ClockState.SYNCED,
) -> None:
    """Makes a spool with so many rows of DEVICES devices, as an agent would have left it."""
    opened(path).close()
    # Records of another spool are not recognised by their id, which SQL can't compute.
    other_epoch = bytes(range(16))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous = OFF")
        db.execute("PRAGMA temp_store = MEMORY")
        db.execute("BEGIN")
        db.execute("INSERT INTO boot (number, boot_id, unsynced_low) VALUES (1, ?, 1)", (BOOT,))
        db.execute("UPDATE tally SET believed = 1")
        db.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
            "INSERT INTO package SELECT i, randomblob(16), 'sat' || (i % ?), ? + i * 3000, "
            "i * 3000, 1, ?, 0, ?, ?, ?, ?, i + 1000000000 FROM n",
            (rows, DEVICES, START_MS, clock, PAYLOAD, local, hub, other_epoch),
        )
        db.execute("COMMIT")
        if RowState.DEAD in {local, hub}:
            db.execute(
                "INSERT INTO dead SELECT seq, 'hub', 'refused', '400 body: no such field' "
                "FROM package"
            )


class Repeating:
    """Does something every few milliseconds in a thread; how long each time took."""

    def __init__(self, action: Callable[[int], object]) -> None:
        self._action = action
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.waits_s: list[float] = []

    def _run(self) -> None:
        number = 0
        while not self._stop.wait(_REPEAT_EVERY_S):
            began = time.monotonic()
            self._action(number)
            self.waits_s.append(time.monotonic() - began)
            number += 1

    def __enter__(self) -> Repeating:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def appending(spool: Spool) -> Repeating:
    """A device that sends all the time; how long each of its packages waits for its commit."""
    return Repeating(
        lambda number: spool.append(
            "live", PAYLOAD, Stamp(START_MS, number, BOOT, ClockState.SYNCED), []
        )
    )


@contextlib.contextmanager
def bare_commits(folder: Path) -> Iterator[Repeating]:
    """Commits to a file of their own on the same disk: what others there cost everybody."""
    path = folder / "bare.db"
    with contextlib.closing(
        sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    ) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE IF NOT EXISTS package (payload TEXT)")
        insert = "INSERT INTO package VALUES (?)"
        with Repeating(lambda _: db.execute(insert, (PAYLOAD,))) as commits:
            yield commits


@dataclass(frozen=True, slots=True)
class Figure:
    """What one long task took.

    Attributes:
        name: Of the task.
        took_s: So long.
        longest_wait_s: The longest time that a package waited for its commit meanwhile.
        bare_wait_s: The longest time that a commit to an own file took meanwhile.
        wal_bytes: The size of the write-ahead log afterwards.
    """

    name: str
    took_s: float
    longest_wait_s: float = 0.0
    bare_wait_s: float = 0.0
    wal_bytes: int = 0

    @property
    def added_wait_s(self) -> float:
        """What the task cost a package at most: no disk of a busy machine is in it."""
        return max(0.0, self.longest_wait_s - self.bare_wait_s)


def measure(name: str, spool: Spool, task: Callable[[], object]) -> Figure:
    """Does a task while packages come."""
    wal = spool.path.with_name(spool.path.name + "-wal")
    began = time.monotonic()
    with bare_commits(spool.path.parent) as bare, appending(spool) as packages:
        task()
        took_s = time.monotonic() - began
        # At least a few packages also during a task that is over at once.
        time.sleep(0.1)
    return Figure(name, took_s, max(packages.waits_s), max(bare.waits_s), wal.stat().st_size)


def read_bytes(task: Callable[[], object]) -> int:
    """How much this process reads from files meanwhile, cached or not."""
    before = _read_so_far()
    task()
    return _read_so_far() - before


def _read_so_far() -> int:
    words = Path("/proc/self/io").read_text().split()
    return int(words[words.index("rchar:") + 1])


def figures(rows: int) -> Iterator[Figure]:
    """The long tasks on a spool with so many rows that wait."""
    with tempfile.TemporaryDirectory(prefix="unisat-scale-") as folder:
        path = Path(folder, "spool.db")
        make_spool(path, rows, clock=ClockState.UNSYNCED)
        began = time.monotonic()
        spool = opened(path)
        yield Figure(START, time.monotonic() - began)
        yield measure("nothing else", spool, lambda: time.sleep(1))
        yield measure("export", spool, lambda: elsewhere(_EXPORT, path))
        yield measure("correction", spool, lambda: spool.correction.correct(BOOT, START_MS))
        yield measure("search of one device", spool, lambda: spool.take("hub", "live", 25))
        yield measure("eviction that finds nothing", spool, spool.make_room)
        yield measure("discard", spool, lambda: elsewhere(_DISCARD, path))
        spool.close()
        path.unlink()
        make_spool(path, rows, local=RowState.ACKED, hub=RowState.ACKED)
        spool = opened(path)
        yield measure("eviction of 20,000", spool, lambda: [spool.tidy(2**60) for _ in range(4)])
        spool.close()
        path.unlink()
        make_spool(path, min(rows, 100_000), local=RowState.ACKED, hub=RowState.DEAD)
        spool = opened(path)
        yield measure("list of dead letters", spool, lambda: elsewhere(_DEAD_LIST, path))
        yield measure("counts of dead letters", spool, lambda: spool.dead_by_reason("hub"))
        yield measure("retry of dead letters", spool, lambda: elsewhere(_DEAD_RETRY, path))
        spool.close()
    yield status_page(min(rows, 100_000))


def status_page(dead: int) -> Figure:
    """What /status takes of an agent with so many dead letters, in the middle of several."""
    with make_site() as site:
        make_spool(site.config.spool_path, dead, local=RowState.ACKED, hub=RowState.DEAD)
        site.config = replace(site.config, spool_max_bytes=MAX_BYTES)
        with running(site), Repeating(lambda _: site.status()) as looks:
            while len(looks.waits_s) < _LOOKS:
                time.sleep(0.01)
        return Figure(STATUS, statistics.median(looks.waits_s))


def elsewhere(code: str, path: Path) -> str:
    """Runs a command's work in a process of its own, as an operator does; returns what it prints.

    Args:
        code: Python, with `path`, the spool's `tools` and `dead`, and `peak_mb()` at hand.
        path: The spool.
    """
    text = f"{_PREAMBLE}\n{code}"
    return subprocess.run(
        [sys.executable, "-c", text, str(path)], check=True, capture_output=True, text=True
    ).stdout


def main() -> int:
    """Prints the figures; returns 1 when one misses its goal."""
    parser = argparse.ArgumentParser(prog="python -m rig.scale", description=__doc__)
    parser.add_argument("--rows", type=int, default=scale_rows())
    rows = parser.parse_args().rows
    print(f"a spool of {rows:,} rows that wait; what a package waits for its commit meanwhile")
    missed = 0
    for figure in figures(rows):
        kept = (
            figure.added_wait_s <= WAIT_MAX_S
            and figure.wal_bytes <= WAL_MAX_BYTES
            and figure.took_s <= TOOK_MAX_S.get(figure.name, math.inf)
        )
        missed += not kept
        print(
            f"{figure.name:<30}{figure.took_s:>9.3f} s, longest wait "
            f"{1000 * figure.longest_wait_s:>6.1f} ms (a bare commit "
            f"{1000 * figure.bare_wait_s:>6.1f} ms), log {figure.wal_bytes / 1e6:.1f} MB"
            f"{'' if kept else '  MISSED'}",
            flush=True,
        )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
