"""What the tests of a station's life share: its playbooks, its records, other versions of it."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

import outside
from outside import INVENTORY, PROJECT, run
from station import KEPT, STATION

OLD, GONE = "lifecycle-old", "lifecycle-gone"
DEVICE = "u01kz"
DEVICES = {STATION: DEVICE, OLD: "u09kz"}
OLD_RECORDS = 20_000
LATER = f"{PROJECT}/molecule/lifecycle/inventory/later.yml"


def play(name: str, *options: str, check: bool = True, note: str = "") -> str:
    """Run one of the fleet's playbooks; how long it took is kept for the summary."""
    begin = time.monotonic()
    said = run(
        *("ansible-playbook", "--inventory", INVENTORY, *options),
        f"{PROJECT}/playbooks/{name}.yml",
        check=check,
    )
    print(said)
    outside.note(f"{name}.yml{note}: {time.monotonic() - begin:.0f} s")
    return said


def sentences(said: str) -> str:
    """What a playbook says, as it was before Ansible wrapped it."""
    return " ".join(said.split())


def newest_backup() -> Path:
    return max((KEPT / "backups" / STATION).glob("*Z"))


def other_agent(name: str, version: str, **more: str) -> str:
    """The option that rolls another agent out: this one with another version.

    Args:
        name: Of the folder that it is made in.
        version: Its own.
        more: Code to append to modules of it, by their names with an underscore for each dot.
    """
    folder = KEPT / name
    shutil.copytree(
        PROJECT / "agent",
        folder,
        ignore=shutil.ignore_patterns("build", "*cache*", "*.egg-info", "tests"),
    )
    project = folder / "pyproject.toml"
    text = project.read_text()
    project.write_text(
        re.sub(r'^version = ".*"', f'version = "{version}"', text, flags=re.MULTILINE)
    )
    for module, code in more.items():
        with (folder / "src/unisat_agent" / f"{module.replace('_', '/')}.py").open("a") as file:
            file.write(code)
    return f"--extra-vars=__agent_source={folder}"


def other_image(tag: str) -> str:
    """The option that rolls another image out: this one under another name."""
    file = KEPT / f"kinto-{tag}.tar.gz"
    run(f"{PROJECT}/molecule/hosts/other-image", tag, str(file))
    return f"--extra-vars=kinto_image_archive={file}"
