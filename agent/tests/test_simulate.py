"""The simulated satellite: what it says, what it promises of that, and the lines that carry it."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice, pairwise
from pathlib import Path

import pytest

from rig.judge import read_journal
from rig.wait import wait_until
from unisat_agent.line import LineLostError, Pty, SerialLine, SocketLine
from unisat_agent.psott import Decoder, Package, Rejected
from unisat_agent.satellite import FAULTS, Entry, Frame, frames
from unisat_agent.simulate import Command, run

DEV_IDS = ("sim01", "sim02")


def some(count: int, seed: int = 1, faults: Sequence[str] = (), often: float = 0.5) -> list[Frame]:
    return list(islice(frames(DEV_IDS, seed, faults, often), count))


def decode(chunks: Iterator[bytes] | Sequence[bytes], *, idle: bool = False) -> list[Package]:
    decoder = Decoder()
    packages: list[Package] = []
    for chunk in chunks:
        events = decoder.feed(chunk) + (decoder.end() if idle else [])
        packages += [event for event in events if isinstance(event, Package)]
    return packages + [event for event in decoder.end() if isinstance(event, Package)]


def promised(entries: Sequence[Entry]) -> list[tuple[object, ...]]:
    return [
        (entry.dev_id, dict(entry.fields), dict(entry.groups), entry.missing)
        for entry in entries
        if entry.expected
    ]


def understood(packages: Sequence[Package]) -> list[tuple[object, ...]]:
    return [(one.dev_id, dict(one.fields), dict(one.groups), one.missing) for one in packages]


def test_the_same_seed_says_the_same_and_another_seed_something_else() -> None:
    assert some(40, seed=7, faults=FAULTS) == some(40, seed=7, faults=FAULTS)
    assert some(1, seed=7) != some(1, seed=8)


@pytest.mark.parametrize("faults", [(), *((name,) for name in FAULTS), FAULTS], ids=str)
@pytest.mark.parametrize("idle", [False, True], ids=["at once", "idle after each frame"])
def test_the_decoder_gets_exactly_what_the_journal_promises(
    faults: tuple[str, ...], *, idle: bool
) -> None:
    for seed in range(20):
        sent = some(40, seed, faults)
        packages = decode([frame.data for frame in sent], idle=idle)
        assert understood(packages) == promised([frame.entry for frame in sent])


def test_the_journal_also_holds_byte_by_byte() -> None:
    sent = some(60, faults=FAULTS)
    bytes_one_by_one = [bytes([byte]) for frame in sent for byte in frame.data]
    assert understood(decode(bytes_one_by_one)) == promised([frame.entry for frame in sent])


def test_types_are_those_of_the_record() -> None:
    for frame in some(40):
        for name, value in frame.entry.fields.items():
            expected = {"packet": int, "satellites": int, "battery": bool}.get(name, float)
            assert type(value) is expected, name
    assert b"humidity=40\r\n" in b"".join(frame.data for frame in some(40))


@pytest.mark.parametrize("fault", ["garbage", "nan", "half", "reset"])
def test_a_spoiling_fault_leaves_something_to_reject(fault: str) -> None:
    decoder = Decoder()
    events = [event for frame in some(40, faults=[fault]) for event in decoder.feed(frame.data)]
    assert any(isinstance(event, Rejected) for event in events)


def test_the_other_faults_do_what_their_names_say() -> None:
    assert any(frame.entry.missing for frame in some(40, faults=["missing"]))
    assert any(frame.pause == 0 for frame in some(40, faults=["burst"]))
    assert any(frame.pause > 2 for frame in some(40, faults=["silence"]))
    ends = {frame.data.endswith(b"\r\n") for frame in some(80, faults=["crlf"])}
    assert ends == {True, False}
    assert any(not frame.entry.expected for frame in some(200, faults=["half"]))


def test_the_orbit_and_the_weather_look_like_data() -> None:
    rows = [frame.entry.fields for frame in some(2000) if frame.entry.dev_id == "sim01"]
    for row in rows:
        assert abs(row["lat"]) <= 51.7
        assert abs(row["long"]) <= 180
        assert 400_000 < row["alt"] < 430_000
        assert 0 <= row["humidity"] <= 100
        assert 950 < row["pressure"] < 1050
        assert 0 < row["pm25"] < row["pm10"]
    for one, two in pairwise(rows):
        assert abs(one["lat"] - two["lat"]) < 0.3
        assert abs(one["temperature"] - two["temperature"]) < 3
    assert max(row["lat"] for row in rows) - min(row["lat"] for row in rows) > 50


class FakeLine:
    """Takes what it is told to take; what it has not passed on when the cable goes is lost."""

    name = "fake"

    def __init__(self, *, limit: int | None = None, reads: bool = True) -> None:
        self.limit = limit
        self.reads = reads
        self.plugged = True
        self.arrived: list[bytes] = []
        self.break_at: int | None = None

    def write(self, data: bytes) -> int:
        if not self.plugged:
            return 0
        if self.break_at is not None and len(self.arrived) >= self.break_at:
            raise LineLostError("gone")
        taken = data[: self.limit]
        self.arrived.append(taken)
        return len(taken)

    def drained(self, timeout_s: float = 0.0) -> bool:
        return self.reads

    def unplug(self) -> None:
        self.plugged = False

    def plug(self) -> None:
        self.plugged = True

    def close(self) -> None:
        self.plugged = False


def play(line: FakeLine, *script: Command, faults: Sequence[str] = ()) -> list[bool | None]:
    """Runs through a script of waits, then stops; returns what the journal says at the end."""
    waits = iter([*script, Command.STOP])
    journal = io.StringIO()
    summary = run(frames(DEV_IDS, faults=faults), line, journal, 0, lambda _: next(waits))
    entries = {}
    for entry in map(Entry.from_json, journal.getvalue().splitlines()):
        entries[entry.dev_id, entry.packet] = entry
    assert summary.packages == len(entries)
    expected = [entry for entry in entries.values() if entry.expected]
    assert summary.expected == len(expected)
    if line.reads:
        assert understood(decode(line.arrived)) == promised(expected)
    return [entry.expected for entry in entries.values()]


GO = Command.GO_ON


def test_packages_while_the_cable_is_out_were_not_sent() -> None:
    told = play(FakeLine(), GO, GO, Command.UNPLUG, GO, Command.PLUG, GO, GO)
    assert told == [True, True, False, True, True]


def test_what_was_on_the_line_when_the_cable_was_pulled_is_unknown() -> None:
    assert play(FakeLine(reads=False), GO, GO, Command.UNPLUG, GO) == [None, None, False]


def test_what_nobody_read_at_the_end_is_unknown() -> None:
    assert play(FakeLine(reads=False), GO, GO) == [None, None]


def test_a_package_that_the_line_took_in_part_is_unknown() -> None:
    line = FakeLine(limit=40)
    line.reads = False
    assert play(line, GO, GO) == [None, None]


def test_a_lost_receiver_makes_unknown_what_it_may_not_have_read() -> None:
    line = FakeLine()
    line.break_at = 2
    assert play(line, GO, GO, GO) == [True, True, None]


def test_a_stall_is_not_made_up_for_by_a_burst() -> None:
    waited: list[float] = []

    def wait(seconds: float) -> Command:
        waited.append(seconds)
        if len(waited) == 2:
            time.sleep(0.3)  # the stall itself
        return Command.GO_ON if len(waited) < 6 else Command.STOP

    run(frames(["sim01"]), FakeLine(), io.StringIO(), 0.1, wait)
    assert waited.count(0.0) <= 2


def test_the_journal_is_read_as_it_was_written() -> None:
    for frame in some(100, faults=FAULTS):
        assert Entry.from_json(frame.entry.to_json()).to_json() == frame.entry.to_json()


# --- as a program -------------------------------------------------------------------------------


@contextmanager
def simulator(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "unisat_agent.simulate", *arguments],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def refusal(*arguments: str) -> tuple[int, str]:
    """Exit code and the last line of a simulator that must not start."""
    with simulator(*arguments) as process:
        _, said = process.communicate(timeout=20)
        return process.returncode, said.strip().splitlines()[-1]


class Reader:
    """Reads a terminal in a thread until it hangs up."""

    def __init__(self, path: Path) -> None:
        self.got = bytearray()
        wait_until(path.exists, 10, f"{path} is there")
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NOCTTY)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with suppress(OSError):
            while data := os.read(self._descriptor, 4096):
                self.got += data

    def result(self) -> bytes:
        self._thread.join(10)
        assert not self._thread.is_alive(), "the line did not hang up"
        os.close(self._descriptor)
        return bytes(self.got)


def test_a_count_of_packages_on_a_pty(tmp_path: Path) -> None:
    link, journal = tmp_path / "usb", tmp_path / "journal"
    with simulator(
        "--link", str(link), "--journal", str(journal), "--devices", "3", "--count", "30",
        "--speed", "100", "--faults", "all",
    ) as process:  # fmt: skip
        read = Reader(link).result()
        assert process.wait(10) == 0
    entries = list(read_journal(journal).values())
    assert len(entries) == 30
    assert {entry.dev_id for entry in entries} == {"sim01", "sim02", "sim03"}
    assert understood(decode([read])) == promised(entries)
    assert not link.is_symlink()


def test_signals_pull_the_cable_plug_it_in_and_end_the_run(tmp_path: Path) -> None:
    link, journal = tmp_path / "usb", tmp_path / "journal"

    def seen(expected: bool) -> int:
        told = read_journal(journal).values() if journal.exists() else ()
        return sum(1 for entry in told if entry.expected is expected)

    with simulator("--link", str(link), "--journal", str(journal), "--interval", "0.05") as process:
        first = Reader(link)
        wait_until(lambda: seen(True) >= 3, 10, "packages are sent")
        process.send_signal(signal.SIGUSR1)
        read = first.result()
        assert not link.is_symlink()
        wait_until(lambda: seen(False) >= 3, 10, "packages meet no line")
        before = seen(True)
        process.send_signal(signal.SIGUSR2)
        second = Reader(link)
        wait_until(lambda: seen(True) >= before + 3, 10, "packages are sent again")
        process.send_signal(signal.SIGTERM)
        read += b"\r\n\r\n" + second.result()
        assert process.wait(10) == 0
    entries = list(read_journal(journal).values())
    assert understood(decode([read])) == promised(entries)


def test_a_receiver_over_tcp(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        simulator(
            "--connect", f"127.0.0.1:{server.getsockname()[1]}", "--journal", str(journal),
            "--count", "10", "--speed", "1000",
        ) as process,
    ):  # fmt: skip
        connection, _ = server.accept()
        read = b""
        while data := connection.recv(4096):
            read += data
        connection.close()
        assert process.wait(10) == 0
    assert understood(decode([read])) == promised(list(read_journal(journal).values()))


def test_a_tcp_receiver_that_comes_and_goes() -> None:
    line = SocketLine("127.0.0.1", 0, listen=True)
    host, port = line.name.removeprefix("socket://").split(":")
    assert line.write(b"nobody\n") == 0
    first = socket.create_connection((host, int(port)))
    wait_until(lambda: line.write(b"one\n") == 4, 5, "the receiver is taken on")
    assert first.recv(10) == b"one\n"
    assert line.drained(5)
    first.close()
    with pytest.raises(LineLostError):
        wait_until(lambda: line.write(b"x") == 0, 5, "the loss is noticed")
    with socket.create_connection((host, int(port))) as second:
        wait_until(lambda: line.write(b"two\n") == 4, 5, "the next one is taken on")
        assert second.recv(10) == b"two\n"
    line.close()


def test_a_serial_port_is_the_far_end_of_a_pty() -> None:
    far = Pty()
    line = SerialLine(far.device, 9600)
    assert line.write(b"devID=u01kz\r\n") == 13
    assert os.read(far._master, 100) == b"devID=u01kz\r\n"
    line.close()
    far.close()


def test_what_can_not_be_done_is_said_in_one_line(tmp_path: Path) -> None:
    taken = tmp_path / "file"
    taken.write_text("precious")
    assert refusal("--link", str(taken), "--count", "1") == (
        1,
        f"unisat-agent simulate: {taken} is there and is not a symlink: "
        "remove it or choose another",
    )
    assert taken.read_text() == "precious"
    code, said = refusal("--link", str(tmp_path / "no" / "usb"))
    assert (code, "No such file or directory" in said) == (1, True)
    code, said = refusal("--port", str(tmp_path / "ttyUSB7"))
    assert (code, "ttyUSB7" in said) == (1, True)
    code, said = refusal("--journal", str(taken / "journal"), "--count", "1")
    assert (code, "cannot write the journal" in said) == (1, True)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code, said = refusal("--listen", f"127.0.0.1:{port}")
    assert (code, f"cannot listen on 127.0.0.1:{port}" in said) == (1, True)
    code, said = refusal("--connect", f"127.0.0.1:{port}")
    assert (code, f"cannot connect to 127.0.0.1:{port}" in said) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--faults", "nan,ovf"], "'ovf' is none of"),
        (["--devices", "1sat,x"], "'1sat' is no devID"),
        (["--devices", "a,a"], "no name twice"),
        (["--devices", "0"], "at least one device"),
        (["--interval", "0"], "'0' is not a number above 0"),
        (["--probability", "1.5"], "at most 1"),
        (["--connect", "somewhere"], "'somewhere' is not HOST:PORT"),
        (["--count", "-1"], "'-1'"),
        (["--link", "x", "--port", "y"], "not allowed with"),
    ],
)
def test_a_wrong_option_is_named(arguments: list[str], why: str) -> None:
    code, said = refusal(*arguments)
    assert code == 2
    assert why in said
