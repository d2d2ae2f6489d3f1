"""Auto-detection on real pseudo-terminals: which ports are read, and that no package is lost."""

import threading
from collections.abc import Callable
from pathlib import Path

from rig.cable import Cable
from rig.reading import NMEA, RECONNECT_S, SkippingClock, Spy, fast_clock, package, running
from rig.wait import wait_until
from unisat_agent.config.model import PortSettings
from unisat_agent.protocols.events import Package, Rejected
from unisat_agent.protocols.psott import MAX_RAW_BYTES, Reason
from unisat_agent.serial import ports
from unisat_agent.serial.reader import PortReader
from unisat_agent.serial.session import HELD_REJECTED, PortSession
from unisat_agent.serial.status import State


def test_nothing_there() -> None:
    with running() as run:
        wait_until(lambda: "no serial port is there" in run.detail, 5, "a sentence")


def test_the_speaker_among_others_and_no_package_lost(
    plug: Callable[[str], Cable], tmp_path: Path
) -> None:
    plug("tty0-silent")
    garbage, speaker, taken = plug("tty1-garbage"), plug("tty2-speaker"), plug("tty3-taken")
    garbage.write(NMEA * 5 + b"\xff\x00\xfe" * 50 + b"\n")
    speaker.write(b"perature=5\r\n")
    with (
        ports.open_port(taken.name, PortSettings()),
        running(
            candidates=[f"{tmp_path}/tty*"], clock=fast_clock, idle_s=600, devices=["u01"]
        ) as run,
    ):
        wait_until(
            lambda: run.state is State.DETECTING and speaker.name in run.detail, 5, "its turn"
        )
        speaker.write(package(0) + package(1)[:18])
        assert speaker.drained(5)
        speaker.write(package(1)[18:] + package(2) + package(3)[:18])
        run.wait_for(0, 1, 2)
        speaker.write(package(3)[18:])
        run.wait_for(0, 1, 2, 3)
        wait_until(lambda: run.reader.status().device == speaker.device, 5, "its device")
        # Nothing is missing: the others are free again.
        wait_until(lambda: len(run.reader.status().ports) == 1, 5, "the others let go")
        ports.open_port(garbage.name, PortSettings()).close()
    assert set(run.spy.ports) == {speaker.name}
    assert run.spy.reasons() == [Reason.NO_DEV_ID]


def test_nobody_speaks(plug: Callable[[str], Cable], tmp_path: Path) -> None:
    silent, garbage = plug("tty0"), plug("tty1")
    garbage.write(NMEA * 5)
    with running(candidates=[f"{tmp_path}/tty*"], clock=fast_clock) as run:
        wait_until(lambda: "no port speaks PSoTT" in run.detail, 5, "a sentence")
        assert f"{silent.name}: silent" in run.detail
        assert f"{garbage.name}: sends, but no PSoTT" in run.detail
    assert not run.spy.events


def test_replugged_it_is_read_at_once(plug: Callable[[str], Cable], tmp_path: Path) -> None:
    speaker = plug("tty1")
    speaker.write(package(0) + package(1))
    with running(candidates=[f"{tmp_path}/tty*"]) as run:
        run.wait_for(0, 1)
        plug("tty0-silent")
        speaker.unplug()
        run.wait_state(State.DETECTING)
        speaker.plug(elsewhere=True)
        run.wait_state(State.READING, RECONNECT_S)
        # One package is enough this time.
        speaker.write(package(2))
        run.wait_for(0, 1, 2)


def test_a_newcomer_is_heard_before_the_silent_ones_are_done(
    plug: Callable[[str], Cable], tmp_path: Path
) -> None:
    plug("tty0-silent")
    with running(candidates=[f"{tmp_path}/tty*"]) as run:
        run.wait_state(State.DETECTING)
        plug("tty1").write(package(0) + package(1))
        run.wait_for(0, 1, within_s=RECONNECT_S)


def test_a_newcomer_does_not_cost_a_package_that_was_heard(
    plug: Callable[[str], Cable], tmp_path: Path
) -> None:
    speaker = plug("tty1")
    with running(candidates=[f"{tmp_path}/tty*"]) as run:
        run.wait_state(State.DETECTING)
        speaker.write(package(0))
        assert speaker.drained(5)
        plug("tty0-silent")
        count = len(run.beats)
        wait_until(lambda: len(run.beats) > count + 2, 5, "a look at the ports")
        speaker.write(package(1))
        run.wait_for(0, 1)


