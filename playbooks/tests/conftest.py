"""What the tests of the playbooks' plugins share; no host is asked by any of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
FOLDERS = (
    *(
        "library",
        "playbooks/lookup_plugins",
        "playbooks/module_utils",
        "roles/update/files",
        "agent",
    ),
)
sys.path += [str(PROJECT / folder) for folder in FOLDERS]

Play = Callable[..., tuple[int, str]]


@pytest.fixture
def play(tmp_path: Path) -> Play:
    """Run a playbook on an inventory; returns its exit code and what it says, unwrapped."""

    def run(inventory: str, *options: str, playbook: str = "playbooks/site.yml") -> tuple[int, str]:
        file = tmp_path / "hosts.yml"
        file.write_text(inventory)
        done = subprocess.run(
            ["ansible-playbook", "--inventory", str(file), *options, playbook],
            cwd=PROJECT,
            env=os.environ
            | {"ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_CONFIG": f"{PROJECT}/ansible.cfg"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.returncode, " ".join(done.stdout.split())

    return run
