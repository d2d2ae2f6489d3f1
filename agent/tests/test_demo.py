"""The demo, as `make demo` runs it."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from rig.demo.alone import only_demo
from rig.demo.ending import RefusedError
from rig.demo.screen import Scene, Tally
from rig.wait import wait_until
from unisat_agent.simulator.satellite import Entry

AGENT_FOLDER = Path(__file__).parent.parent
WAIT_S = 60


@contextmanager
def demo(directory: Path, *arguments: str, **popen: Any) -> Iterator[subprocess.Popen[str]]:
    """A demo with a lock and a temporary folder of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "rig.demo", *arguments],
        cwd=AGENT_FOLDER,
        env=os.environ | {"TMPDIR": str(directory), "TERM": "xterm"},
        text=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | popen,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.communicate(timeout=30)
        finally:
            process.kill()


def noted(directory: Path) -> dict[str, Any]:
    """What a running demo has noted in its lock file; empty at first."""
    for lock in directory.glob("unisat-demo-*.lock"):
        with suppress(ValueError):
            return dict(json.loads(lock.read_text()))
    return {}


def alive(directory: Path) -> list[str]:
    """Command lines of the processes that work in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if str(directory) in command:
                found.append(command)
    return found


def test_the_demo_ends_well_and_leaves_nothing_while_a_second_one_refuses(tmp_path: Path) -> None:
    with demo(tmp_path) as first:
        wait_until(lambda: len(noted(tmp_path).get("children", ())) == 4, 90, "all parts run")
        with demo(tmp_path) as second:
            assert second.wait(30) == 2
            assert second.stderr is not None
            assert second.stderr.read() == (
                f"demo: another demo is running (process {first.pid}): "
                f"end it with Ctrl-C or 'kill {first.pid}'\n"
            )
        said, complaint = first.communicate(timeout=150)
    assert (first.returncode, complaint) == (0, ""), said
    sent = re.fullmatch(
        r"sent=(\d+) local=\1 hub=\1 duplicates=0 lost=0", said.strip().splitlines()[-1]
    )
    assert sent is not None, said
    assert int(sent[1]) > 30
    for act in ("packages flow", "hub is cut off", "backlog drains", "unplugged", "plugged in"):
        assert act in said
    assert alive(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == [f"unisat-demo-{os.getuid()}.lock"]


def test_forever_tells_where_to_look_on_a_terminal_and_ctrl_c_cleans_up(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    seen = ""

    def shows(pattern: str) -> tuple[str, ...]:
        """The groups of a pattern in what the terminal was sent; nothing when it is not there."""
        nonlocal seen
        with suppress(OSError):  # the far end is closed
            while select.select([master], [], [], 0)[0]:
                seen += os.read(master, 65536).decode(errors="replace")
        found = re.search(pattern, seen)
        return found.groups() if found else ()

    with demo(tmp_path, "--forever", stdin=slave, stdout=slave, stderr=slave) as process:
        os.close(slave)
        user, password, records = wait_until(
            lambda: shows(r"curl -u (\S+):(\S+) '(http\S+)'"), 90, "the addresses are shown"
        )
        (status,) = shows(r"agent +(http://\S+/status)")
        wait_until(lambda: shows(r"(now:  packages flow)"), 30, "the picture is drawn")
        assert requests.get(status, timeout=5).json()["station"] == "demo"
        wait_until(
            lambda: requests.get(records, auth=(user, password), timeout=5).json()["data"],
            20,
            "the hub shows records to the reader",
        )
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert shows(r"(\x1b\[\?25h(?:.|\n)*stopped)")
    os.close(master)
    assert alive(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == [f"unisat-demo-{os.getuid()}.lock"]


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with demo(tmp_path, "--port", str(min(port, 65531))) as process:
            said, complaint = process.communicate(timeout=30)
    assert process.returncode == 2
    assert complaint.startswith(f"demo: port {port} of 127.0.0.1 cannot be used")
    assert "sent=" not in said
    assert alive(tmp_path) == []


def test_processes_that_an_old_demo_left_behind_are_named(tmp_path: Path) -> None:
    lock = tmp_path / "demo.lock"
    folder = tmp_path / "unisat-demo-old"
    with subprocess.Popen([sys.executable, "-c", "input()", folder], stdin=subprocess.PIPE) as old:
        wait_until(lambda: alive(folder), 10, "the process runs")
        mark = {"pid": 1, "directory": str(folder), "children": [old.pid, 1]}
        lock.write_text(json.dumps(mark))
        with pytest.raises(RefusedError, match=f"end them with 'kill {old.pid}'$"), only_demo(lock):
            pass
    with only_demo(lock):
        pass
    assert lock.read_text() == ""


def test_a_place_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.touch()
    with (
        pytest.raises(RefusedError, match=r"cannot write .*set TMPDIR"),
        only_demo(blocker / "lock"),
    ):
        pass


def test_the_tally_follows_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    tally = Tally(path)
    assert tally.update() == 0
    first, second = Entry("sim01", 1, expected=True), Entry("sim01", 2, expected=False)
    path.write_text(f"{first.to_json()}\n{second.to_json()}\n{first.to_json()[:20]}")
    assert tally.update() == 1
    path.write_text(f"{first.to_json()}\n{second.to_json()}\n{first.to_json()}\n")
    assert tally.update() == 1
    withdrawn = Entry("sim01", 1, expected=None)
    with path.open("a") as file:
        file.write(f"{withdrawn.to_json()}\n")
    assert tally.update() == 0


def test_a_picture_needs_no_answer_of_the_agent() -> None:
    scene = Scene(time.monotonic())
    assert any("local" in line for line in scene.picture())
    assert "pending -" in scene.line()


@dataclass(frozen=True)
class Addresses:
    """Where a running demo can be reached."""

    panel: str
    status: str
    hub: str
    reader: tuple[str, str]

    def press(self, name: str) -> None:
        """Presses a button as a browser does."""
        origin = self.panel.rstrip("/")
        answer = requests.post(self.panel + name, headers={"Origin": origin}, timeout=10)
        assert answer.status_code == 200, answer.text
        assert answer.url == self.panel

    def look(self) -> dict[str, Any]:
        """The agent's status."""
        status: dict[str, Any] = requests.get(self.status, timeout=10).json()
        return status

    def newest(self) -> dict[str, Any]:
        """The newest record at the hub."""
        answer = requests.get(
            f"{self.hub}?_limit=1&_sort=-seq", auth=self.reader, timeout=10
        ).json()
        record: dict[str, Any] = answer["data"][0] if answer["data"] else {"seq": 0}
        return record

    def drained(self) -> bool:
        """Whether nothing waits for the hub."""
        return bool(self.look()["sinks"]["hub"]["pending"] == 0)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Addresses]:
    """A demo with buttons, and where it is."""
    with demo(tmp_path_factory.mktemp("demo"), "--forever") as process:
        said = _read_addresses(process)
        found = re.search(
            r"faults +(\S+)(?:.|\n)*agent +(\S+/status)(?:.|\n)*-u (\S+):(\S+) '([^?]+)", said
        )
        assert found, said
        panel, status, user, password, hub = found.groups()
        yield Addresses(panel, status, hub, (user, password))


