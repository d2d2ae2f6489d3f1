"""A flashed station updates itself from a USB stick, with no network; and through power cuts.

The image has to have been made with UPDATE_KEYS, of which the test then makes its own. The tests
are steps of one story on one card.
"""

from __future__ import annotations

import json
import os
import random
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from card import Card, run
from conftest import PROJECT, figure
from machine import Machine
from rig.judge import Key, read_journal
from rig.processes import Process
from station import local_records, screen, status, toml, write_settings
from unisat_agent.simulator.satellite import Entry

ROUNDS = int(os.environ.get("UPDATE_ROUNDS", "2"))
PASSWORD = secrets.token_hex(12)
# Later than any commit: serial numbers only rise.
SERIAL = 4_000_000_000
# Under emulation a task of Ansible takes seconds.
UPDATE_S = 3000
STICK_MB, STICK_START = 160, 1 << 20

_STATE = """
from pathlib import Path
state = Path("/var/lib/unisat-update/state.json")
print(state.read_text() if state.exists() else "{}")
"""
# As if the image had been made with this key; role update writes it anew at each update.
_TRUST = """
import json, sys
from pathlib import Path
key = sys.argv[1]
Path("/etc/unisat-update/keys/1.pub").write_text("untrusted comment: of the test\\n" + key + "\\n")
inventory = Path("/var/lib/unisat-station/inventory.json")
said = json.loads(inventory.read_text())
inventory.write_text(json.dumps({**said, "update_keys": [key]}))
"""
_SOUND = """
set -eu
test -z "$(dpkg --audit)"
sha256sum --check --status /opt/unisat-agent/current/ready
test -z "$(find /etc/unisat-agent /etc/unisat-kinto /etc/unisat-update /etc/systemd/system \
    /usr/local/lib/unisat-update /usr/local/lib/unisat-station -type f -size 0)"
test ! -e /var/lib/unisat-kinto/loading
docker save "$(docker inspect --format '{{.Config.Image}}' unisat-kinto)" >/dev/null
"""


class Story:
    """What the steps share."""

    def __init__(self, image: Path, folder: Path) -> None:
        self.folder = folder
        self.card = Card.flash(image, folder / "card.img")
        self.machine = Machine(self.card, folder)
        self.journals: dict[str, Path] = {}
        self.took_s = 0.0
        self.failed = ""
        command = ("minisign", "-G", "-W", "-p", f"{folder}/key.pub", "-s", f"{folder}/key")
        run(*command)
        self.key = (folder / "key.pub").read_text().splitlines()[-1]

    def satellite(self) -> Process:
        """A satellite with a devID of its own for each, so that no package number comes twice."""
        device = f"upd{len(self.journals):02}"
        self.journals[device] = self.folder / f"{device}.journal"
        return self.machine.satellite(self.journals[device], device, "--seed", device)

    def state(self) -> dict[str, Any]:
        """The supervisor's own state."""
        said: dict[str, Any] = json.loads(self.machine.python(_STATE))
        return said

    def settled(self) -> bool:
        """Whether no update is under way."""
        shown = self.machine.run(
            "systemctl list-units --no-legend --state=active,activating 'unisat-update*.service'"
        )
        return not shown.strip() and self.state().get("phase", "good") == "good"

    def runs(self, number: int) -> bool:
        """Whether version 2.NUMBER runs, and nothing is under way."""
        return (
            bool(self.state().get("running", {}).get("version") == f"2.{number}") and self.settled()
        )

    def start(self) -> None:
        """Switches the station on and logs in."""
        self.machine.power_on()
        self.machine.log_in("pi", PASSWORD)

    def drained(self) -> bool:
        """Whether the local Kinto has acknowledged all."""
        sinks = status(self.machine).get("sinks", {})
        return bool(sinks) and not any(sink["pending"] for sink in sinks.values())

    def records(self) -> list[dict[str, Any]]:
        """All records in the local Kinto."""
        return [one for device in self.journals for one in local_records(self.machine, device)]

    def judge(self) -> int:
        """Every number once, none missing, and each as it was sent; returns how many."""
        records = self.records()
        numbers = Counter(record["seq"] for record in records)
        assert len({record["epoch"] for record in records}) == 1, "the spool was lost"
        assert sorted(numbers) == list(range(1, max(numbers) + 1))
        assert max(numbers.values()) == 1
        sent: dict[Key, Entry] = {}
        for journal in self.journals.values():
            sent |= read_journal(journal)
        for record in records:
            assert sent[record["devID"], record["packet"]].fields.items() <= record.items()
        return len(records)


