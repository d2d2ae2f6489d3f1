"""The simulated satellite on its way: pace, journal, the lines that carry it, and the command."""

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
from pathlib import Path

import pytest

from rig.judge import read_journal
from rig.promise import decode, promised, understood
from rig.reading import running
from rig.wait import wait_until
from unisat_agent.protocols.events import Package
from unisat_agent.simulator.line import LineLostError, SerialLine, SocketLine
from unisat_agent.simulator.run import Command, run
from unisat_agent.simulator.satellite import Entry, frames

DEV_IDS = ("sim01", "sim02")


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


# --- as a program -------------------------------------------------------------------------------


@contextmanager
def simulator(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "unisat_agent.simulator.run", *arguments],
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


def test_the_agent_reads_checksums_and_carriage_returns_alone(tmp_path: Path) -> None:
    link, journal = tmp_path / "usb", tmp_path / "journal"
    with (
        simulator(
            "--link", str(link), "--journal", str(journal), "--count", "10", "--speed", "50",
            "--crc", "--line-end", "cr",
        ) as process,
        running(str(link)) as agent,
    ):  # fmt: skip
        assert process.wait(30) == 0
    packages = [event for event in agent.spy.events if isinstance(event, Package)]
    assert understood(packages) == promised(list(read_journal(journal).values()))
    assert all(package.checked for package in packages)
    assert agent.spy.reasons() == []


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


def test_a_frozen_simulator_goes_on(tmp_path: Path) -> None:
    link = tmp_path / "port"
    with simulator("--link", str(link), "--interval", "0.3") as process:
        wait_until(link.exists, 10, "the pty")
        with link.open("rb", buffering=0) as port:
            for _ in range(3):
                process.send_signal(signal.SIGSTOP)
                # Longer than the wait for the next package.
                threading.Event().wait(0.7)
                process.send_signal(signal.SIGCONT)
                assert port.read(1)
        assert process.poll() is None


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
    master, slave = os.openpty()
    line = SerialLine(os.ttyname(slave), 9600)
    assert line.write(b"devID=u01kz\r\n") == 13
    assert os.read(master, 100) == b"devID=u01kz\r\n"
    line.close()
    os.close(slave)
    os.close(master)


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