def _read_addresses(process: subprocess.Popen[str]) -> str:
    """What the demo prints up to its addresses; the rest is read and dropped."""
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if line.startswith("records"):
            threading.Thread(target=process.stdout.read, daemon=True).start()
            return said
    raise AssertionError(said)


def test_the_network_is_cut_and_healed(running: Addresses) -> None:
    wait_until(lambda: running.newest()["seq"] and running.drained(), WAIT_S, "records at the hub")
    running.press("network")
    wait_until(lambda: running.look()["sinks"]["hub"]["pending"] > 3, WAIT_S, "a backlog")
    assert "Network cut</button> <strong>at work" in requests.get(running.panel, timeout=10).text
    waiting = running.look()["last_record"]["seq"]
    assert running.newest()["seq"] < waiting
    running.press("heal")
    wait_until(
        lambda: running.newest()["seq"] >= waiting and running.drained(), WAIT_S, "the backlog sent"
    )
    assert "at work" not in requests.get(running.panel, timeout=10).text


def test_the_cable_is_pulled_and_plugged(running: Addresses) -> None:
    def reading() -> bool:
        return [port["state"] for port in running.look()["ports"]] == ["reading"]

    wait_until(reading, WAIT_S, "the port is read")
    running.press("cable")
    running.press("cable")
    wait_until(lambda: not reading(), WAIT_S, "the port is gone")
    running.press("heal")
    wait_until(reading, WAIT_S, "the port is read again")


def test_a_sensor_breaks_and_works_again(running: Addresses) -> None:
    def bad_lines() -> int:
        return int(running.look()["spool"]["quarantined"])

    before = bad_lines()
    running.press("nan")
    wait_until(lambda: bad_lines() > before, WAIT_S, "bad lines")
    running.press("heal")
    refused = requests.get(running.status.replace("/status", "/refused"), timeout=10).text
    assert "bad_value" in refused


def test_the_clock_is_distrusted_and_trusted_again(running: Addresses) -> None:
    wait_until(running.drained, WAIT_S, "nothing waits")
    running.press("clock")
    wait_until(
        lambda: (
            running.look()["last_record"]["clock"] == "unsynced"
            and running.look()["sinks"]["hub"]["pending"] > 1
        ),
        WAIT_S,
        "packages that wait for the time",
    )
    seq = running.look()["last_record"]["seq"]
    running.press("heal")
    wait_until(
        lambda: running.newest()["seq"] >= seq and running.drained(), WAIT_S, "they are sent"
    )
    answer = requests.get(running.hub, auth=running.reader, timeout=10).json()
    clocks = {record["clock"] for record in answer["data"]}
    assert clocks == {"synced", "corrected"}


@pytest.mark.parametrize(
    ("method", "path", "headers", "code"),
    [
        ("GET", "network", {}, 405),
        ("GET", "heal", {}, 405),
        ("GET", "other", {}, 404),
        ("POST", "", {}, 404),
        ("POST", "other", {}, 404),
        ("PUT", "network", {}, 501),
        ("GET", "", {"Host": "evil.example"}, 421),
        ("POST", "network", {"Host": "evil.example:80"}, 421),
        ("POST", "network", {"Origin": "http://evil.example"}, 403),
        ("POST", "network", {"Origin": "null"}, 403),
    ],
)
def test_a_press_from_elsewhere_is_refused(
    running: Addresses, method: str, path: str, headers: dict[str, str], code: int
) -> None:
    answer = requests.request(method, running.panel + path, headers=headers, timeout=10)
    assert answer.status_code == code
    assert "at work" not in requests.get(running.panel, timeout=10).text
