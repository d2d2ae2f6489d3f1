"""A capture holds every byte and its time, and replays into the same packages."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from rig.cable import Cable
from unisat_agent.cli.main import main
from unisat_agent.config.model import PortSettings
from unisat_agent.protocols.events import Package, Rejected
from unisat_agent.serial import ports
from unisat_agent.serial.capture import (
    CaptureError,
    Chunk,
    capture,
    decode,
    read_capture,
    replay,
)

PACKAGE = b"\x00devID=u01\r\nn=%d\r\n\r\n"


def lines(text: str) -> io.StringIO:
    return io.StringIO(text)


def test_a_port_is_captured_and_replayed_on_another() -> None:
    sent = bytes(range(256)) + PACKAGE % 1 + PACKAGE % 2
    first, second = Cable(), Cable()
    try:
        settings = PortSettings(port=first.device)
        out = io.StringIO()
        with ports.open_port(first.device, settings) as port:
            first.write(sent)
            size = capture(port, settings, out, 60, go_on=lambda size: size < len(sent))
        assert size == len(sent)
        chunks = list(read_capture(lines(out.getvalue())))
        assert b"".join(chunk.data for chunk in chunks) == sent
        with ports.open_port(second.device, settings) as port:
            assert replay(chunks, second.write, lambda _: False) == len(sent)
            again = b""
            while len(again) < len(sent) and (more := port.read(5)):
                again += more
        assert again == sent
    finally:
        first.close()
        second.close()


def test_what_the_agent_makes_of_it() -> None:
    chunks = [Chunk(0.5, PACKAGE % 1), Chunk(3.0, b"devID=u01\r\nn=2\r\n"), Chunk(60.0, b"?\r\n")]
    found = list(decode(chunks, PortSettings(idle_s=5.0)))
    assert [(at_s, type(event)) for at_s, event in found] == [
        (0.5, Package),
        (8.0, Package),
        (60.0, Rejected),
    ]


def test_replay_keeps_the_pace_and_ends_when_asked() -> None:
    waited: list[float] = []

    def wait(seconds: float) -> bool:
        waited.append(seconds)
        return len(waited) == 3

    chunks = [Chunk(1.0, b"a"), Chunk(4.0, b"b"), Chunk(5.0, b"c")]
    assert replay(chunks, len, wait, speed=2.0) == 2
    assert waited == [0.5, 1.5, 0.5]


HEAD = '{"capture":1,"port":"tty","baud":9600,"started":"now"}\n'


def test_a_last_line_that_was_cut_off_is_left_out() -> None:
    assert list(read_capture(lines(HEAD + '{"s":1,"hex":"61"}\n{"s":2,"h'))) == [Chunk(1.0, b"a")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("devID=u01\n", "line 1 is not a line of a capture"),
        ('{"capture":2}\n', "version 2"),
        (HEAD + '{"s":1,"hex":"6"}\n', "line 2"),
        (HEAD + "{}\n", "line 2"),
    ],
)
def test_a_file_that_is_none(text: str, said: str) -> None:
    with pytest.raises(CaptureError, match=said):
        list(read_capture(lines(text)))


class TestCommands:
    """As an operator types them."""

    @pytest.fixture
    def cable(self, tmp_path: Path) -> Iterator[Cable]:
        made = Cable(tmp_path / "usb")
        yield made
        made.close()

    def test_capture_and_replay(
        self, cable: Cable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file, none = str(tmp_path / "line.capture"), str(tmp_path / "none.toml")
        cable.write(PACKAGE % 1 + b"?\r\n")
        words = ["--config", none, "capture", "--port", cable.name, "--seconds", "1"]
        assert main([*words, "--output", file]) == 0
        assert f"{len(PACKAGE % 1) + 3} bytes in 1 s" in capsys.readouterr().err
        assert main(["replay", file]) == 0
        package, refused = capsys.readouterr().out.splitlines()
        assert 'package of u01: {"groups":{},"missing"' in package
        assert refused.endswith("refused, no_equals: b'?\\r'")

    def test_the_port_is_asked_for_and_the_agents_is_taken(
        self, cable: Cable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["--config", str(tmp_path / "none"), "capture"]) == 2
        assert "--port" in capsys.readouterr().err
        with ports.open_port(cable.name, PortSettings()):
            assert main(["capture", "--port", cable.name]) == 1
        assert "another program has" in capsys.readouterr().err

    def test_a_file_that_is_not_there(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["replay", "/nowhere"]) == 1
        assert "/nowhere: can't be read" in capsys.readouterr().err
