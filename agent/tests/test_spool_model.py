"""The spool against a simple model: nothing that is not acknowledged is ever lost or doubled."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import uuid
from dataclasses import dataclass, replace
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from rig.spools import BOOTS, MEMORY, foreign, opened, stamp
from unisat_agent.clock import ClockState
from unisat_agent.record import Record, Row, row_of
from unisat_agent.spool import tools as spool_tools
from unisat_agent.spool.backlog import LIVE_WINDOW_ROWS, Waiting
from unisat_agent.spool.dead import dead_letters, drop_dead, retry_dead
from unisat_agent.spool.schema import DONE, SINKS, WAITING, RowState

DEVICES = ("u01", "u02")
STRANGERS = ("x01", "x02")
EVERYBODY = DEVICES + STRANGERS


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
        self.folder = Path(tempfile.mkdtemp(prefix="unisat-spool-", dir=MEMORY))
        self.path = self.folder / "spool.db"
        self.boot = BOOTS[0]
        self.spool = opened(self.path)
        self.epoch = self.spool.epoch
        self.known: dict[int, Known] = {}
        self.gone: list[Record] = []
        self.taken: dict[str, list[Waiting]] = {sink: [] for sink in SINKS}
        self.dead: dict[tuple[int, str], str] = {}
        self.doubted: dict[str, int] = {}
        self.believed: set[str] = set()
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

    @rule(dev_id=st.sampled_from(STRANGERS), count=st.integers(1, 3))
    def unexpected_device_is_heard(self, dev_id: str, count: int) -> None:
        for _ in range(count):
            self.uptime_ms += 3_000
            at = stamp(1_000_000 + self.uptime_ms, self.uptime_ms, self.boot)
            row = self.spool.append(
                dev_id, json.dumps({"n": self.uptime_ms}), at, [], expected=False
            )
            self.last_seq += 1
            self.ids.add(row.record_id)
            first = self.doubted.pop(dev_id, None)
            if first is not None:
                self.known[first].states = dict.fromkeys(SINKS, RowState.PENDING)
                self.believed.add(dev_id)
            state = RowState.PENDING if dev_id in self.believed else RowState.UNBELIEVED
            if state is RowState.UNBELIEVED:
                self.doubted[dev_id] = row.seq
            self.known[row.seq] = Known(row, dict.fromkeys(SINKS, state))

    @rule(dev_id=st.sampled_from(EVERYBODY))
    def device_is_discarded(self, dev_id: str) -> None:
        gone = [seq for seq, known in self.known.items() if known.row.dev_id == dev_id]
        assert spool_tools.discard(self.path, dev_id) == len(gone)
        for seq in gone:
            del self.known[seq]
        self.dead = {key: why for key, why in self.dead.items() if key[0] in self.known}
        self.doubted.pop(dev_id, None)
        self.believed.discard(dev_id)

    @rule(sink=st.sampled_from(SINKS), dev_id=st.sampled_from(EVERYBODY), limit=st.integers(1, 12))
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
        dev_id=st.sampled_from(EVERYBODY),
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
        corrected = self.spool.correction.correct(self.boot, offset_ms)
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
                if known.states[wanted_by] is RowState.ACKED:
                    known.states[wanted_by] = RowState.PENDING
                    expected += 1
                continue
            expected += 1
            row = row_of(record, free)
            self.known[free] = Known(row, {holder: RowState.ACKED, wanted_by: RowState.PENDING})
            free -= 1
        self.lowest = min(self.lowest, free + 1)
        assert self.spool.adoption.adopt(list(records.values()), holder, wanted_by) == expected

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
        assert retry_dead(self.path) == len(self.dead)
        for seq, sink in self.dead:
            self.known[seq].states[sink] = RowState.PENDING
        changed, self.dead = bool(self.dead), {}
        if tidy_first:
            self.spool.tidy(None)
        else:
            assert self.spool.refresh() or not changed

    @rule(all_of_them=st.booleans())
    def dead_letters_are_dropped(self, all_of_them: bool) -> None:
        chosen = set(self.dead if all_of_them else list(self.dead)[:1])
        ids = {self.known[seq].row.record_id for seq, _ in chosen}
        chosen = {key for key in self.dead if self.known[key[0]].row.record_id in ids}
        assert drop_dead(self.path, None if all_of_them else ids) == len(chosen)
        for seq, sink in chosen:
            self.known[seq].states[sink] = RowState.DROPPED
            del self.dead[seq, sink]

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
        assert len(list(dead_letters(self.path))) == len(self.dead)
        assert set(self.spool.heard_once()) == set(self.doubted)
        assert not spool_tools.check(self.path)

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
