"""A spool within its size: what is evicted and when, and what is refused."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from rig.spools import BOOTS, append, beside, opened, stamp, take
from unisat_agent.clock import ClockState
from unisat_agent.errors import SpoolFullError
from unisat_agent.record import Row
from unisat_agent.spool import tools as spool_tools
from unisat_agent.spool.eviction import COPIES_MAX, EVICT_ROWS, SWEEP_ROWS
from unisat_agent.spool.files import set_aside_copies
from unisat_agent.spool.queue import Spool
from unisat_agent.spool.schema import PAGE_BYTES, SINKS


class TestRoom:
    SIZE = 128 * PAGE_BYTES

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
        assert spool.tidy(None) >= EVICT_ROWS
        assert spool.used_bytes() <= self.SIZE, "with the log and the reserve"
        append(spool, 10)
        spool.close()

    def test_opens_again_while_full_also_in_another_boot(self, path: Path) -> None:
        spool = opened(path, size=self.SIZE)
        rows = self.fill(spool)
        spool.close()
        spool = opened(path, size=self.SIZE, boot=BOOTS[1])
        assert take(spool) == [row.seq for row in rows]
        assert spool.correction.correct(BOOTS[1], 5) == 0
        spool.close()

    def test_a_search_that_found_nothing_goes_on_from_there(self, path: Path) -> None:
        spool = opened(path, size=self.SIZE)
        rows = self.fill(spool)
        spool.make_room()
        assert spool.make_room() == 0
        for sink in SINKS:
            spool.settle(sink, rows[:1])
        assert spool.make_room() == 1, "but what was acknowledged since is found"
        spool.close()

    def test_the_reserve_is_kept_for_acknowledgements(self, path: Path) -> None:
        reserve = path.with_name("spool.db.reserve")
        spool = opened(path, size=self.SIZE)
        assert reserve.stat().st_size == self.SIZE // 8
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

    def test_times_are_corrected_and_records_buried_beyond_the_cap(self, path: Path) -> None:
        spool = opened(path, size=self.SIZE)
        with contextlib.suppress(SpoolFullError):
            while True:
                at = stamp(received_ms=5, clock=ClockState.UNSYNCED)
                append(spool, at=at)
        count = spool.last_seq
        assert spool.correction.correct(BOOTS[0], 10**12) == count
        for row in [w.row for w in spool.take("hub", "u01", 3)]:
            spool.bury("hub", row, "refused", "400")
        assert spool.dead_by_reason("hub") == {"refused": 3}
        spool.close()


class TestCopies:
    """Of damaged spools: they count against the spool's size, and are bounded."""

    SIZE = 8 * 1024 * 1024

    def leave(self, path: Path, *sizes: int) -> None:
        for number, size in enumerate(sizes, 1):
            path.with_name(f"spool.db.corrupt-{number}").write_bytes(bytes(size))
            path.with_name(f"spool.db.corrupt-{number}-wal").write_bytes(b"log")

    def test_the_latest_few_are_kept(self, path: Path) -> None:
        self.leave(path, *[1000] * (COPIES_MAX + 2))
        opened(path, size=self.SIZE).close()
        assert [copy.name[-1] for copy in set_aside_copies(path)] == ["3", "4", "5"]
        assert len(list(path.parent.glob("*.corrupt-*-wal"))) == COPIES_MAX

    def test_they_take_half_of_the_size_at_most(self, path: Path) -> None:
        self.leave(path, self.SIZE // 4, self.SIZE // 4, self.SIZE // 4)
        spool = opened(path, size=self.SIZE)
        assert [copy.name[-1] for copy in set_aside_copies(path)] == ["3"]
        assert spool.used_bytes() > self.SIZE // 4
        with pytest.raises(SpoolFullError):
            spool.append("u01", "x" * (self.SIZE // 2), stamp(), [])
        spool.close()
        set_aside_copies(path)[0].unlink()
        spool = opened(path, size=self.SIZE)
        spool.append("u01", "x" * (self.SIZE // 2), stamp(), [])
        spool.close()

    def test_they_go_before_a_package_is_refused(self, path: Path) -> None:
        self.leave(path, 1000)
        spool = opened(path, size=self.SIZE)
        assert [spool.make_room() for _ in range(2)] == [1, 0]
        assert set_aside_copies(path) == []
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

    def test_one_call_looks_at_a_bounded_part_and_the_next_goes_on(self, path: Path) -> None:
        count = SWEEP_ROWS + 10
        opened(path).close()
        with beside(path) as db:
            db.execute(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
                "INSERT INTO package SELECT i, zeroblob(16), 'u01', 1, 1, 1, 1, 0, '{}', 1, 1, "
                "NULL, NULL FROM n",
                (count,),
            )
        spool = opened(path)
        assert [spool.tidy(2) for _ in range(3)] == [SWEEP_ROWS, 10, 0]
        spool.close()

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
