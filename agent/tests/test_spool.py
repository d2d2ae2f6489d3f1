"""What the spool does, one thing at a time; test_spool_model.py has all of it together."""

from __future__ import annotations

import sqlite3
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from rig.spools import BOOTS, append, beside, foreign, opened, stamp, take
from unisat_agent.clock import ClockState
from unisat_agent.errors import SpoolBusyError, SpoolCorruptError, SpoolError, SpoolFullError
from unisat_agent.record import Stamp
from unisat_agent.spool.backlog import Hold
from unisat_agent.spool.files import translated
from unisat_agent.spool.quarantine import QUARANTINE_ROWS, Quarantined
from unisat_agent.spool.queue import Spool
from unisat_agent.spool.schema import PAGE_BYTES, SINKS, RowState


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
        spool.correction.correct(BOOTS[1], 10**12)
        assert [w.row.seq for w in spool.take("hub", "u01", 9, hold)] == [1, 2, 3, 4]
        spool.close()


class TestCorrection:
    def test_row_corrected_in_flight_is_delivered_again_to_overwrite(self, spool: Spool) -> None:
        append(spool, at=stamp(received_ms=5, uptime_ms=3_000, clock=ClockState.UNSYNCED))
        (sent,) = spool.take("hub", "u01", 5)
        assert spool.correction.correct(BOOTS[0], 10**12) == 1
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
        spool.correction.correct(BOOTS[0], 10**12)
        assert [w.overwrite for w in spool.take("local", "u01", 5)] == [True]
        assert [w.overwrite for w in spool.take("hub", "u01", 5)] == [False]
        assert spool.news["local"].is_set()

    def test_salvaged_rows_of_this_boot_are_corrected_too(self, path: Path, tmp_path: Path) -> None:
        other = opened(tmp_path / "other.db")
        rows = append(other, 2, at=stamp(clock=ClockState.UNSYNCED))
        other.close()
        spool = opened(path)
        spool.adoption.take_over([(row, dict.fromkeys(SINKS, RowState.PENDING)) for row in rows])
        assert spool.unsynced == 2
        spool.close()
        spool = opened(path)
        assert spool.unsynced == 2
        assert spool.correction.correct(BOOTS[0], 10**12) == 2
        assert {w.row.stamp.clock for w in spool.take("hub", "u01", 9)} == {ClockState.CORRECTED}
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
        with beside(spool.path) as db:
            ((raw,),) = db.execute("SELECT raw FROM quarantine ORDER BY number LIMIT 1").fetchall()
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
        with pytest.raises(
            SpoolError, match=r"newer agent \(schema 99, this one knows 2\): install"
        ):
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

    def test_row_that_can_not_be_one_costs_itself_alone(self, spool: Spool) -> None:
        append(spool, 3)
        with beside(spool.path) as db:
            db.execute("UPDATE package SET record_id = x'00' WHERE seq = 2")
        assert take(spool) == [1, 3]
        assert (spool.pending("hub"), spool.quarantined()) == (2, 1)
        with beside(spool.path) as db:
            assert db.execute("SELECT port, reason FROM quarantine").fetchall() == [
                ("spool", "damaged_row")
            ]

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
    with beside(spool.path) as db:
        plan = db.execute(
            "EXPLAIN QUERY PLAN SELECT seq, hub FROM package WHERE seq < 0 AND record_id = ?",
            (b"",),
        ).fetchall()
    assert "INDEX adopted" in str(plan)


def test_record_of_nobody_is_refused_and_nothing_is_adopted(spool: Spool) -> None:
    with pytest.raises(ValueError, match="not a record of an agent"):
        spool.adoption.adopt([foreign(1), {"id": "x"}], "local", "hub")
    assert (spool.pending("hub"), take(spool)) == (0, [])
