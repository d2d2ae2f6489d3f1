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
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import requests

from rig.demo import RefusedError, Scene, Tally, only_demo
from rig.wait import wait_until
from unisat_agent.satellite import Entry

AGENT_FOLDER = Path(__file__).parent.parent


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
        with demo(tmp_path, "--port", str(min(port, 65533))) as process:
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
