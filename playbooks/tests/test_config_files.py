"""config_files: what a killed run wrote is applied by the next one.

systemd is a program in PATH here, because process 1 of the machine may be another.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from conftest import PROJECT

SYSTEMCTL = """#!/bin/sh
printf 'ActiveState={state}\nNeedDaemonReload={reload}\nStateChangeTimestampMonotonic={changed}\n'
exit {code}
"""


def write(folder: Path, **systemd: Any) -> dict[str, Any]:
    """What the module answers when it writes a settings file of a unit."""
    said = {"state": "active", "reload": "no", "changed": 0, "code": 0} | systemd
    program = folder / "bin/systemctl"
    program.parent.mkdir(exist_ok=True)
    program.write_text(SYSTEMCTL.format(**said))
    program.chmod(0o755)
    arguments = {
        "files": [
            {"dest": str(folder / "settings"), "content": "a = 1\n", "unit": "an.service"},
            {"dest": str(folder / "other"), "content": "a = 1\n"},
        ]
    }
    done = subprocess.run(
        [sys.executable, f"{PROJECT}/library/config_files.py"],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
        env=os.environ | {"PATH": f"{program.parent}:{os.environ['PATH']}"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def since_boot_us(seconds_ago: float) -> int:
    return int((time.monotonic() - seconds_ago) * 1_000_000)


@pytest.mark.parametrize(
    ("systemd", "changed"),
    [
        ({"changed": since_boot_us(60)}, True),
        ({"changed": since_boot_us(-60)}, False),
        ({"state": "inactive", "changed": 0}, False),
        ({"state": "inactive", "changed": 0, "reload": "yes"}, True),
        ({"code": 1}, False),
    ],
    ids=["started before", "started after", "not running", "unit not read yet", "not booted"],
)
def test_a_unit_that_is_older_than_its_files_is_a_change(
    tmp_path: Path, systemd: dict[str, Any], changed: bool
) -> None:
    assert write(tmp_path, changed=since_boot_us(-60))["changed"], "it was written"
    again = write(tmp_path, **systemd)
    assert again["changed"] == changed
    assert again["paths"] == ([str(tmp_path / "settings")] if changed else [])


def test_a_file_of_the_future_restarts_nothing(tmp_path: Path) -> None:
    """As of a Raspberry Pi whose clock was wrong when it was written."""
    write(tmp_path)
    tomorrow = time.time() + 86_400
    os.utime(tmp_path / "settings", (tomorrow, tomorrow))
    assert not write(tmp_path, changed=since_boot_us(60))["changed"]
