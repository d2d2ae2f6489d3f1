"""From decoded events to the spool: stamped once, committed, not dropped for want of room."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from unisat_agent.clock import ClockState
from unisat_agent.errors import SpoolCorruptError
from unisat_agent.intake import PUSH_INTERVAL_MIN_MS, WAITING_MAX, Intake
from unisat_agent.psott import Decoder, Event, Reason, Rejected
from unisat_agent.record import Row
from unisat_agent.spool import Spool
from unisat_agent.spool_file import PAGE_BYTES, SINKS

BOOT = "boot-a"


class FakeClock:
    """Stands still; may be set while it is asked."""

    def __init__(self) -> None:
        self.boot_id = BOOT
        self.wall = 1_000_000
        self.uptime = 50_000
        self.right = True
        self.asked: list[str] = []

    def wall_ms(self) -> int:
        self.asked.append("wall")
        return self.wall

    def uptime_ms(self) -> int:
        return self.uptime

    def synchronised(self) -> bool:
        self.asked.append("synchronised")
        return self.right


def events(*texts: str) -> list[Event]:
    decoder = Decoder()
    return [event for text in texts for event in decoder.feed(text.encode())]


def package(n: int = 1, dev_id: str = "u01") -> str:
    return f"devID={dev_id}\ntemperature={n}\nhumidity=2\npressure=3\npm25=4\n\n"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    made = Spool(tmp_path / "spool.db", SINKS, BOOT, 64 * PAGE_BYTES)
    yield made
    made.close()


@pytest.fixture
def intake(spool: Spool, clock: FakeClock) -> Intake:
    return Intake(spool, clock)


def stored(spool: Spool, dev_id: str = "u01") -> list[Row]:
    return [waiting.row for waiting in spool.take("local", dev_id, 10_000)]


def quarantine(spool: Spool) -> list[tuple[str, str, bytes]]:
    return spool._db.execute("SELECT port, reason, raw FROM quarantine ORDER BY number").fetchall()


def fill(intake: Intake) -> int:
    """Packages until one has to wait; how many found room."""
    count = 0
    while not intake.waiting:
        intake.accept("tty", events(package(count)))
        count += 1
    return count - 1


def free(spool: Spool, count: int) -> None:
    rows = stored(spool)[:count]
    for sink in SINKS:
        spool.settle(sink, rows)


class TestStamp:
    def test_is_taken_once_for_the_events_that_came_together(
        self, intake: Intake, spool: Spool, clock: FakeClock
    ) -> None:
        intake.accept("tty", events(package(1), package(2)))
        stamps = [row.stamp for row in stored(spool)]
        assert [(s.received_ms, s.uptime_ms, s.boot_id, s.clock) for s in stamps] == [
            (1_000_000, 50_000, BOOT, ClockState.SYNCED)
        ] * 2

    def test_says_that_the_time_is_not_known(
        self, intake: Intake, spool: Spool, clock: FakeClock
    ) -> None:
        clock.right = False
        intake.accept("tty", events(package()))
        assert stored(spool)[0].stamp.clock is ClockState.UNSYNCED
        assert spool.unsynced == 1

    def test_asks_whether_the_clock_is_right_before_it_reads_it(
        self, intake: Intake, clock: FakeClock
    ) -> None:
        intake.accept("tty", events(package()))
        assert clock.asked == ["synchronised", "wall"]

    def test_what_was_received_earlier_is_dated_back(self, intake: Intake, spool: Spool) -> None:
        intake.accept("tty", events(package()), age_s=2.5)
        stamp = stored(spool)[0].stamp
        assert (stamp.received_ms, stamp.uptime_ms) == (997_500, 47_500)


class TestBadLines:
    def test_go_into_quarantine_with_their_package(self, intake: Intake, spool: Spool) -> None:
        intake.accept("tty", events("devID=u01\ntemperature=nan\npm25=4\n\n"))
        assert len(stored(spool)) == 1
        assert quarantine(spool) == [("tty", "bad_value", b"temperature=nan")]
        assert intake.bad_lines == {"bad_value": 1}

    def test_of_no_package_too(self, intake: Intake, spool: Spool) -> None:
        intake.accept("tty", [Rejected(Reason.NO_DEV_ID, b"x=1")])
        assert stored(spool) == []
        assert quarantine(spool) == [("tty", "no_dev_id", b"x=1")]

    def test_unknown_device(self, spool: Spool, clock: FakeClock) -> None:
        intake = Intake(spool, clock, frozenset({"u01"}))
        intake.accept("tty", events(package(1, "u01"), package(2, "u02")))
        assert (len(stored(spool)), spool.devices()) == (1, ["u01"])
        ((port, reason, raw),) = quarantine(spool)
        assert (port, reason) == ("tty", "unknown_device")
        assert raw.startswith(b'devID=u02 {"groups"')
        assert intake.bad_lines == {"unknown_device": 1}

    def test_nothing_is_nothing(self, intake: Intake, spool: Spool) -> None:
        intake.accept("tty", [])
        assert spool.last_seq == 0


class TestFigures:
    def test_packages_and_missing_fields(self, intake: Intake) -> None:
        intake.accept("tty", events(package(), "devID=u02\npm25=1\n\n"))
        assert intake.packages == {"u01": 1, "u02": 1}
        assert intake.missing == {"temperature": 1, "humidity": 1, "pressure": 1}

    def test_packages_that_come_too_fast_are_counted_and_kept(
        self, intake: Intake, spool: Spool, clock: FakeClock
    ) -> None:
        for wait_ms in (0, PUSH_INTERVAL_MIN_MS, PUSH_INTERVAL_MIN_MS - 1):
            clock.uptime += wait_ms
            intake.accept("tty", events(package()))
        intake.accept("tty", events(package(1, "u02")))
        assert intake.fast == {"u01": 1}
        assert len(stored(spool)) == 3


class TestNoRoom:
    def test_packages_wait_and_go_in_once_there_is_room(
        self, intake: Intake, spool: Spool, clock: FakeClock
    ) -> None:
        room = fill(intake)
        assert (intake.waiting, spool.last_seq) == (1, room)
        (said,) = intake.notices.current()
        assert "no room for another package" in said
        assert "1 packages wait in memory" in said
        clock.wall += 99_000
        intake.accept("tty", events(package(7)))
        assert intake.waiting == 2
        free(spool, 50)
        intake.flush()
        assert (intake.waiting, spool.last_seq) == (0, room + 2)
        assert [row.stamp.received_ms for row in stored(spool)[-2:]] == [1_000_000, 1_099_000]
        assert intake.notices.current() == []
        assert intake.packages["u01"] == room + 2

    def test_history_makes_room_by_itself(self, intake: Intake, spool: Spool) -> None:
        for count in range(500):
            intake.accept("tty", events(package(count)))
            free(spool, 10)
        assert (intake.waiting, spool.last_seq) == (0, 500)

    def test_memory_is_bounded_and_a_loss_is_told_and_counted(
        self, intake: Intake, spool: Spool
    ) -> None:
        room = fill(intake)
        lines: list[Event] = [Rejected(Reason.BAD_VALUE, b"x")]
        intake.accept("tty", events(*[package(n) for n in range(WAITING_MAX + 4)]) + lines)
        assert (intake.waiting, intake.dropped) == (WAITING_MAX, 5)
        assert any("packages are lost now" in said for said in intake.notices.current())
        free(spool, room)
        intake.flush()
        assert not any("packages are lost now" in said for said in intake.notices.current())

    def test_damage_ends_the_agent_and_keeps_the_package(
        self, spool: Spool, clock: FakeClock
    ) -> None:
        damaged: list[SpoolCorruptError] = []
        intake = Intake(spool, clock, on_corrupt=damaged.append)
        real = spool._db

        class Damaged:
            def execute(self, *_: object) -> object:
                error = sqlite3.DatabaseError("malformed")
                error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
                raise error

        spool._db = Damaged()  # type: ignore[assignment]
        intake.accept("tty", events(package()))
        spool._db = real
        assert len(damaged) == 1
        assert intake.waiting == 1

    def test_another_failure_is_tried_again(self, intake: Intake, spool: Spool) -> None:
        spool._db.execute("PRAGMA query_only = ON")
        intake.accept("tty", events(package()))
        assert intake.waiting == 1
        assert "can't be used" in intake.notices.current()[0]
        spool._db.execute("PRAGMA query_only = OFF")
        intake.flush()
        assert (intake.waiting, intake.notices.current()) == (0, [])


def test_several_ports_at_once(intake: Intake, spool: Spool) -> None:
    def port(dev_id: str) -> None:
        for n in range(20):
            intake.accept(dev_id, events(package(n, dev_id)))

    threads = [threading.Thread(target=port, args=(f"u{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for dev_id in ("u0", "u1", "u2", "u3"):
        rows = stored(spool, dev_id)
        assert [row.record()["temperature"] for row in rows] == list(range(20))
    assert spool.last_seq == 80