@pytest.fixture(scope="module")
def story(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    found = Story(image, tmp_path_factory.mktemp("update"))
    with found.machine:
        yield found
    found.card.path.unlink()


@pytest.fixture(autouse=True)
def in_order(request: pytest.FixtureRequest, story: Story) -> Iterator[None]:
    if story.failed:
        pytest.fail(f"the story ended at {story.failed}", pytrace=False)
    before = request.session.testsfailed
    yield
    if request.session.testsfailed > before:
        story.failed = request.node.name
        print(story.machine.tail())


def stick(story: Story, number: int) -> Path:
    """A USB stick with the bundle of version 2.NUMBER, whose agent is another."""
    tree, version = story.folder / f"tree{number}", f"2.{number}"
    tree.mkdir()
    copy = "git ls-files -z ':!docs' ':!dashboard' | tar --null -T - -c | tar -x -C"
    subprocess.run(["sh", "-ec", f"{copy} '{tree}'"], cwd=PROJECT, check=True)
    project = tree / "agent/pyproject.toml"
    project.write_text(
        re.sub(r"(?m)^version = .*", f'version = "9.0.{number}"', project.read_text())
    )
    (tree / "build").mkdir()
    (tree / "build/dashboard").symlink_to(PROJECT / "build/dashboard")
    run("git", "-C", str(tree), "init", "--quiet")
    run("git", "-C", str(tree), "add", "--all", "--force")
    out = story.folder / "made"
    run(
        *(str(tree / "image/update"), "--key", str(story.folder / "key"), "--arch", "arm64"),
        *("--version", version, "--serial", str(SERIAL + number), "--out", str(out)),
    )
    shutil.rmtree(tree)
    made = story.folder / f"stick{number}.img"
    with made.open("wb") as file:
        file.truncate(STICK_MB << 20)
    run("sfdisk", "--quiet", str(made), stdin=f"start={STICK_START // 512}, type=c\n".encode())
    sectors = str(STICK_START // 512)
    run("mkfs.vfat", "-F", "32", f"--offset={sectors}", str(made), str((STICK_MB - 1) << 10))
    bundle = out / f"unisat-{version}-arm64.update"
    run("mcopy", "-i", f"{made}@@{STICK_START}", str(bundle), "::")
    return made


def test_1_a_flashed_station_takes_data(story: Story) -> None:
    write_settings(story.card, toml(PASSWORD, station={"name": "school-7", "devices": []}))
    story.start()
    assert "unisat-update" in story.machine.run("ls /usr/local/sbin"), (
        "this image takes no updates: make it with UPDATE_KEYS (docs/updates.md)"
    )
    satellite = story.satellite()
    story.machine.wait(story.records, 900, "a first record in the local Kinto", 15)
    assert satellite.running()
    satellite.end(signal.SIGTERM)


def test_2_a_usb_stick_brings_it_to_the_next_version(story: Story) -> None:
    made = stick(story, 0)
    story.machine.python(_TRUST, story.key)
    satellite = story.satellite()
    before = len(story.records())
    begin = time.monotonic()
    story.machine.plug_stick(made)
    story.machine.wait(partial(story.runs, 0), UPDATE_S, "version 2.0 runs", 10)
    story.took_s = time.monotonic() - begin
    story.machine.wait(
        lambda: status(story.machine).get("version", "").startswith("9.0.0+"), 300, "its agent runs"
    )
    assert "version 2.0 from" in story.state()["said"]
    story.machine.wait(lambda: len(story.records()) > before + 5, 600, "records go on", 5)
    satellite.end(signal.SIGTERM)
    story.machine.wait(story.drained, 600, "nothing to be pending", 5)
    records = story.judge()
    figure(f"update by USB stick: {story.took_s:.0f} s, {records} records, none lost, none twice")
    story.machine.run(f"sudo sh -c {shlex.quote(_SOUND)}", 600)


def test_3_the_second_time_it_is_not_newer(story: Story) -> None:
    story.machine.pull_stick()
    story.machine.plug_stick(story.folder / "stick0.img")
    story.machine.wait(lambda: "is not newer" in story.state()["said"], 300, "it says so", 3)
    assert "did not work" not in screen(story.machine)


def test_4_the_power_goes_at_random_moments_of_an_update(story: Story, seed: int) -> None:
    chance = random.Random(seed)
    for number in range(1, ROUNDS + 1):
        made = stick(story, number)
        satellite = story.satellite()
        story.machine.plug_stick(made)
        # The moment is the fault that is tested; nothing is waited for.
        moment = chance.uniform(5, 1.1 * story.took_s)
        time.sleep(moment)
        done = story.machine.cut_power(chance)
        satellite.end(signal.SIGTERM)
        story.start()
        satellite = story.satellite()
        last = list(story.journals)[-1]
        story.machine.wait(partial(local_records, story.machine, last), 900, "telemetry", 5)
        story.machine.wait(story.settled, UPDATE_S, "it goes on by itself, or was not begun", 10)
        said = story.state()
        assert not said.get("failed"), said
        resumed = said["running"]["version"] == f"2.{number}"
        if not resumed:
            story.machine.plug_stick(made)
            story.machine.wait(partial(story.runs, number), UPDATE_S, "the next version runs", 10)
        story.machine.run(f"sudo sh -c {shlex.quote(_SOUND)}", 600)
        satellite.end(signal.SIGTERM)
        story.machine.wait(story.drained, 600, "nothing to be pending", 5)
        print(f"round {number}/{ROUNDS}: cut after {moment:.0f} s, writes lost {done.dropped}, "
              f"{'went on by itself' if resumed else 'begun anew'}", flush=True)  # fmt: skip
    figure(f"power cuts in an update: {ROUNDS} rounds, {story.judge()} records, none lost or twice")
