"""Running site.yml again: nothing changes, a dry run says so too, and neither shows a secret."""

from __future__ import annotations

import re
import time

import pytest

from conftest import HOSTS
from outside import BUILD, INVENTORY, PROJECT, note, run


@pytest.mark.parametrize("options", [[], ["--check", "--diff"]], ids=["run", "dry-run"])
def test_nothing_changes(options: list[str]) -> None:
    begin = time.monotonic()
    said = run(
        "ansible-playbook", "--inventory", INVENTORY, *options, f"{PROJECT}/playbooks/site.yml"
    )
    note(f"site.yml {' '.join(options) or 'again'}: {time.monotonic() - begin:.0f} s")
    changed = dict(
        re.findall(
            r"^(\S+)\s+: ok=\d+ +changed=(\d+) +unreachable=0 +failed=0 ", said, re.MULTILINE
        )
    )
    print(said)
    assert {host: changed.get(host) for host in HOSTS} == dict.fromkeys(HOSTS, "0")
    for path in (BUILD / "secrets").glob("*/*"):
        assert path.read_text().strip() not in said, path.name
