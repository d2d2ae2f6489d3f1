"""Ports, on real pseudo-terminals and sockets."""

import os
import pwd
import socket
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import serial

from rig.cable import Cable
from unisat_agent.config.model import PortSettings
from unisat_agent.errors import AgentError
from unisat_agent.protocols.events import Package, Rejected
from unisat_agent.serial import ports
from unisat_agent.serial.probe import MAX_PROBE_BYTES

PACKAGE = b"\r\ndevID=%s\r\ntemperature=1.5\r\n\r\n"


def settings(**changes: object) -> PortSettings:
    return PortSettings(**{"candidates": (), **changes})  # type: ignore[arg-type]


def read_all(port: ports.Port, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := port.read(5)):
        data += more
    return data


@pytest.fixture
def cable(tmp_path: Path) -> Iterator[Cable]:
    cable = Cable(tmp_path / "usb-UniSat")
    yield cable
    cable.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5)
        yield listener


def url(listener: socket.socket) -> str:
    return f"socket://127.0.0.1:{listener.getsockname()[1]}"


class TestOpen:
    def test_bytes_from_before_are_kept(self, cable: Cable) -> None:
        assert cable.write(PACKAGE % b"a") == len(PACKAGE % b"a")
        with ports.open_port(cable.name, settings()) as port:
            assert read_all(port, len(PACKAGE % b"a")) == PACKAGE % b"a"
            assert port.name == cable.name
            assert port.device == cable.device

    def test_a_time_out_gives_nothing(self, cable: Cable) -> None:
        with ports.open_port(cable.name, settings()) as port:
            assert port.read(0.01) == b""

    def test_bytes_are_not_changed_on_the_way(self, cable: Cable) -> None:
        every = bytes(range(256)) * 2
        with ports.open_port(cable.name, settings()) as port:
            cable.write(every)
            assert read_all(port, len(every)) == every

    def test_closing_will_not_drop_dtr(self, cable: Cable) -> None:
        descriptor = os.open(cable.device, os.O_RDWR | os.O_NOCTTY)
        try:
            attributes = termios.tcgetattr(descriptor)
            attributes[2] |= termios.HUPCL
            termios.tcsetattr(descriptor, termios.TCSANOW, attributes)
            with ports.open_port(cable.name, settings()):
                assert not termios.tcgetattr(descriptor)[2] & termios.HUPCL
            assert not termios.tcgetattr(descriptor)[2] & termios.HUPCL
        finally:
            os.close(descriptor)

    def test_speed_and_format_are_set(self, cable: Cable) -> None:
        wanted = settings(baud=115200, bytesize=7, parity="E", stopbits=2.0)
        with ports.open_port(cable.name, wanted) as port:
            _, _, cflag, _, _, speed, _ = termios.tcgetattr(port.fileno())
            assert speed == termios.B115200
            # A pseudo-terminal has 8 bits and no parity whatever is asked for.
            assert cflag & termios.CSTOPB

    def test_a_break_is_no_byte(self, cable: Cable) -> None:
        with ports.open_port(cable.name, settings()) as port:
            assert termios.tcgetattr(port.fileno())[0] & termios.IGNBRK

    @pytest.mark.parametrize("wanted", [True, False])
    def test_flow_control(self, cable: Cable, wanted: bool) -> None:
        with ports.open_port(cable.name, settings(rtscts=wanted, xonxoff=wanted)) as port:
            iflag, _, cflag, *_ = termios.tcgetattr(port.fileno())
            assert bool(cflag & termios.CRTSCTS) is wanted
            assert bool(iflag & termios.IXOFF) is wanted

    @pytest.mark.parametrize("dtr", [True, False])
    def test_both_control_lines_follow_dtr(
        self, cable: Cable, dtr: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A pseudo-terminal has none: what pyserial would set is looked at."""
        asked: dict[str, bool] = {}
        for line in ("dtr", "rts"):
            monkeypatch.setattr(
                serial.Serial,
                f"_update_{line}_state",
                lambda tty, line=line: asked.update({line: getattr(tty, line)}),
            )
        ports.open_port(cable.name, settings(dtr=dtr)).close()
        assert asked == {"dtr": dtr, "rts": dtr}

    def test_a_second_opener_is_refused(self, cable: Cable) -> None:
        with ports.open_port(cable.name, settings()):
            with pytest.raises(ports.PortBusyError, match=r"another program has .* open"):
                ports.open_port(cable.device, settings())
            with pytest.raises(serial.SerialException):
                serial.Serial(cable.device, exclusive=True)
        ports.open_port(cable.name, settings()).close()

    def test_a_missing_port_names_those_that_exist(self, cable: Cable, tmp_path: Path) -> None:
        known = settings(candidates=(f"{tmp_path}/usb-*",))
        with pytest.raises(ports.PortMissingError, match=r"no port .*/ttyX: plug .*usb-UniSat"):
            ports.open_port(f"{tmp_path}/ttyX", known)

    def test_no_permission_names_user_and_group(self, cable: Cable) -> None:
        Path(cable.device).chmod(0)
        user = os.geteuid() or pwd.getpwnam("nobody").pw_uid
        own = os.geteuid()
        os.seteuid(user)
        try:
            with pytest.raises(ports.PortDeniedError) as caught:
                ports.open_port(cable.device, settings())
        finally:
            os.seteuid(own)
        name = pwd.getpwuid(user).pw_name
        assert f"user {name} may not open {cable.device}" in str(caught.value)
        assert f"usermod -aG dialout {name}" in str(caught.value)

    @pytest.mark.parametrize("name", ["/dev/null", "/dev", "/etc/passwd"])
    def test_what_is_no_serial_port(self, name: str) -> None:
        with pytest.raises(ports.PortUnusableError, match="does not work as a serial port"):
            ports.open_port(name, settings())

    def test_settings_that_no_port_has(self, cable: Cable) -> None:
        with pytest.raises(ports.PortUnusableError, match="bytesize"):
            ports.open_port(cable.name, settings(bytesize=11))

    def test_one_root_for_all_errors(self) -> None:
        assert issubclass(ports.PortLostError, ports.PortError)
        assert issubclass(ports.PortError, AgentError)

    def test_unplugged_while_reading(self, cable: Cable) -> None:
        with ports.open_port(cable.name, settings()) as port:
            cable.write(b"last words")
            assert read_all(port, 10) == b"last words"
            cable.unplug()
            with pytest.raises(ports.PortLostError, match="unplugged"):
                port.read(5)
        with pytest.raises(ports.PortMissingError):
            ports.open_port(cable.name, settings())

    def test_moved(self, cable: Cable) -> None:
        other = Cable()
        try:
            with ports.open_port(cable.name, settings()) as port:
                assert not port.moved()
                Path(cable.name).unlink()
                assert not port.moved()
                Path(cable.name).symlink_to(other.device)
                assert port.moved()
        finally:
            other.close()


class TestSocket:
    def test_bytes_from_before_are_kept(self, listener: socket.socket) -> None:
        with ports.open_port(url(listener), settings()) as port:
            peer, _ = listener.accept()
            with peer:
                peer.sendall(PACKAGE % b"a")
                assert read_all(port, len(PACKAGE % b"a")) == PACKAGE % b"a"
                assert port.read(0.01) == b""
                assert not port.moved()
            with pytest.raises(ports.PortLostError, match="is gone"):
                port.read(5)

    def test_nobody_there(self) -> None:
        with socket.socket() as unheard:
            unheard.bind(("127.0.0.1", 0))
            with pytest.raises(ports.PortMissingError, match=r"does not answer .*refused"):
                ports.open_port(url(unheard), settings())

    @pytest.mark.parametrize("name", ["socket://", "socket://host", "socket://:5"])
    def test_half_an_address(self, name: str) -> None:
        with pytest.raises(ports.PortUnusableError, match="socket://host:port"):
            ports.open_port(name, settings())


class TestListing:
    def test_one_name_for_each_device_and_the_first_pattern_wins(self, tmp_path: Path) -> None:
        (tmp_path / "by-id").mkdir()
        first, second = Cable(tmp_path / "by-id" / "usb-A"), Cable(tmp_path / "ttyB")
        try:
            (tmp_path / "ttyA").symlink_to(first.device)
            (tmp_path / "ttyGone").symlink_to(tmp_path / "nowhere")
            patterns = (f"{tmp_path}/by-id/*", f"{tmp_path}/tty*")
            assert ports.find(patterns) == [first.name, second.name]
            assert ports.find((f"{tmp_path}/none*",)) == []
            listed = ports.list_ports(patterns)
            assert listed[:2] == [
                ports.PortInfo(first.name, first.device, ""),
                ports.PortInfo(second.name, second.device, ""),
            ]
            assert len({port.device for port in listed}) == len(listed)
        finally:
            first.close()
            second.close()

    def test_a_port_and_its_description(self) -> None:
        assert str(ports.PortInfo("/dev/ttyACM0", "/dev/ttyACM0", "")) == "/dev/ttyACM0"
        assert (
            str(ports.PortInfo("/dev/ttyACM0", "/dev/ttyACM0", "Arduino Uno"))
            == "/dev/ttyACM0 (Arduino Uno)"
        )


class Ticks:
    """A clock that each look moves on by 20 seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 20.0
        return self.now


class TestProbe:
    def probe(self, cable: Cable, clock: Callable[[], float] | None = None) -> ports.Heard:
        with ports.open_port(cable.name, settings()) as port:
            return ports.probe(port, 30, confirm_s=60, clock=clock or Ticks())

    def test_two_packages_are_enough_and_the_rest_is_kept(self, cable: Cable) -> None:
        cable.write(b"ture=3\r\n" + PACKAGE % b"u01" + PACKAGE % b"u01" + b"devID=u01\r\ntem")
        heard = self.probe(cable, clock=lambda: 0.0)
        assert heard.speaks_psott
        assert str(heard) == "PSoTT from u01"
        heard_types = [type(event) for _, events in heard.events for event in events]
        assert heard_types == [Rejected, Package, Package]
        assert heard.decoder.in_package

    def test_one_package_gets_more_time(self, cable: Cable) -> None:
        cable.write(PACKAGE % b"u01")
        clock = Ticks()
        heard = self.probe(cable, clock)
        assert heard.packages == {"u01": 1}
        assert not heard.speaks_psott
        assert clock.now == 20 + 40 + 60

    def test_two_devices_with_one_package_each_prove_nothing(self, cable: Cable) -> None:
        cable.write(PACKAGE % b"u01" + PACKAGE % b"u02")
        heard = self.probe(cable)
        assert not heard.speaks_psott
        assert str(heard) == "PSoTT from u01, u02"

    def test_silent(self, cable: Cable) -> None:
        clock = Ticks()
        heard = self.probe(cable, clock)
        assert str(heard) == "silent"
        assert not heard.speaks_psott
        assert clock.now == 20 + 40

    def test_something_else(self, cable: Cable) -> None:
        cable.write(
            b"$GPGGA,092204.999,4250.5589,S,14718.5084,E,1,04,24.4,19.7,M,,,,0000*1F\r\n" * 9
        )
        heard = self.probe(cable)
        assert not heard.speaks_psott
        assert "no PSoTT" in str(heard)

    def test_a_flood_ends_it(self, listener: socket.socket) -> None:
        with ports.open_port(url(listener), settings()) as port:
            peer, _ = listener.accept()
            flood = threading.Thread(target=peer.sendall, args=(b"x" * MAX_PROBE_BYTES,))
            flood.start()
            heard = ports.probe(port, clock=lambda: 0.0)
            flood.join()
            peer.close()
        assert heard.size >= MAX_PROBE_BYTES

    def test_go_on_ends_it(self, cable: Cable) -> None:
        answers = iter([True, True, False])
        with ports.open_port(cable.name, settings()) as port:
            ports.probe(port, clock=lambda: 0.0, go_on=lambda heard: next(answers))
        assert next(answers, None) is None

    def test_unplugged(self, cable: Cable) -> None:
        with ports.open_port(cable.name, settings()) as port:
            cable.unplug()
            with pytest.raises(ports.PortLostError):
                ports.probe(port)
