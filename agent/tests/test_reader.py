"""The reader's life on real pseudo-terminals and sockets: reading, unplugs, moves, stop."""

import logging
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from rig.cable import Cable
from rig.reading import RECONNECT_S, SkippingClock, package, running
from rig.wait import wait_until
from unisat_agent.config.model import PortSettings
from unisat_agent.protocols.events import Event
from unisat_agent.protocols.psott import Reason
from unisat_agent.serial import ports
from unisat_agent.serial.reader import FINISH_S, PortReader
from unisat_agent.serial.status import State


class TestReading:
    def test_chunks_become_packages(self, cable: Cable) -> None:
        with running(cable.name) as run:
            run.wait_state(State.READING)
            data = package(1) + package(2)
            for start in range(0, len(data), 7):
                cable.write(data[start : start + 7])
                assert cable.drained(5)
            run.wait_for(1, 2)
            wait_until(lambda: run.reader.status().bytes == len(data), 5, "the figures")
            status = run.reader.status()
        assert run.spy.ports == [cable.name] * 2
        assert (status.name, status.device) == (cable.name, cable.device)
        assert status.bytes == len(data)
        assert status.reconnects == 0
        (heard,) = status.ports
        assert heard.adopted
        assert heard.byte_age_s is not None
        assert 0 <= heard.byte_age_s < 10
        assert heard.unread.bytes == 0
        assert [(device.dev_id, device.packages) for device in status.devices] == [("u01", 2)]

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

    def test_the_name_moves_before_the_old_device_has_sent_a_package(
        self, cable: Cable, plug: Callable[[str], Cable], tmp_path: Path
    ) -> None:
        link = tmp_path / "link"
        link.symlink_to(cable.device)
        with running(str(link)) as run:
            run.wait_state(State.READING)
            other = plug("other")
            fresh = tmp_path / "fresh"
            fresh.symlink_to(other.device)
            fresh.replace(link)
            other.write(package(1))
            run.wait_for(1)
            wait_until(lambda: run.reader.status().device == other.device, 5, "its device")

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

    def test_the_name_moves_to_a_silent_adapter_while_the_device_talks(
        self, cable: Cable, plug: Callable[[str], Cable], tmp_path: Path
    ) -> None:
        """However long it pauses: nothing else is heard of the device then."""
        link = tmp_path / "link"
        link.symlink_to(cable.device)
        clock = SkippingClock()
        with running(str(link), clock=clock) as run:
            cable.write(package(1))
            run.wait_for(1)
            fresh = tmp_path / "fresh"
            fresh.symlink_to(plug("other").device)
            fresh.replace(link)
            clock.skipped_s += 3600
            count = len(run.beats)
            wait_until(lambda: len(run.beats) > count + 6, 5, "several looks at the name")
            cable.write(package(2))
            run.wait_for(1, 2)
            assert run.reader.status().reconnects == 0

    def test_a_server_that_refuses_is_told_once_and_left_in_peace(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(5)
            tries: list[float] = []
            with running(f"socket://127.0.0.1:{listener.getsockname()[1]}") as run:
                for _ in range(4):
                    peer, _ = listener.accept()
                    tries.append(time.monotonic())
                    peer.sendall(b"Port already in use\r\n")
                    peer.close()
                wait_until(lambda: run.reader.status().reconnects == 3, 5, "four tries")
            # Each try waits twice as long as the one before; some slack for a busy machine.
            assert tries[3] - tries[2] > 2 * (tries[1] - tries[0])
        warned = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert len(warned) == 1
        assert [r.message for r in caplog.records if "reading socket" in r.message][1:] == []


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
