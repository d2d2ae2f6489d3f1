"""A reboot, and a cut of the power: everything comes back by itself, and the data is still there.

The power cut is a SIGKILL of the whole host: what only the page cache holds survives it,
other than on a real card.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial

import pytest
from test_2_telemetry import judge

from conftest import HOSTS, HUB, PUBLISHERS, journal, records, status
from outside import inside, note, run, wait_until


def up(name: str) -> bool:
    return inside(name, "systemctl", "is-system-running", check=False).strip() == "running"


def last_seq(publisher: str) -> int:
    return max(
        int(record["seq"]) for device in PUBLISHERS[publisher] for record in records(HUB, device)
    )


def for_all(names: Iterable[str], condition: Callable[[str], object], why: str) -> None:
    for name in names:
        wait_until(partial(condition, name), f"{name}: {why}", 180)


@pytest.mark.parametrize("how", ["reboot", "power cut"])
def test_everything_comes_back(how: str) -> None:
    for_all(PUBLISHERS, lambda name: len(journal(name)) >= 5, "some packages were sent")
    before = {publisher: last_seq(publisher) for publisher in PUBLISHERS}
    begin = time.monotonic()
    if how == "reboot":
        run("docker", "restart", "--time", "60", *HOSTS)
    else:
        run("docker", "kill", *HOSTS)
        run("docker", "start", *HOSTS)
    for_all(HOSTS, up, "it is up")
    for_all(PUBLISHERS, lambda name: status(name).get("health") == "ok", "the agent is well")
    for_all(PUBLISHERS, lambda name: last_seq(name) > before[name] + 3, "new records reach the hub")
    note(f"{how}, until new records reach the hub: {time.monotonic() - begin:.0f} s")
    for publisher in PUBLISHERS:
        assert judge(publisher) > 0
    for name in HOSTS:
        assert inside(name, "systemctl", "--failed", "--no-legend", "--plain") == ""
