"""The reader's life on real pseudo-terminals and sockets: unplugs, moves, detection, stop."""

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from rig.cable import Cable
from rig.wait import wait_until
from unisat_agent import ports
from unisat_agent.config import PortSettings
from unisat_agent.psott import Event, Package, Reason, Rejected
from unisat_agent.reader import FINISH_S, PortReader, State

RECONNECT_S = 2.0
NMEA = b"$GPGGA,092204.999,4250.5589,S,14718.5084,E,1,04,24.4,19.7,M,,,,0000*1F\r\n"


def package(number: int) -> bytes:
    return b"\r\ndevID=u01\r\nn=%d\r\n\r\n" % number


def fast_clock() -> float:
    """Runs 20 times as fast, so that a probe of a silent port takes half a second."""
    return time.monotonic() * 20


class Spy:
    """An intake that remembers."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.ages: list[float] = []
        self.ports: list[str] = []

    def accept(self, port: str, events: Sequence[Event], age_s: float) -> None:
        assert events
        self.ages.append(age_s)
        self.events.extend(events)
        self.ports.append(port)

    def numbers(self) -> list[object]:
        return [event.fields["n"] for event in self.events if isinstance(event, Package)]

    def reasons(self) -> list[Reason]:
        return [event.reason for event in self.events if isinstance(event, Rejected)]


class Running:
    """A reader in its thread."""

    def __init__(self, settings: PortSettings, clock: Callable[[], float]) -> None:
        self.spy = Spy()
        self.stop = threading.Event()
        self.beats: list[float] = []
        self.states: set[State] = set()
        self.reader = PortReader(settings, self.spy, self.stop, self._beat, clock)
        self.thread = threading.Thread(target=self.reader.run)

    def _beat(self) -> None:
        self.beats.append(time.monotonic())
        self.states.add(self.reader.status().state)

    @property
    def state(self) -> State:
        return self.reader.status().state

    @property
    def detail(self) -> str:
        return self.reader.status().detail

    def wait_for(self, *numbers: int, within_s: float = 5.0) -> None:
        wait_until(
            lambda: self.spy.numbers() == list(numbers),
            within_s,
            lambda: f"packages {numbers}, got {self.spy.events}, {self.reader.status()}",
            step_s=0.01,
        )

    def wait_state(self, state: State, within_s: float = 5.0) -> None:
        wait_until(lambda: self.state is state, within_s, f"{state}", step_s=0.01)


@contextmanager
def running(
    port: str = "auto",
    *,
    candidates: Sequence[str] = (),
    idle_s: float = 60.0,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Running]:
    settings = PortSettings(port=port, candidates=tuple(candidates), idle_s=idle_s)
    run = Running(settings, clock)
    run.thread.start()
    try:
        yield run
    finally:
        run.stop.set()
        run.thread.join(FINISH_S + 3)
        assert not run.thread.is_alive()
        assert run.state is State.STOPPED


@pytest.fixture
def plug(tmp_path: Path) -> Iterator[Callable[[str], Cable]]:
    """Makes cables that are pulled at the end."""
    cables: list[Cable] = []

    def make(name: str) -> Cable:
        cables.append(Cable(tmp_path / name))
        return cables[-1]

    yield make
    for cable in cables:
        cable.close()


@pytest.fixture
def cable(plug: Callable[[str], Cable]) -> Cable:
    return plug("usb-UniSat")


class TestReading:
    def test_chunks_become_packages(self, cable: Cable) -> None:
        with running(cable.name) as run:
            run.wait_state(State.READING)
            data = package(1) + package(2)
            for start in range(0, len(data), 7):
                cable.write(data[start : start + 7])
                assert cable.drained(5)
            run.wait_for(1, 2)
            status = run.reader.status()
        assert run.spy.ports == [cable.name] * 2
        assert (status.name, status.device) == (cable.name, cable.device)
        assert status.bytes == len(data)
        assert status.reconnects == 0
        assert status.last_byte_monotonic is not None
        assert 0 <= time.monotonic() - status.last_byte_monotonic < 10

    def test_bytes_from_before_the_start(self, cable: Cable) -> None:
        cable.write(package(1))
        with running(cable.name) as run:
            run.wait_for(1)

    def test_silence_ends_a_package(self, cable: Cable) -> None:
        with running(cable.name, idle_s=0.3) as run:
            cable.write(b"devID=u01\r\nn=1\r\ntemperat")
            run.wait_for(1)
            assert run.spy.reasons() == [Reason.UNTERMINATED]
            cable.write(b"ure=5\r\n" + package(2))
            run.wait_for(1, 2)

    def test_a_second_reader_waits_for_its_turn(self, cable: Cable) -> None:
        with running(cable.name) as first:
            first.wait_state(State.READING)
            with running(cable.name) as second:
                wait_until(lambda: "another program" in second.detail, 5, "a refusal")
                assert second.state is State.WAITING
                first.stop.set()
                second.wait_state(State.READING)
                cable.write(package(1))
                second.wait_for(1)
        assert not first.spy.events

    def test_an_error_of_the_intake_leaves_the_port_closed(self, cable: Cable) -> None:
        class Broken:
            def accept(self, port: str, events: Sequence[Event], age_s: float) -> None:
                raise RuntimeError

        cable.write(package(1))
        settings = PortSettings(port=cable.name)
        reader = PortReader(settings, Broken(), threading.Event(), lambda: None)
        with pytest.raises(RuntimeError):
            reader.run()
        ports.open_port(cable.name, settings).close()

    def test_socket(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(5)
            with running(f"socket://127.0.0.1:{listener.getsockname()[1]}") as run:
                for number in (1, 2):
                    peer, _ = listener.accept()
                    with peer:
                        peer.sendall(package(number))
                        run.wait_for(*range(1, number + 1))
                wait_until(lambda: run.reader.status().reconnects >= 1, 5, "a reconnect")


class TestReconnecting:
    def test_unplug_and_replug_under_another_device(self, cable: Cable) -> None:
        with running(cable.name) as run:
            run.wait_state(State.READING)
            for number in range(3):
                cable.write(package(number))
                assert cable.drained(5)
                before = cable.device
                cable.unplug()
                run.wait_state(State.WAITING)
                cable.plug(elsewhere=True)
                assert cable.device != before
                run.wait_state(State.READING, RECONNECT_S)
                assert run.reader.status().device == cable.device
            cable.write(package(3))
            run.wait_for(0, 1, 2, 3)
            assert run.reader.status().reconnects == 3
        assert not run.spy.reasons()

    def test_what_came_whole_before_the_unplug_is_a_package(self, cable: Cable) -> None:
        with running(cable.name) as run:
            cable.write(b"devID=u01\r\nn=1\r\ntemperature=3")
            assert cable.drained(5)
            cable.unplug()
            run.wait_for(1)
            assert run.spy.reasons() == [Reason.UNTERMINATED]

    def test_the_name_moves_while_the_old_device_stays_silent(
        self, cable: Cable, plug: Callable[[str], Cable], tmp_path: Path
    ) -> None:
        link = tmp_path / "link"
        link.symlink_to(cable.device)
        with running(str(link)) as run:
            cable.write(package(1))
            run.wait_for(1)
            other = plug("other")
            fresh = tmp_path / "fresh"
            fresh.symlink_to(other.device)
            fresh.replace(link)
            other.write(package(2))
            run.wait_for(1, 2, within_s=RECONNECT_S)
            assert run.reader.status().device == other.device

    def test_a_port_that_comes_later_and_one_warning(
        self, cable: Cable, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        cable.unplug()
        with running(cable.name) as run:
            wait_until(lambda: len(caplog.records) >= 3, 5, "three attempts")
            assert run.state is State.WAITING
            assert "there is no port" in run.detail
            cable.plug()
            run.wait_state(State.READING, RECONNECT_S)
            cable.write(package(1))
            run.wait_for(1)
            cable.unplug()
            wait_until(
                lambda: sum(record.levelno == logging.WARNING for record in caplog.records) == 3,
                5,
                "the unplug and the missing port, told again",
            )
        levels = [record.levelno for record in caplog.records]
        assert levels[:3] == [logging.WARNING, logging.DEBUG, logging.DEBUG]

    def test_beats_go_on_in_every_state(self, cable: Cable) -> None:
        with running(cable.name) as run:
            run.wait_state(State.READING)
            cable.unplug()
            run.wait_state(State.WAITING)
            wait_until(lambda: {State.WAITING, State.READING} <= run.states, 5, "beats")
            count = len(run.beats)
            wait_until(lambda: len(run.beats) > count + 2, 3, "beats while waiting")
            cable.plug()
            run.wait_state(State.READING)
            count = len(run.beats)
            wait_until(lambda: len(run.beats) > count + 2, 3, "beats while reading")


class TestStopping:
    def test_the_package_in_hand_is_finished(self, cable: Cable) -> None:
        with running(cable.name) as run:
            head, tail = package(1)[:18], package(1)[18:]
            cable.write(head)
            assert cable.drained(5)
            wait_until(lambda: run.reader.status().bytes == len(head), 5, "the head")
            run.stop.set()
            cable.write(tail)
            run.thread.join(5)
            assert run.spy.numbers() == [1]
        assert not run.spy.reasons()

    def test_a_package_that_does_not_end_is_kept_as_far_as_it_came(self, cable: Cable) -> None:
        with running(cable.name) as run:
            cable.write(b"devID=u01\r\nn=1\r\ntem")
            wait_until(lambda: run.reader.status().bytes == 19, 5, "the head")
            start = time.monotonic()
            run.stop.set()
            run.thread.join(FINISH_S + 2)
            assert time.monotonic() - start < FINISH_S + 1
            assert run.spy.numbers() == [1]
            assert run.spy.reasons() == [Reason.UNTERMINATED]

    @pytest.mark.parametrize("port", ["auto", "/dev/serial/by-id/none"])
    def test_at_once_when_there_is_no_port(self, port: str) -> None:
        with running(port) as run:
            run.wait_state(State.WAITING)
            start = time.monotonic()
            run.stop.set()
            run.thread.join(5)
            assert time.monotonic() - start < 1


class TestAuto:
    def test_nothing_there(self) -> None:
        with running() as run:
            wait_until(lambda: "no serial port is there" in run.detail, 5, "a sentence")

    def test_the_speaker_among_others_and_no_package_lost(
        self, plug: Callable[[str], Cable], tmp_path: Path
    ) -> None:
        plug("tty0-silent")
        garbage, speaker, taken = plug("tty1-garbage"), plug("tty2-speaker"), plug("tty3-taken")
        garbage.write(NMEA * 5 + b"\xff\x00\xfe" * 50 + b"\n")
        speaker.write(b"perature=5\r\n" + package(0))
        with (
            ports.open_port(taken.name, PortSettings()),
            running(candidates=[f"{tmp_path}/tty*"], clock=fast_clock, idle_s=600) as run,
        ):
            wait_until(
                lambda: run.state is State.DETECTING and speaker.name in run.detail, 5, "its turn"
            )
            speaker.write(package(1)[:18])
            assert speaker.drained(5)
            assert not run.spy.events
            speaker.write(package(1)[18:] + package(2) + package(3)[:18])
            run.wait_for(0, 1, 2)
            speaker.write(package(3)[18:])
            run.wait_for(0, 1, 2, 3)
            assert run.reader.status().device == speaker.device
            # It is dated to when it came, not to when a second one showed that it is real.
            assert run.spy.ages[0] > 0
            assert run.spy.ages[-1] == 0
            # The others are free again.
            ports.open_port(garbage.name, PortSettings()).close()
        assert set(run.spy.ports) == {speaker.name}
        assert run.spy.reasons() == [Reason.NO_DEV_ID]

    def test_nobody_speaks(self, plug: Callable[[str], Cable], tmp_path: Path) -> None:
        silent, garbage = plug("tty0"), plug("tty1")
        garbage.write(NMEA * 5)
        with running(candidates=[f"{tmp_path}/tty*"], clock=fast_clock) as run:
            wait_until(lambda: "no port speaks PSoTT" in run.detail, 5, "a sentence")
            assert f"{silent.name}: silent" in run.detail
            assert f"{garbage.name}: sends, but no PSoTT" in run.detail
        assert not run.spy.events

    def test_replugged_it_is_read_at_once(
        self, plug: Callable[[str], Cable], tmp_path: Path
    ) -> None:
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
        self, plug: Callable[[str], Cable], tmp_path: Path
    ) -> None:
        plug("tty0-silent")
        with running(candidates=[f"{tmp_path}/tty*"]) as run:
            run.wait_state(State.DETECTING)
            plug("tty1").write(package(0) + package(1))
            run.wait_for(0, 1, within_s=RECONNECT_S)

    def test_a_newcomer_does_not_cost_a_package_that_was_heard(
        self, plug: Callable[[str], Cable], tmp_path: Path
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

    def test_another_device_under_the_old_name(
        self, plug: Callable[[str], Cable], tmp_path: Path
    ) -> None:
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