def test_a_device_that_sends_seldom_is_found_and_nothing_is_lost(
    plug: Callable[[str], Cable], tmp_path: Path
) -> None:
    """Every package after 75 s of quiet."""
    clock = SkippingClock()
    speaker = plug("tty0")
    with running(candidates=[f"{tmp_path}/tty*"], clock=clock) as run:
        run.wait_state(State.DETECTING)
        for number in range(3):
            clock.skipped_s += 75
            count = len(run.beats)
            wait_until(lambda: len(run.beats) > count + 2, 5, "a round")  # noqa: B023
            speaker.write(package(number))
            assert speaker.drained(5)
        run.wait_for(0, 1, 2)
        assert run.spy.ages[0] >= 75


def test_only_the_second_board_is_expected(plug: Callable[[str], Cable], tmp_path: Path) -> None:
    neighbour, ours = plug("tty0"), plug("tty1")
    with running(candidates=[f"{tmp_path}/tty*"], devices=["u01"]) as run:
        neighbour.write(b"devID=zz9\r\nn=9\r\n\r\n" * 3)
        wait_until(lambda: bool(run.reader.status().devices), 5, "the neighbour's board")
        assert run.state is State.DETECTING
        assert "PSoTT from zz9" in run.detail
        ours.write(package(1))
        run.wait_for(1)
        neighbour.write(b"devID=zz9\r\nn=9\r\n\r\n")
        ours.write(package(2))
        run.wait_for(1, 2)
    assert set(run.spy.ports) == {ours.name}


def test_every_port_that_speaks_an_expected_devid_is_read(
    plug: Callable[[str], Cable], tmp_path: Path
) -> None:
    first, second = plug("tty0"), plug("tty1")
    with running(candidates=[f"{tmp_path}/tty*"], devices=["u01", "u02", "u03"]) as run:
        first.write(package(1))
        run.wait_for(1)
        second.write(b"devID=u02\r\nn=2\r\n\r\n")
        run.wait_for(1, 2)
        first.write(package(3))
        run.wait_for(1, 2, 3)
        wait_until(lambda: len(run.reader.status().devices) == 2, 5, "both devices")


def test_without_expected_devids_both_boards_are_read(
    plug: Callable[[str], Cable], tmp_path: Path
) -> None:
    first, second = plug("tty0"), plug("tty1")
    with running(candidates=[f"{tmp_path}/tty*"]) as run:
        first.write(package(1) + package(2))
        run.wait_for(1, 2)
        second.write(b"devID=u02\r\nn=3\r\n\r\n" * 2)
        run.wait_for(1, 2, 3, 3)


def test_a_port_of_another_reader_is_left_alone(
    plug: Callable[[str], Cable], tmp_path: Path
) -> None:
    cable = plug("tty0")
    settings = PortSettings(candidates=(f"{tmp_path}/tty*",))
    spy, stop = Spy(), threading.Event()
    looks: list[int] = []

    def beat() -> None:
        looks.append(1)
        if len(looks) > 5:
            stop.set()

    reader = PortReader(settings, spy, stop, beat, elsewhere=[cable.device])
    reader.run()
    assert reader.status().ports == ()


def test_another_device_under_the_old_name(plug: Callable[[str], Cable], tmp_path: Path) -> None:
    speaker = plug("tty1")
    speaker.write(package(0) + package(1))
    with running(candidates=[f"{tmp_path}/tty*"], clock=fast_clock, idle_s=600) as run:
        run.wait_for(0, 1)
        speaker.unplug()
        run.wait_state(State.WAITING)
        speaker.plug()
        speaker.write(NMEA)
        run.wait_state(State.READING)
        plug("tty0").write(package(2) + package(3))
        run.wait_for(0, 1, 2, 3, within_s=10)


def test_junk_on_a_port_that_is_only_listened_to_holds_little_and_costs_no_package() -> None:
    session = PortSession("tty0", PortSettings(), adopted=False)
    first = Package("u01", {"n": 1}, {}, ())
    session.hold(0, [first])
    for number in range(1000):
        session.hold(number, [Rejected(Reason.TOO_LONG, bytes(MAX_RAW_BYTES))] * 10)
    events = [event for _, run in session.held() for event in run]
    assert events[0] == first
    assert len(events) == 1 + HELD_REJECTED
