"""What the scenarios' tests share: programs of the machine outside, and in the test hosts."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

PROJECT = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"])
BUILD = PROJECT / "build" / "molecule"
# The folder: hosts and variables of molecule.yml lie in files beside the one that is named.
INVENTORY = str(Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent)
# The settings that the fleet is run with, not those that molecule makes up; and no colours, which
# molecule asks Ansible for, because the tests read what it says.
os.environ["ANSIBLE_CONFIG"] = f"{PROJECT}/ansible.cfg"
os.environ["ANSIBLE_FORCE_COLOR"] = "0"


def run(*command: str, stdin: str | None = None, check: bool = True) -> str:
    """Run a program of the machine outside and return what it prints."""
    done = subprocess.run(
        command,
        input=stdin,
        check=False,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if check and done.returncode:
        pytest.fail(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}", pytrace=False)
    return done.stdout


def inside(name: str, *command: str, stdin: str | None = None, check: bool = True) -> str:
    """Run a program in a test host and return what it prints."""
    return run("docker", "exec", "--interactive", name, *command, stdin=stdin, check=check)


def wait_until(
    condition: Callable[[], object], why: str | Callable[[], str], seconds: float = 120
) -> None:
    """Poll until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            reason = why if isinstance(why, str) else why()
            pytest.fail(f"not within {seconds} s: {reason}", pytrace=False)
        time.sleep(1)


def note(line: str) -> None:
    """Keep a figure for the summary that molecule/run prints."""
    with (BUILD / "figures").open("a") as file:
        file.write(f"{line}\n")
