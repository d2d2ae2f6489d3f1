"""From decoded events to the spool: stamped once, committed, not dropped for want of room."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from rig.clock import FakeClock
from unisat_agent.clock import ClockState
from unisat_agent.errors import SpoolCorruptError, SpoolError
from unisat_agent.protocols.events import Event, Rejected
from unisat_agent.protocols.psott import Decoder, Reason, crc_of
from unisat_agent.record import Row
from unisat_agent.serial.intake import PUSH_INTERVAL_MIN_MS, WAITING_MAX, WAITING_MAX_BYTES, Intake
from unisat_agent.serial.noise import BUNDLE_MAX_BYTES, COMMIT_S, SAMPLES, SEEN_S
from unisat_agent.spool.quarantine import Quarantined
from unisat_agent.spool.queue import Spool
from unisat_agent.spool.schema import PAGE_BYTES, SINKS

BOOT = "boot-a"
DEVICES = frozenset({"u01", "u02", "u0", "u1", "u2", "u3"})


def events(*texts: str) -> list[Event]:
    decoder = Decoder()
    return [event for text in texts for event in decoder.feed(text.encode())]


def package(n: int = 1, dev_id: str = "u01") -> str:
    return f"devID={dev_id}\ntemperature={n}\nhumidity=2\npressure=3\npm25=4\n\n"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(wall=1_000_000)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    made = Spool(tmp_path / "spool.db", SINKS, BOOT, 64 * PAGE_BYTES)
    yield made
    made.close()


@pytest.fixture
def intake(spool: Spool, clock: FakeClock) -> Intake:
    return Intake(spool, clock, DEVICES)


def stored(spool: Spool, dev_id: str = "u01") -> list[Row]:
    return [waiting.row for waiting in spool.take("local", dev_id, 10_000)]


def quarantine(spool: Spool) -> list[tuple[str, str, bytes]]:
    with contextlib.closing(sqlite3.connect(spool.path)) as db:
        return db.execute("SELECT port, reason, raw FROM quarantine ORDER BY number").fetchall()


def fails_with(error: SpoolError) -> Callable[..., Row]:
    def fail(*_: object, **__: object) -> Row:
        raise error

    return fail


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

    def test_of_no_package_too(self, intake: Intake, spool: Spool, clock: FakeClock) -> None:
        intake.accept("tty", [Rejected(Reason.NO_DEV_ID, b"x=1")])
        assert quarantine(spool) == []
        clock.advance(COMMIT_S)
        intake.flush()
        assert stored(spool) == []
        assert quarantine(spool) == [("tty", "no_dev_id", b"x=1")]

    def test_unknown_device(self, spool: Spool, clock: FakeClock) -> None:
        intake = Intake(spool, clock, frozenset({"u01"}))
        intake.accept("tty", events(package(1, "u01"), package(2, "u02")))
        assert (len(stored(spool)), spool.devices()) == (1, ["u01"])
        intake.flush(final=True)
        assert intake.foreign == {"u02": 1}
        ((port, reason, raw),) = quarantine(spool)
        assert (port, reason) == ("tty", "unknown_device")
        assert raw.startswith(b'devID=u02 {"groups"')
        assert intake.bad_lines == {"unknown_device": 1}

    def test_nothing_is_nothing(self, intake: Intake, spool: Spool) -> None:
        intake.accept("tty", [])
        assert spool.last_seq == 0


class Commits:
    """Counts the spool's transactions."""

    def __init__(self, spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.lines = 0
        append, quarantine = spool.append, spool.quarantine

        def counted_append(*args: Any, **options: Any) -> Row:
            self.count += 1
            return append(*args, **options)

        def counted_quarantine(received_ms: int, bad: Sequence[Quarantined]) -> None:
            self.count += 1
            self.lines += len(bad)
            quarantine(received_ms, bad)

        monkeypatch.setattr(spool, "append", counted_append)
        monkeypatch.setattr(spool, "quarantine", counted_quarantine)


class TestNoise:
    """Bad lines never compete with data."""

    @pytest.fixture
    def commits(self, spool: Spool, monkeypatch: pytest.MonkeyPatch) -> Commits:
        return Commits(spool, monkeypatch)

    def test_a_flood_is_counted_and_costs_few_commits(
        self, intake: Intake, spool: Spool, clock: FakeClock, commits: Commits
    ) -> None:
        """Ten minutes of noise at 115,200 Bd, in reads of 1,152 bytes."""
        noise = random.Random(1)
        decoder = Decoder()
        lines = 0
        for _ in range(6000):
            found = decoder.feed(noise.randbytes(1152))
            lines += len(found)
            clock.advance(0.1)
            intake.accept("tty", found)
        assert sum(intake.bad_lines.values()) == lines > 10_000
        assert commits.count <= 600 / COMMIT_S
        assert SAMPLES <= len(quarantine(spool)) <= SAMPLES + 11

    def test_packages_in_a_flood_are_stored_at_once(self, intake: Intake, spool: Spool) -> None:
        junk = [Rejected(Reason.NOT_ASCII, b"\xff" * 1024)] * 5000
        intake.accept("tty", [*junk, *events(package(1)), *junk, *events(package(2))])
        # Also where the small spool of this test has no room for the samples.
        assert len(stored(spool)) == 2
        assert intake.unsampled >= 10_000 - SAMPLES
        assert sum(len(raw) for _, _, raw in quarantine(spool)) <= BUNDLE_MAX_BYTES

    def test_the_same_line_again_makes_no_commit_within_the_hour(
        self, intake: Intake, spool: Spool, clock: FakeClock, commits: Commits
    ) -> None:
        """A serial server that says "Port already in use" for ever."""
        for _ in range(100):
            intake.accept("socket", [Rejected(Reason.NO_EQUALS, b"Port already in use")])
            clock.advance(30)
            intake.flush()
        assert commits.count == 1
        assert intake.bad_lines == {"no_equals": 100}
        clock.advance(SEEN_S)
        intake.accept("socket", [Rejected(Reason.NO_EQUALS, b"Port already in use")])
        clock.advance(COMMIT_S)
        intake.flush()
        assert commits.count == 2

    def test_one_noisy_port_leaves_room_for_the_samples_of_another(
        self, intake: Intake, spool: Spool
    ) -> None:
        intake.accept("noisy", [Rejected(Reason.NO_EQUALS, b"%d" % n) for n in range(1000)])
        intake.accept("other", [Rejected(Reason.NO_EQUALS, b"lone")])
        intake.flush(final=True)
        assert ("other", "no_equals", b"lone") in quarantine(spool)
        assert len(quarantine(spool)) == SAMPLES + 1

    def test_nothing_waits_when_the_agent_ends(self, intake: Intake, spool: Spool) -> None:
        intake.accept("tty", [Rejected(Reason.NO_EQUALS, b"x")])
        intake.flush(final=True)
        assert len(quarantine(spool)) == 1


class TestBelief:
    """Without a list of devices, a devID is believed from its second package on."""

    @pytest.fixture
    def intake(self, spool: Spool, clock: FakeClock) -> Intake:
        return Intake(spool, clock)

    def test_one_flipped_bit_makes_no_device(self, intake: Intake, spool: Spool) -> None:
        data = (
            b"devID=u01kz\r\ntemperature=20\r\n\r\ndevID=u01kx\r\ntemperature=20\r\n\r\n"
            b"devID=u01kz\r\ntemperature=20\r\n\r\n"
        )
        intake.accept("tty", Decoder().feed(data))
        assert spool.devices() == ["u01kz"]
        assert len(stored(spool, "u01kz")) == 2
        assert stored(spool, "u01kx") == []
        assert spool.heard_once() == ["u01kx"]

    def test_the_first_package_is_delivered_with_the_second(
        self, intake: Intake, spool: Spool
    ) -> None:
        intake.accept("tty", events(package(1)))
        assert stored(spool) == []
        intake.accept("tty", events(package(2)))
        assert [row.record()["temperature"] for row in stored(spool)] == [1, 2]

    def test_a_checksum_is_proof_enough(self, intake: Intake, spool: Spool) -> None:
        body = b"devID=u01\ntemperature=1\n"
        intake.accept("tty", Decoder().feed(body + b"crc=%04x\n\n" % crc_of(body)))
        (row,) = stored(spool)
        assert row.record()["crc"] is True


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
        # The bad line has no slot of a package.
        assert (intake.waiting, intake.dropped) == (WAITING_MAX, 5)
        assert any("packages are lost now" in said for said in intake.notices.current())
        free(spool, room)
        intake.flush()
        assert not any("packages are lost now" in said for said in intake.notices.current())

    def test_memory_is_bounded_in_bytes(self, intake: Intake, spool: Spool) -> None:
        fill(intake)
        fields = "".join(f"{'f' * 60}{n}={n}\n" for n in range(256))
        for _ in range(500):
            intake.accept("tty", events(f"devID=u01\n{fields}\n"))
        held = 1 + WAITING_MAX_BYTES // (256 * 66)
        assert intake.waiting < held < 500
        assert intake.dropped >= 500 - held

    def test_damage_ends_the_agent_and_keeps_the_package(
        self, spool: Spool, clock: FakeClock
    ) -> None:
        damaged: list[SpoolCorruptError] = []
        intake = Intake(spool, clock, DEVICES, on_corrupt=damaged.append)
        spool.append = fails_with(SpoolCorruptError("malformed"))  # type: ignore[method-assign]
        intake.accept("tty", events(package()))
        assert len(damaged) == 1
        assert intake.waiting == 1

    def test_another_failure_is_tried_again(self, intake: Intake, spool: Spool) -> None:
        works = spool.append
        spool.append = fails_with(SpoolError("can't be used"))  # type: ignore[method-assign]
        intake.accept("tty", events(package()))
        assert intake.waiting == 1
        assert "can't be used" in intake.notices.current()[0]
        spool.append = works  # type: ignore[method-assign]
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
