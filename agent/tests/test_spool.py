"""The spool against a simple model: nothing that is not acknowledged is ever lost or doubled."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import sqlite3
import tempfile
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from unisat_agent import spool_tools
from unisat_agent.clock import ClockState
from unisat_agent.errors import SpoolBusyError, SpoolCorruptError, SpoolError, SpoolFullError
from unisat_agent.record import Record, Row, Stamp, record_id, row_of
from unisat_agent.spool import (
    EVICT_ROWS,
    LIVE_WINDOW_ROWS,
    QUARANTINE_ROWS,
    SWEEP_ROWS,
    Hold,
    Quarantined,
    Spool,
    Waiting,
)
from unisat_agent.spool_file import DONE, PAGE_BYTES, SINKS, WAITING, RowState, translated

BOOTS = ("boot-a", "boot-b")
DEVICES = ("u01", "u02")
MAX_BYTES = 64 * 1024 * 1024
DAY_MS = 86_400_000
# Thousands of commits: on a disk, each would wait for it.
_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


def stamp(
    received_ms: int = 1_700_000_000_000,
    uptime_ms: int = 5_000,
    boot: str = BOOTS[0],
    clock: ClockState = ClockState.SYNCED,
) -> Stamp:
    return Stamp(received_ms, uptime_ms, boot, clock)


def opened(path: Path, *, hub: bool = True, boot: str = BOOTS[0], size: int = MAX_BYTES) -> Spool:
    return Spool(path, SINKS if hub else SINKS[:1], boot, size)


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=_MEMORY) as folder:
        yield Path(folder) / "spool.db"


@pytest.fixture
def spool(path: Path) -> Iterator[Spool]:
    made = opened(path)
    yield made
    made.close()


def append(spool: Spool, count: int = 1, dev_id: str = "u01", at: Stamp | None = None) -> list[Row]:
    return [
        spool.append(dev_id, json.dumps({"groups": {}, "n": n}), at or stamp(), [])
        for n in range(count)
    ]


def take(spool: Spool, sink: str = "hub", limit: int = 1000, dev_id: str = "u01") -> list[int]:
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


# The model


@dataclass(slots=True)
class Known:
    """What the model knows of a row."""

    row: Row
    states: dict[str, RowState]

    def waits_for(self, sink: str) -> bool:
        return self.states[sink] in WAITING


class SpoolMachine(RuleBasedStateMachine):
    """Random operations, each also done to a dictionary; after each, both must agree."""

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="unisat-spool-", dir=_MEMORY))
        self.path = self.folder / "spool.db"
        self.boot = BOOTS[0]
        self.spool = opened(self.path)
        self.epoch = self.spool.epoch
        self.known: dict[int, Known] = {}
        self.gone: list[Record] = []
        self.taken: dict[str, list[Waiting]] = {sink: [] for sink in SINKS}
        self.dead: dict[tuple[int, str], str] = {}
        self.last_seq = 0
        self.lowest = 0
        self.ids: set[uuid.UUID] = set()
        self.copies = 0
        self.uptime_ms = 0

    def teardown(self) -> None:
        if hasattr(self, "spool"):
            self.spool.close()
            shutil.rmtree(self.folder)

    # What happens

    @rule(dev_id=st.sampled_from(DEVICES), synced=st.booleans(), count=st.integers(1, 8))
    def packages_come(self, dev_id: str, synced: bool, count: int) -> None:
        for _ in range(count):
            self.uptime_ms += 3_000
            clock = ClockState.SYNCED if synced else ClockState.UNSYNCED
            at = stamp(1_000_000 + self.uptime_ms, self.uptime_ms, self.boot, clock)
            row = self.spool.append(dev_id, json.dumps({"n": self.uptime_ms}), at, [])
            self.last_seq += 1
            assert row.seq == row.record_seq == self.last_seq, "numbers have no gap, no repetition"
            assert row.record_id not in self.ids
            self.ids.add(row.record_id)
            self.known[row.seq] = Known(row, dict.fromkeys(SINKS, RowState.PENDING))

    @rule(sink=st.sampled_from(SINKS), dev_id=st.sampled_from(DEVICES), limit=st.integers(1, 12))
    def batch_is_taken(self, sink: str, dev_id: str, limit: int) -> None:
        waiting = sorted(
            seq
            for seq, known in self.known.items()
            if known.waits_for(sink) and known.row.dev_id == dev_id
        )
        live = [seq for seq in reversed(waiting) if seq > self.last_seq - LIVE_WINDOW_ROWS]
        live = live[: math.ceil(limit / 5)]
        wanted = [*live, *(seq for seq in waiting if seq not in live)][:limit]
        taken = self.spool.take(sink, dev_id, limit)
        assert [w.row.seq for w in taken] == sorted(wanted)
        for w in taken:
            known = self.known[w.row.seq]
            assert w.row == known.row
            assert w.overwrite == (known.states[sink] is RowState.STALE)
        self.taken[sink] = taken

    @rule(
        sink=st.sampled_from(SINKS),
        dev_id=st.sampled_from(DEVICES),
        refused=st.sets(st.integers(0, 24), max_size=2),
        elsewhen=st.sets(st.integers(0, 24), max_size=2),
        clock_is_set=st.booleans(),
    )
    def batch_is_delivered(
        self, sink: str, dev_id: str, refused: set[int], elsewhen: set[int], clock_is_set: bool
    ) -> None:
        self.batch_is_taken(sink, dev_id, 25)
        if clock_is_set:
            self.clock_is_set(10**12)
        rows = [waiting.row for waiting in self.taken[sink]]
        for number, row in enumerate(rows):
            if number in refused:
                self.refuse(sink, row)
            elif number in elsewhen:
                self.find_other_time(sink, row)
        self.acknowledge(sink, [row for n, row in enumerate(rows) if n not in refused | elsewhen])

    @rule(sinks=st.sampled_from([SINKS[:1], SINKS[1:], SINKS]))
    def all_is_delivered(self, sinks: tuple[str, ...]) -> None:
        for sink in sinks:
            for dev_id in self.spool.devices_waiting(sink):
                self.batch_is_taken(sink, dev_id, 10_000)
                self.acknowledge(sink, [waiting.row for waiting in self.taken[sink]])

    @rule(sink=st.sampled_from(SINKS))
    def late_answer_comes(self, sink: str) -> None:
        self.acknowledge(sink, [waiting.row for waiting in self.taken[sink]])

    def acknowledge(self, sink: str, rows: list[Row]) -> None:
        self.spool.settle(sink, rows)
        for row in rows:
            known = self.known.get(row.seq)
            if known is not None and known.waits_for(sink):
                same = known.row.revision == row.revision
                known.states[sink] = RowState.ACKED if same else RowState.STALE

    def refuse(self, sink: str, row: Row) -> None:
        self.spool.bury(sink, row, "refused", "400")
        known = self.known.get(row.seq)
        if known is not None and known.waits_for(sink):
            known.states[sink] = RowState.DEAD
            self.dead[row.seq, sink] = "refused"

    def find_other_time(self, sink: str, row: Row) -> None:
        self.spool.mark_stale(sink, row)
        known = self.known.get(row.seq)
        if known is not None and known.states[sink] is RowState.PENDING:
            known.states[sink] = RowState.STALE

    @rule(offset_ms=st.integers(10**12, 2 * 10**12))
    def clock_is_set(self, offset_ms: int) -> None:
        corrected = self.spool.correct(self.boot, offset_ms)
        rows = [known for known in self.known.values() if self.has_no_time(known)]
        assert corrected == len(rows)
        for known in rows:
            at = known.row.stamp
            right = replace(at, received_ms=at.uptime_ms + offset_ms, clock=ClockState.CORRECTED)
            known.row = replace(known.row, stamp=right, revision=known.row.revision + 1)
            for sink in SINKS:
                if known.states[sink] is RowState.ACKED:
                    known.states[sink] = RowState.STALE

    @rule(holder=st.sampled_from(SINKS), numbers=st.sets(st.integers(1, 30), max_size=3),
          own=st.sets(st.integers(0, 10**6), max_size=4))  # fmt: skip
    def records_are_adopted(self, holder: str, numbers: set[int], own: set[int]) -> None:
        wanted_by = SINKS[1 - SINKS.index(holder)]
        pool = [known.row.record() for known in self.known.values()] + self.gone
        mine = [pool[index % len(pool)] for index in own] if pool else []
        records = {r["id"]: r for r in [*mine, *map(foreign, numbers)]}
        before = {str(known.row.record_id): known for known in self.known.values()}
        expected = 0
        free = min(self.lowest, 0) - 1
        for ident, record in records.items():
            if (known := before.get(ident)) is not None:
                if known.states[wanted_by] in DONE:
                    known.states[wanted_by] = RowState.PENDING
                    expected += 1
                continue
            expected += 1
            row = row_of(record, free)
            self.known[free] = Known(row, {holder: RowState.ACKED, wanted_by: RowState.PENDING})
            free -= 1
        self.lowest = min(self.lowest, free + 1)
        assert self.spool.adopt(list(records.values()), holder, wanted_by) == expected

    @rule(all_of_it=st.booleans())
    def house_is_kept(self, all_of_it: bool) -> None:
        history = None if not all_of_it else 10**15
        evicted = self.spool.tidy(history)
        old = [s for s, k in self.known.items() if all_of_it and DONE.issuperset(k.states.values())]
        assert evicted == len(old)
        for seq in old:
            self.gone.append(self.known.pop(seq).row.record())

    @rule(boot=st.sampled_from(BOOTS))
    def agent_restarts(self, boot: str) -> None:
        self.spool.close()
        self.open(boot)

    @rule(boot=st.sampled_from(BOOTS))
    def power_is_cut(self, boot: str) -> None:
        self.copies += 1
        there = self.folder / str(self.copies)
        there.mkdir()
        for file in (self.path, self.path.with_name("spool.db-wal")):
            if file.exists():
                shutil.copy(file, there)
        self.spool.close()
        self.path = there / "spool.db"
        self.open(boot)

    @rule(tidy_first=st.booleans())
    def dead_letters_are_retried(self, tidy_first: bool) -> None:
        assert spool_tools.retry_dead(self.path) == len(self.dead)
        for seq, sink in self.dead:
            self.known[seq].states[sink] = RowState.PENDING
        changed, self.dead = bool(self.dead), {}
        if tidy_first:
            self.spool.tidy(None)
        else:
            assert self.spool.refresh() or not changed

    # What must hold

    @invariant()
    def counts_are_right(self) -> None:
        counts = spool_tools.count(self.path)
        assert counts["packages"] == len(self.known)
        for sink in SINKS:
            waiting = [known for known in self.known.values() if known.waits_for(sink)]
            assert self.spool.pending(sink) == counts[f"waiting for {sink}"] == len(waiting)
            assert set(self.spool.devices_waiting(sink)) == {k.row.dev_id for k in waiting}
            assert sum(self.spool.dead_by_reason(sink).values()) == sum(
                1 for _, name in self.dead if name == sink
            )
        assert len(spool_tools.dead_letters(self.path)) == len(self.dead)

    @invariant()
    def numbers_are_right(self) -> None:
        assert self.spool.last_seq == self.last_seq
        assert self.spool.epoch == self.epoch
        assert self.spool.unsynced == sum(map(self.has_no_time, self.known.values()))
        own = [s for s, k in self.known.items() if s > 0 and any(map(k.waits_for, SINKS))]
        assert self.spool.lowest_waiting() == min(own, default=None)

    @invariant()
    def rows_are_right(self) -> None:
        rows = {row.seq: row for row in spool_tools.rows(self.path)}
        assert rows == {seq: known.row for seq, known in self.known.items()}

    def has_no_time(self, known: Known) -> bool:
        at = known.row.stamp
        return at.clock is ClockState.UNSYNCED and at.boot_id == self.boot

    def open(self, boot: str) -> None:
        self.boot = boot
        self.spool = opened(self.path, boot=boot)
        self.taken = {sink: [] for sink in SINKS}
        self.lowest = min(self.known, default=0)


TestSpoolAgainstModel = SpoolMachine.TestCase
TestSpoolAgainstModel.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


# One thing at a time


class TestLiveFirst:
    def test_youngest_come_within_the_first_batch(self, spool: Spool) -> None:
        append(spool, 400)
        assert take(spool, limit=25) == [*range(1, 21), *range(396, 401)]

    def test_backlog_goes_on_while_live_records_come(self, spool: Spool) -> None:
        append(spool, 400)
        for _ in range(30):
            taken = [waiting.row for waiting in spool.take("hub", "u01", 25)]
            spool.settle("hub", taken)
            (live,) = append(spool)
            assert live.seq in take(spool, limit=25)
        assert take(spool, limit=1) == [430]
        assert spool.pending("hub") == len(take(spool))

    def test_a_small_limit_still_has_a_live_record(self, spool: Spool) -> None:
        append(spool, 3)
        assert take(spool, limit=1) == [3]


class TestHold:
    def test_holds_rows_without_a_time_of_this_boot_only(self, path: Path) -> None:
        spool = opened(path, boot=BOOTS[1])
        append(spool, at=stamp(uptime_ms=9_000, boot=BOOTS[0], clock=ClockState.UNSYNCED))
        append(spool, at=stamp(uptime_ms=1_000, boot=BOOTS[1], clock=ClockState.UNSYNCED))
        append(spool, at=stamp(uptime_ms=2_001, boot=BOOTS[1], clock=ClockState.UNSYNCED))
        append(spool, at=stamp(uptime_ms=3_000, boot=BOOTS[1], clock=ClockState.SYNCED))
        hold = Hold(BOOTS[1], since_ms=2_000)
        assert [w.row.seq for w in spool.take("hub", "u01", 9, hold)] == [1, 2, 4]
        assert take(spool) == [1, 2, 3, 4]
        spool.correct(BOOTS[1], 10**12)
        assert [w.row.seq for w in spool.take("hub", "u01", 9, hold)] == [1, 2, 3, 4]
        spool.close()


class TestCorrection:
    def test_row_corrected_in_flight_is_delivered_again_to_overwrite(self, spool: Spool) -> None:
        append(spool, at=stamp(received_ms=5, uptime_ms=3_000, clock=ClockState.UNSYNCED))
        (sent,) = spool.take("hub", "u01", 5)
        assert spool.correct(BOOTS[0], 10**12) == 1
        spool.settle("hub", [sent.row])
        (again,) = spool.take("hub", "u01", 5)
        assert (sent.overwrite, again.overwrite) == (False, True)
        assert again.row.stamp == Stamp(10**12 + 3_000, 3_000, BOOTS[0], ClockState.CORRECTED)
        assert again.row.record_id == sent.row.record_id
        spool.settle("hub", [again.row])
        assert take(spool) == []

    def test_what_was_delivered_with_the_wrong_time_is_delivered_again(self, spool: Spool) -> None:
        (row,) = append(spool, at=stamp(clock=ClockState.UNSYNCED))
        spool.settle("local", [row])
        spool.tidy(None)  # which notes that nothing waits for the local Kinto below
        spool.correct(BOOTS[0], 10**12)
        assert [w.overwrite for w in spool.take("local", "u01", 5)] == [True]
        assert [w.overwrite for w in spool.take("hub", "u01", 5)] == [False]
        assert spool.news["local"].is_set()

    def test_salvaged_rows_of_this_boot_are_corrected_too(self, path: Path, tmp_path: Path) -> None:
        other = opened(tmp_path / "other.db")
        rows = append(other, 2, at=stamp(clock=ClockState.UNSYNCED))
        other.close()
        spool = opened(path)
        spool.salvage([(row, dict.fromkeys(SINKS, RowState.PENDING)) for row in rows])
        assert spool.unsynced == 2
        spool.close()
        spool = opened(path)
        assert spool.unsynced == 2
        assert spool.correct(BOOTS[0], 10**12) == 2
        assert {w.row.stamp.clock for w in spool.take("hub", "u01", 9)} == {ClockState.CORRECTED}
        spool.close()


class TestRoom:
    SIZE = 64 * PAGE_BYTES

    def fill(self, spool: Spool) -> list[Row]:
        rows: list[Row] = []
        with contextlib.suppress(SpoolFullError):
            while True:
                rows += append(spool)
        return rows

    def test_full_of_waiting_rows_it_refuses_new_ones_and_keeps_the_old(self, path: Path) -> None:
        spool = opened(path, size=self.SIZE)
        rows = self.fill(spool)
        assert spool.make_room() == 0
        with pytest.raises(SpoolFullError, match=r"free space on the disk, or raise \[spool\]"):
            append(spool)
        assert take(spool) == [row.seq for row in rows]
        assert spool.last_seq == len(rows)
        spool.close()

    def test_goes_on_once_both_sinks_have_some(self, path: Path) -> None:
        spool = opened(path, size=self.SIZE)
        rows = self.fill(spool)
        spool.settle("local", rows)
        assert spool.make_room() == 0
        spool.settle("hub", rows[:20])
        assert spool.make_room() == 20
        (new,) = append(spool)
        assert new.seq == len(rows) + 1, "a number that was refused is given again, none is skipped"
        assert take(spool) == [*range(21, len(rows) + 2)]
        spool.close()

    def test_tidy_makes_room_before_it_is_needed(self, path: Path) -> None:
        spool = opened(path, size=self.SIZE)
        rows = self.fill(spool)
        for sink in SINKS:
            spool.settle(sink, rows[:-5])
        assert spool.tidy(None) == EVICT_ROWS
        assert spool.used_bytes() < 0.9 * self.SIZE
        append(spool, 10)
        spool.close()

    def test_opens_again_while_full_also_in_another_boot(self, path: Path) -> None:
        spool = opened(path, size=self.SIZE)
        rows = self.fill(spool)
        spool.close()
        spool = opened(path, size=self.SIZE, boot=BOOTS[1])
        assert take(spool) == [row.seq for row in rows]
        assert spool.correct(BOOTS[1], 5) == 0
        spool.close()

    def test_a_search_that_found_nothing_is_not_made_again(self, path: Path) -> None:
        spool = opened(path, size=self.SIZE)
        rows = self.fill(spool)
        spool.make_room()
        seen: list[str] = []
        spool._db.set_trace_callback(seen.append)
        spool.make_room()
        assert not any("DELETE" in statement for statement in seen)
        spool._db.set_trace_callback(None)
        for sink in SINKS:
            spool.settle(sink, rows[:1])
        assert spool.make_room() == 1
        spool.close()

    def test_the_reserve_is_kept_for_acknowledgements(self, path: Path) -> None:
        reserve = path.with_name("spool.db.reserve")
        spool = opened(path, size=self.SIZE)
        assert reserve.stat().st_size == 1024 * 1024
        rows = self.fill(spool)
        spool.make_room()
        assert reserve.exists(), "packages don't get it"
        for sink in SINKS:
            spool.settle(sink, rows)
        spool.make_room()
        assert not reserve.exists(), "there is history to evict with its help"
        spool.tidy(None)
        assert reserve.exists()
        spool.close()


class TestHistory:
    def test_is_evicted_by_age_and_only_when_delivered(self, spool: Spool) -> None:
        old, refused, waiting = append(spool, 3, at=stamp(received_ms=1_000))
        (young,) = append(spool, at=stamp(received_ms=2_000))
        for sink in SINKS:
            spool.settle(sink, [old, young])
        spool.bury("hub", refused, "refused", "400")
        assert spool.tidy(2_000) == 1
        left = [row.seq for row in spool_tools.rows(spool.path)]
        assert left == [refused.seq, waiting.seq, young.seq]

    def test_one_call_looks_at_a_bounded_part_and_the_next_goes_on(self, spool: Spool) -> None:
        count = SWEEP_ROWS + 10
        with spool._transaction():
            spool._db.executemany(
                "INSERT INTO package SELECT NULL, zeroblob(16), 'u01', 1, 1, 1, 1, 0, '{}', 1, ?, "
                "NULL, NULL",
                [(RowState.ACKED,)] * count,
            )
        assert [spool.tidy(2) for _ in range(3)] == [SWEEP_ROWS, 10, 0]

    def test_a_full_spool_is_evicted_step_by_step(self, path: Path) -> None:
        spool = opened(path)
        rows = append(spool, EVICT_ROWS + 1)
        for sink in SINKS:
            spool.settle(sink, rows)
        assert [spool.make_room() for _ in range(3)] == [EVICT_ROWS, 1, 0]
        spool.close()

    def test_numbers_go_on_after_all_rows_are_gone(self, path: Path) -> None:
        spool = opened(path)
        rows = append(spool, 3)
        for sink in SINKS:
            spool.settle(sink, rows)
        assert spool.tidy(10**15) == 3
        spool.close()
        spool = opened(path)
        assert (spool.last_seq, append(spool)[0].seq) == (3, 4)
        spool.close()


class TestSinks:
    def test_without_a_hub_nothing_waits_for_it(self, path: Path) -> None:
        spool = opened(path, hub=False)
        rows = append(spool, 3)
        assert set(spool.news) == {"local"}
        spool.settle("local", rows)
        assert spool.tidy(10**15) == 3
        spool.close()

    def test_a_hub_that_comes_gets_what_is_still_there(self, path: Path) -> None:
        spool = opened(path, hub=False)
        rows = append(spool, 3)
        spool.settle("local", rows)
        spool.tidy(None)
        spool.close()
        spool = opened(path)
        assert take(spool) == [1, 2, 3]
        spool.settle("hub", rows[:1])
        spool.close()
        spool = opened(path, hub=False)
        assert spool.tidy(10**15) == 3, "a hub that went is not waited for"
        spool.close()


class TestQuarantine:
    def test_is_bounded_and_keeps_the_youngest(self, spool: Spool) -> None:
        lines = [Quarantined("tty", "bad_value", b"%d" % n) for n in range(QUARANTINE_ROWS + 5)]
        spool.quarantine(1, lines)
        assert spool.quarantined() == QUARANTINE_ROWS
        (raw,) = spool._db.execute("SELECT raw FROM quarantine ORDER BY number").fetchone()
        assert raw == b"5"

    def test_comes_with_its_package_or_not_at_all(self, path: Path) -> None:
        spool = opened(path, size=64 * PAGE_BYTES)
        huge = Quarantined("tty", "bad_value", bytes(200 * PAGE_BYTES))
        with pytest.raises(SpoolFullError):
            spool.append("u01", "{}", stamp(), [huge])
        assert (spool.last_seq, spool.quarantined(), spool.pending("hub")) == (0, 0, 0)
        spool.append("u01", "{}", stamp(), [replace(huge, raw=b"x")])
        assert (spool.last_seq, spool.quarantined()) == (1, 1)
        spool.close()


class TestNews:
    def test_wakes_the_courier_that_waits(self, spool: Spool) -> None:
        for event in spool.news.values():
            event.clear()
        woken = threading.Event()

        def wait() -> None:
            if spool.news["hub"].wait(30):
                woken.set()

        waiter = threading.Thread(target=wait)
        waiter.start()
        append(spool)
        waiter.join(30)
        assert woken.is_set()


class TestNotes:
    def test_are_left_and_taken_away(self, spool: Spool) -> None:
        assert spool.note("x") is None
        spool.set_note("x", "1")
        assert spool.note("x") == "1"
        spool.set_note("x", None)
        assert spool.note("x") is None


class TestAge:
    def test_of_the_oldest_row_that_waits(self, path: Path) -> None:
        spool = opened(path)
        assert spool.oldest_waiting("hub", BOOTS[0]) is None
        rows = append(spool, 2, at=stamp(uptime_ms=7))
        assert spool.oldest_waiting("hub", BOOTS[0]) == (7, True)
        assert spool.oldest_waiting("hub", BOOTS[1]) == (rows[0].stamp.received_ms, False)
        spool.settle("hub", rows)
        assert spool.oldest_waiting("hub", BOOTS[0]) is None
        spool.close()


class TestOpening:
    def test_second_opener_is_refused(self, path: Path) -> None:
        spool = opened(path)
        with pytest.raises(SpoolBusyError, match="another agent has this spool: stop it first"):
            opened(path)
        spool.close()
        opened(path).close()

    def test_failed_opening_gives_the_lock_back(self, path: Path) -> None:
        path.write_bytes(b"no database" * 100)
        for _ in range(2):
            with pytest.raises(SpoolCorruptError):
                opened(path)

    def test_newer_format_is_refused(self, path: Path) -> None:
        opened(path).close()
        with sqlite3.connect(path) as db:
            db.execute("PRAGMA user_version = 99")
        db.close()
        with pytest.raises(SpoolError, match=r"newer agent \(format 99\): update this one"):
            opened(path)

    @pytest.mark.parametrize("epoch", [None, "nonsense"])
    def test_lost_epoch_is_damage(self, path: Path, epoch: str | None) -> None:
        opened(path).close()
        with sqlite3.connect(path) as db:
            if epoch is None:
                db.execute("DELETE FROM meta WHERE key = 'epoch'")
            else:
                db.execute("UPDATE meta SET value = ? WHERE key = 'epoch'", (epoch,))
        db.close()
        with pytest.raises(SpoolCorruptError, match="damaged"):
            opened(path)

    def test_row_that_can_not_be_one_is_damage(self, spool: Spool) -> None:
        append(spool)
        spool._db.execute("UPDATE package SET record_id = x'00'")
        with pytest.raises(SpoolCorruptError, match="row 1"):
            take(spool)

    def test_folder_that_can_not_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(
            SpoolError, match=r"can't be used: .*: make it writable for the agent's"
        ):
            opened(tmp_path / "file" / "spool.db")

    def test_closed_spool_says_so(self, path: Path) -> None:
        spool = opened(path)
        spool.close()
        with pytest.raises(SpoolError, match="can't be used"):
            spool.quarantined()


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_FULL, SpoolFullError),
        (sqlite3.SQLITE_CORRUPT_INDEX, SpoolCorruptError),
        (sqlite3.SQLITE_NOTADB, SpoolCorruptError),
        (sqlite3.SQLITE_IOERR_READ, SpoolCorruptError),
        (sqlite3.SQLITE_IOERR_WRITE, SpoolError),
        (sqlite3.SQLITE_BUSY, SpoolError),
    ],
)
def test_errors_of_sqlite_have_a_meaning(code: int, kind: type[SpoolError]) -> None:
    error = sqlite3.OperationalError("x")
    error.sqlite_errorcode = code
    with pytest.raises(SpoolError) as caught, translated(Path("spool.db")):
        raise error
    assert type(caught.value) is kind


def test_adoption_uses_its_index(spool: Spool) -> None:
    """Else each step of a large reconcile would read all that was adopted so far."""
    plan: list[Any] = spool._db.execute(
        "EXPLAIN QUERY PLAN SELECT seq, hub FROM package WHERE seq < 0 AND record_id = ?", (b"",)
    ).fetchall()
    assert "INDEX adopted" in str(plan)


def test_record_of_nobody_is_refused_and_nothing_is_adopted(spool: Spool) -> None:
    with pytest.raises(ValueError, match="not a record of an agent"):
        spool.adopt([foreign(1), {"id": "x"}], "local", "hub")
    assert (spool.pending("hub"), take(spool)) == (0, [])
