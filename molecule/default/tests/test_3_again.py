"""Running site.yml again: nothing changes, a dry run says so too, and neither shows a secret."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest
from conftest import BUILD, HOSTS, PROJECT, note, run


@pytest.mark.parametrize("options", [[], ["--check", "--diff"]], ids=["run", "dry-run"])
def test_nothing_changes(options: list[str]) -> None:
    begin = time.monotonic()
    # The folder: hosts and variables of molecule.yml lie in files beside the one that is named.
    inventory = str(Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent)
    said = run(
        "ansible-playbook", "--inventory", inventory, *options, f"{PROJECT}/playbooks/site.yml"
    )
    note(f"site.yml {' '.join(options) or 'again'}: {time.monotonic() - begin:.0f} s")
    said = re.sub(r"\x1b\[[0-9;]*m", "", said)  # molecule asks Ansible for colours
    changed = dict(
        re.findall(
            r"^(\S+)\s+: ok=\d+ +changed=(\d+) +unreachable=0 +failed=0 ", said, re.MULTILINE
        )
    )
    print(said)
    assert {host: changed.get(host) for host in HOSTS} == dict.fromkeys(HOSTS, "0")
    for path in (BUILD / "secrets").glob("*/*"):
        assert path.read_text().strip() not in said, path.name
