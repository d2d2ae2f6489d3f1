"""docs/data.md: its commands run, as they stand, as a reader."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from stream_site import Site

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def environment(site: Site) -> dict[str, str]:
    """What the page's first two lines set, for this hub."""
    return {
        **os.environ,
        "HUB": site.hub_url,
        "READER": f"reader:{site.reader_password}",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }


def run(command: str, environment: dict[str, str], folder: Path) -> str:
    done = subprocess.run(
        ["sh", "-euc", command], env=environment, cwd=folder, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_the_page_says_what_to_set() -> None:
    assert "export HUB=" in blocks("sh")[0]
    assert "export READER=" in blocks("sh")[0]


def test_every_command_of_the_page_answers(
    site: Site, environment: dict[str, str], tmp_path: Path
) -> None:  # fmt: skip
    made = site.put("u01kz", 31.5, timestamp=1660918192)
    for block in blocks("sh")[1:]:
        if "stream" in block or "follow" in block:
            continue  # they do not end by themselves: below
        if "/archive/" in block:
            continue  # molecule/hub has the nginx that serves it
        if "mosquitto_sub" in block or " mqtt " in block:
            continue  # test_mqtt.py has a broker
        told = run(block, environment, tmp_path)
        assert '"errno"' not in told
        assert told
    newest = json.loads(run(blocks("sh")[1], environment, tmp_path))
    assert newest["data"][0]["id"] == made["id"]
    assert "31.5" in (tmp_path / "u01kz.csv").read_text()


def test_the_python_of_the_page_prints_a_record(
    site: Site, environment: dict[str, str], tmp_path: Path
) -> None:  # fmt: skip
    site.put("u01kz", 17.25, timestamp=1760918192)
    code = blocks("python")[0]
    (tmp_path / "page.py").write_text(code)
    told = run(f"'{sys.executable}' page.py", environment, tmp_path)
    assert told.startswith("1760918192 17.25\n")


@pytest.mark.parametrize("word", ["follow", "stream"])
def test_the_live_commands_print_a_record(
    site: Site, environment: dict[str, str], tmp_path: Path, word: str
) -> None:  # fmt: skip
    (command,) = (block for block in blocks("sh") if word in block)
    settings = blocks("sh")[2].splitlines()[0]  # what unisat-data reads
    made: list[str] = []
    seen = threading.Event()

    def send() -> None:
        # The command does not say when it is connected: a satellite sends all the time.
        while not seen.wait(0.2):
            made.append(site.put("u01kz", 1.0)["id"])

    sending = threading.Thread(target=send)
    with subprocess.Popen(
        ["sh", "-euc", f"{settings}\nexec {command}"], env=environment, cwd=tmp_path,
        stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        sending.start()
        try:
            assert any('"temperature": 1.0' in line for line in process.stdout)
        finally:
            seen.set()
            sending.join()
            process.kill()
