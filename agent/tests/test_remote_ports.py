"""Ports of a serial server: RFC 2217, by its bytes and against pyserial's own server side."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import serial
import serial.rfc2217

from rig.cable import Cable
from rig.wait import wait_until
from unisat_agent.config.model import PortSettings
from unisat_agent.serial import ports
from unisat_agent.serial.telnet import Telnet

IAC = b"\xff"


class TestTelnet:
    @pytest.mark.parametrize(
        ("received", "data", "answer"),
        [
            (b"plain", b"plain", b""),
            (b"a\xff\xffb", b"a\xffb", b""),
            # The options that were asked for need no answer.
            (b"\xff\xfb\x2c\xff\xfd\x2cx", b"x", b""),
            # Others are refused: WILL ECHO, DO TERMINAL-TYPE.
            (b"\xff\xfb\x01\xff\xfd\x18x", b"x", b"\xff\xfe\x01\xff\xfc\x18"),
            (b"\xff\xfa\x2c\x65\x00\x00\x25\x80\xff\xf0x", b"x", b""),
            (b"x\xff\xf1y", b"xy", b""),
        ],
    )
    def test_data_and_answers(self, received: bytes, data: bytes, answer: bytes) -> None:
        assert Telnet(PortSettings()).take(received) == (data, answer)
        telnet = Telnet(PortSettings())
        parts = [telnet.take(bytes((byte,))) for byte in received]
        assert b"".join(part for part, _ in parts) == data
        assert b"".join(part for _, part in parts) == answer

    def test_the_settings_are_sent(self) -> None:
        sent = Telnet(PortSettings(baud=115200, parity="E", rtscts=True)).opening()
        assert b"\xff\xfa\x2c\x01\x00\x01\xc2\x00\xff\xf0" in sent
        assert b"\xff\xfa\x2c\x03\x03\xff\xf0" in sent
        assert b"\xff\xfa\x2c\x05\x03\xff\xf0" in sent

    def test_a_255_in_a_value_is_escaped(self) -> None:
        sent = Telnet(PortSettings(baud=255)).opening()
        assert b"\x2c\x01\x00\x00\x00\xff\xff\xff\xf0" in sent

    def test_a_command_that_does_not_end_holds_little(self) -> None:
        telnet = Telnet(PortSettings())
        for _ in range(1000):
            assert telnet.take(b"\xff\xfa" + b"\x01" * 1000) == (b"", b"")
        assert telnet.take(b"\xff\xf0x") == (b"x", b"")


class _PtyPort(serial.Serial):
    """A pseudo-terminal has no control lines."""

    cts = dsr = ri = cd = False

    def _update_dtr_state(self) -> None:
        pass

    _update_rts_state = _update_dtr_state


class Server:
    """One connection of an RFC 2217 server, made of pyserial's own server side."""

    def __init__(self, cable: Cable) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(5)
        self.port = _PtyPort(cable.device, timeout=0.05)
        self.baud = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"rfc2217://127.0.0.1:{self.listener.getsockname()[1]}"

    def write(self, data: bytes) -> None:
        self._peer.sendall(data)

    def _serve(self) -> None:
        self._peer, _ = self.listener.accept()
        self._peer.settimeout(0.05)
        manager: Any = serial.rfc2217.PortManager(self.port, self)  # type: ignore[arg-type]
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError, ConnectionResetError):
                b"".join(manager.filter(self._peer.recv(1024)))
            self.baud = self.port.baudrate
            if data := self.port.read(self.port.in_waiting):
                self._peer.sendall(b"".join(manager.escape(data)))
        self._peer.close()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(5)
        self.listener.close()
        self.port.close()


class TestServer:
    @pytest.fixture
    def cable(self) -> Iterator[Cable]:
        made = Cable()
        yield made
        made.close()

    @pytest.fixture
    def server(self, cable: Cable) -> Iterator[Server]:
        made = Server(cable)
        yield made
        made.close()

    def test_every_byte_arrives_at_the_speed_that_was_asked_for(
        self, cable: Cable, server: Server
    ) -> None:
        every = bytes(range(256))
        with ports.open_port(server.url, PortSettings(baud=19200)) as port:
            wait_until(lambda: server.baud == 19200, 5, "the speed")
            cable.write(every)
            data = bytearray()

            def all_there() -> bool:
                # A read may bring nothing but commands of the protocol.
                data.extend(port.read(0.1))
                return len(data) == len(every)

            wait_until(all_there, 5, "all bytes")
        assert data == every

    def test_nobody_there(self) -> None:
        with socket.socket() as unheard:
            unheard.bind(("127.0.0.1", 0))
            url = f"rfc2217://127.0.0.1:{unheard.getsockname()[1]}"
            with pytest.raises(ports.PortMissingError, match="does not answer"):
                ports.open_port(url, PortSettings())
