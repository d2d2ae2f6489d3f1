"""The spool's long tasks: when each is due, and what becomes of one that fails."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rig.clock import FakeClock
from unisat_agent.clock import ClockState
from unisat_agent.errors import SpoolFullError
from unisat_agent.record import Stamp
from unisat_agent.spool.correction import CHUNK_ROWS
from unisat_agent.spool.files import Pace
from unisat_agent.spool.maintenance import TIDY_MS, Maintenance
from unisat_agent.spool.queue import Spool
from unisat_agent.spool.repair import mark_suspect, open_spool
from unisat_agent.spool.schema import SINKS
from unisat_agent.troubles import Troubles

BOOT = "boot-a"
MAX_BYTES = 16 * 1024 * 1024
DAY_MS = 86_400_000


@dataclass
class Kept:
    """A spool and what looks after it."""

    spool: Spool
    clock: FakeClock
    troubles: Troubles
    maintenance: Maintenance
    stop: threading.Event

    def append(self, count: int, clock: ClockState = ClockState.SYNCED) -> None:
        for n in range(count):
            at = Stamp(self.clock.wall, self.clock.uptime, BOOT, clock)
            self.spool.append("u01", f'{{"groups":{{}},"n":{n}}}', at, [])

    def deliver(self) -> None:
        for sink in SINKS:
            self.spool.settle(sink, [w.row for w in self.spool.take(sink, "u01", 10_000)])


def kept_at(path: Path) -> Kept:
    clock, stop = FakeClock(), threading.Event()
    spool = open_spool(path, SINKS, BOOT, MAX_BYTES)
    troubles = Troubles(logging.getLogger("test"))
    return Kept(spool, clock, troubles, Maintenance(spool, clock, 7.0, stop, troubles), stop)


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    made = kept_at(tmp_path / "spool.db")
    yield made
    made.spool.close()


def test_old_history_goes_once_a_minute(kept: Kept) -> None:
    kept.append(3)
    kept.deliver()
    kept.clock.wall += 8 * DAY_MS
    kept.maintenance.step()
    assert kept.spool.devices() == ["u01"], "it is not time yet"
    kept.clock.uptime += TIDY_MS
    kept.maintenance.step()
    assert kept.spool.devices() == []


def test_history_is_not_evicted_by_a_clock_that_may_be_wrong(kept: Kept) -> None:
    kept.append(3)
    kept.deliver()
    kept.clock.wall += 8 * DAY_MS
    kept.clock.right = False
    kept.clock.uptime += TIDY_MS
    kept.maintenance.step()
    assert kept.spool.devices() == ["u01"]


def test_times_are_corrected_when_the_clock_is_right(kept: Kept) -> None:
    kept.clock.right = False
    kept.append(3, ClockState.UNSYNCED)
    kept.maintenance.step()
    assert kept.spool.unsynced == 3
    kept.clock.right = True
    kept.maintenance.step()
    assert kept.spool.unsynced == 0
    assert {w.row.stamp.clock for w in kept.spool.take("hub", "u01", 9)} == {ClockState.CORRECTED}


def test_a_correction_that_was_interrupted_goes_on_in_the_next_boot(kept: Kept) -> None:
    kept.append(1200, ClockState.UNSYNCED)
    offset_ms = kept.clock.wall - kept.clock.uptime
    first = kept.spool.correction.correct(BOOT, offset_ms, lambda: False)
    assert 0 < first <= CHUNK_ROWS
    kept.clock.right = False
    kept.clock.boot_id = "boot-b"
    thread = threading.Thread(target=kept.maintenance.run, args=(lambda: None,))
    kept.stop.set()
    thread.start()
    thread.join(30)
    left = kept.spool.unsynced
    assert 0 < left < 1200 - first, "one chunk, since the agent ends"
    assert kept.spool.correction.resume() == left
    assert kept.spool.unsynced == 0


def test_salvage_runs_beside_new_packages(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    before = kept_at(path)
    before.append(450)
    before.spool.close()
    mark_suspect(path)
    kept = kept_at(path)
    assert kept.spool.pending("hub") == 0, "a start does not wait for it"
    assert kept.maintenance.step()
    assert 0 < kept.spool.pending("hub") < 450
    kept.append(1)
    while kept.maintenance.step():
        pass
    assert kept.spool.pending("hub") == 451
    kept.spool.close()


def test_chunks_get_smaller_where_rows_take_long() -> None:
    clock = FakeClock()
    pace = Pace(500, monotonic=clock.monotonic)

    def chunk(row_s: float) -> int:
        rows = pace.rows
        with pace.measured():
            clock.advance(rows * row_s)
        return rows

    assert [chunk(0.00001) for _ in range(7)] == [20, 40, 80, 160, 320, 500, 500]
    assert [chunk(0.0002) for _ in range(3)] == [500, 100, 100]
    assert [chunk(0.01) for _ in range(2)] == [100, 20], "a commit has its price as well"


def test_what_fails_is_said_once_and_is_tried_again(kept: Kept) -> None:
    works = kept.spool.tidy

    def full(history_before_ms: int | None) -> int:
        raise SpoolFullError("no room")

    kept.spool.tidy = full  # type: ignore[method-assign]
    kept.clock.uptime += TIDY_MS
    kept.maintenance.step()
    kept.maintenance.step()
    assert kept.troubles.current() == ["no room"], "it does not flap while nothing is due"
    kept.spool.tidy = works  # type: ignore[method-assign]
    kept.clock.uptime += TIDY_MS
    kept.maintenance.step()
    assert kept.troubles.current() == []
