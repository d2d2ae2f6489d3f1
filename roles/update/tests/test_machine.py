"""What is done to a real station, as far as that needs none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unisat_update.files import Layout, write
from unisat_update.machine import Station
from unisat_update.sequence import SwitchError

# Takes the place of Ansible: says what it was given, and does what the test wants.
PLAYBOOK = """
import json, os, pathlib, sys

def main():
    inventory = pathlib.Path(sys.argv[sys.argv.index("-i") + 1])
    assert "publishers" in json.loads(inventory.read_text())
    assert os.environ["ANSIBLE_INVENTORY_ENABLED"] == "yaml"
    {does}
"""


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    found = Layout(tmp_path / "root")
    write(found.root / "etc/os-release", "VERSION_CODENAME=trixie\n")
    write(found.station / "inventory.json", json.dumps({"inventory_hostname": "school-7"}))
    return found


def release(layout: Layout, does: str) -> Path:
    folder = layout.releases / "2"
    write(folder / "manifest.json", '{"parts": []}')
    write(folder / "project/playbooks/local.yml", "")
    write(folder / "ansible/ansible/cli/playbook.py", PLAYBOOK.format(does=does))
    return folder


def test_a_playbook_that_found_nothing_to_do_is_no_success(layout: Layout) -> None:
    """Ansible ends well where no host matches."""
    with pytest.raises(SwitchError, match="ended without doing anything"):
        Station(layout).switch(release(layout, "sys.exit(0)"))


def test_a_playbook_that_kept_the_baseline_and_ended_well_is_one(layout: Layout) -> None:
    write(layout.baseline, "{}")
    Station(layout).switch(release(layout, "sys.exit(0)"))


def test_what_the_playbook_says_of_its_failure_is_the_reason(layout: Layout) -> None:
    says = (
        f"pathlib.Path({str(layout.failure)!r}).write_text('Set up the agent: no.\\n'); sys.exit(2)"
    )
    with pytest.raises(SwitchError, match=r"^Set up the agent: no$"):
        Station(layout).switch(release(layout, says))
    layout.failure.unlink()
    with pytest.raises(SwitchError, match="ended with exit code 3: some last words"):
        Station(layout).switch(release(layout, "print('some last words'); sys.exit(3)"))
