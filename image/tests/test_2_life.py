"""The life of a card: flashed, edited, booted with no network; then with one; then edited badly.

The tests are steps of one story on one card, in this order; a step that fails fails the next ones.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
import requests

from card import CARD_BYTES, Card, partitions, run
from conftest import figure, new_key
from machine import LOGIN_S, Machine
from rig.judge import Key, Verdict, judge, read_journal, read_records
from rig.kinto import Kinto
from station import (
    CARD,
    DEVICE,
    HUB_ACCOUNT,
    IMAGER_NETWORK,
    IMAGER_USER,
    browse,
    hub_table,
    local_records,
    screen,
    set_clock,
    status,
    toml,
    write_settings,
    written,
)
from unisat_agent.simulator.satellite import Entry

PASSWORD = secrets.token_hex(12)
HUB_PASSWORD = secrets.token_hex(16)
ALLOWED_PORTS = {22, 80, 5353}
# What the documents tell the reader to type: `pi`, over the console or ssh.
COMMANDS = (
    *("status", "check", "reconcile", "ports --listen 1", "spool check"),
    *("spool export --format jsonl", "quarantine list", "dead list"),
)


class Life:
    """What the steps share."""

    def __init__(self, image: Path, directory: Path) -> None:
        self.directory = directory
        self.card = Card.flash(image, directory / "card.img")
        self.machine = Machine(self.card, directory)
        self.journals: list[Path] = []
        self.failed = ""

    def satellite(self) -> Any:
        """A satellite with a devID of its own for each, so that no package number comes twice."""
        number = len(self.journals) + 1
        journal = self.directory / f"satellite{number}.journal"
        self.journals.append(journal)
        return self.machine.satellite(journal, self.device(number), "--seed", str(number))

    @staticmethod
    def device(number: int) -> str:
        """The devID of a satellite."""
        return DEVICE if number == 1 else f"u{number:02}kz"

    def picture(self, name: str) -> None:
        """Takes a picture of the screen, for docs/image.md where UNISAT_PICTURES says so."""
        self.machine.picture(Path(os.environ.get("UNISAT_PICTURES", self.directory)) / name)

    def verdict(self, hub: list[dict[str, Any]] | None = None) -> Verdict:
        """All that was sent against both Kintos; the local one twice where there is no hub.

        Of each satellite from the first package on that arrived: it sends from power-on, when
        nobody has opened the port yet.
        """
        entries: dict[Key, Entry] = {}
        local: list[dict[str, Any]] = []
        for number, journal in enumerate(self.journals, 1):
            there = local_records(self.machine, self.device(number))
            first = min((record["packet"] for record in there), default=0)
            sent = read_journal(journal)
            entries |= {key: entry for key, entry in sent.items() if key[1] >= first}
            local += there
        return judge(entries, local, local if hub is None else hub)


@pytest.fixture(scope="module")
def life(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    story = Life(image, tmp_path_factory.mktemp("life"))
    with story.machine:
        yield story
    story.card.path.unlink()


@pytest.fixture(autouse=True)
def in_order(request: pytest.FixtureRequest, life: Life) -> Iterator[None]:
    if life.failed:
        pytest.fail(f"the story ended at {life.failed}", pytrace=False)
    before = request.session.testsfailed
    yield
    if request.session.testsfailed > before:
        life.failed = request.node.name


def drained(machine: Machine) -> bool:
    """Whether every sink has acknowledged all."""
    sinks = status(machine).get("sinks", {})
    return bool(sinks) and not any(sink["pending"] for sink in sinks.values())


# The agent and Kinto write into the journal; the console shows when without anybody logged in.
_TELL = r"""
import json, os, subprocess, time
def up(): return float(open("/proc/uptime").read().split()[0])
lines = subprocess.run(["journalctl", "-b", "-o", "json", "-u", "unisat-agent", "-u",
    "unisat-first-boot", "-u", "unisat-kinto", "--no-pager"], capture_output=True, text=True).stdout
first = {}
for line in lines.splitlines():
    entry = json.loads(line)
    first.setdefault(entry.get("_SYSTEMD_UNIT") or entry.get("UNIT"),
        int(entry["__MONOTONIC_TIMESTAMP"]) / 1e6)
print(json.dumps(first))
"""


def test_1_boots_with_no_network_and_takes_data_at_once(life: Life) -> None:
    station = {"name": "school-7", "devices": []}
    write_settings(life.card, toml(PASSWORD, station=station))
    life.machine.power_on()
    satellite = life.satellite()
    life.machine.log_in("pi", PASSWORD)
    figure(f"power-on to login prompt: {life.machine.console.seconds('login:'):.0f} s")
    life.machine.wait(
        lambda: status(life.machine).get("spool", {}).get("last_seq", 0) > 0,
        300,
        "a first record in the spool",
    )
    said = status(life.machine)
    assert said["station"] == "school-7"
    assert not said["clock"]["synchronised"]
    life.machine.wait(lambda: "unpacking Kinto" in screen(life.machine), 300, "the progress")
    life.picture("first-boot.png")
    # Seldom: each look takes a processor from the start of Kinto, which is measured.
    life.machine.wait(
        lambda: local_records(life.machine), 600, "a first record in the local Kinto", 15
    )
    first = min(local_records(life.machine), key=lambda record: record["seq"])
    arrived = min(record["last_modified"] for record in local_records(life.machine))
    # Its own clock tells both moments; from power-on to the kernel's start is a second or two.
    received_ms = int(life.machine.python(
        "import datetime as d,sys;print(int(d.datetime.fromisoformat("
        "sys.argv[1].replace('Z','+00:00')).timestamp()*1000))", first["received_at"]
    ))  # fmt: skip
    waited = (arrived - received_ms) / 1000
    figure(f"power-on to first record in the spool: {first['uptime']:.0f} s of uptime")
    figure(f"power-on to first record in local Kinto: {first['uptime'] + waited:.0f} s of uptime")
    assert waited > 0, "the spool must not wait for Kinto"
    figure(f"units' first words, seconds of uptime: {life.machine.python(_TELL).strip()}")
    assert satellite.running()
    satellite.end(signal.SIGTERM)


def test_2_every_package_is_in_the_local_kinto_once(life: Life) -> None:
    life.machine.wait(lambda: drained(life.machine), 180, "nothing to be pending", 3)
    verdict = life.verdict()
    assert verdict.good, verdict.reason()
    assert verdict.sent >= 5
    assert {record["clock"] for record in local_records(life.machine)} == {"unsynced"}
    exported = life.machine.run("sudo unisat-agent spool export --format jsonl 2>/dev/null")
    assert len(exported.splitlines()) >= verdict.sent


def test_3_the_station_is_well(life: Life) -> None:
    life.machine.run("systemctl is-system-running --wait", 600, check=False)
    assert life.machine.run("systemctl --failed --no-legend --plain").strip() == ""
    for line in life.machine.run("ss -H -n -l -t -u").splitlines():
        address, _, port = line.split()[4].rpartition(":")
        loopback = address.split("%")[0].strip("[]").startswith(("127.", "::1"))
        # avahi asks from ports of its own; the firewall closes all but these.
        assert loopback or int(port) in ALLOWED_PORTS or line.startswith("udp"), line
    assert life.machine.run("tail -n +2 /proc/swaps | grep -v zram", check=False) == ""
    assert "noatime" in life.machine.run("findmnt -no OPTIONS /")
    # The name of the UART on a Pi's pins; here is none.
    life.machine.run("test ! -e /dev/serial0")
    assert "UniSat station school-7" in screen(life.machine)
    life.picture("station.png")


def test_4_the_card_is_grown_and_has_its_own_identity(life: Life) -> None:
    size = int(life.machine.run("df --output=size -B1 / | tail -n 1"))
    assert size > 0.8 * CARD_BYTES
    assert len(life.machine.run("cat /etc/machine-id").strip()) == 32
    assert life.machine.run("ls /etc/ssh/ssh_host_*_key").split()
    modes = life.machine.run("sudo find /var/lib/unisat-station/secrets -type f -printf '%m '")
    assert set(modes.split()) == {"600"}


def test_5_the_password_is_scrubbed_from_the_card(life: Life) -> None:
    life.machine.power_off()
    text = life.card.read("unisat.toml")
    assert PASSWORD not in text
    assert "(taken over)" in text
    assert "unisat-errors.txt" not in life.card.names()
    assert PASSWORD.encode() not in life.card.read_root("/etc/shadow")
    assert sum(one.length for one in partitions(life.card.path)) > 0.9 * CARD_BYTES


def test_6_with_a_network_the_hub_gets_everything_once(
    life: Life, hub: Kinto, ssh_key: Path
) -> None:
    hub.provision_hub(HUB_ACCOUNT, HUB_PASSWORD, [life.device(1), life.device(2)])
    key = ssh_key.with_suffix(".pub").read_text().strip()
    station = {"name": "school-7", "devices": []}
    settings = toml("(taken over)", keys=[key], station=station, hub=hub_table(HUB_PASSWORD))
    write_settings(life.card, settings)
    life.machine.power_on(hub.port)
    satellite = life.satellite()
    life.machine.log_in("pi", PASSWORD)
    life.machine.wait(
        lambda: status(life.machine).get("spool", {}).get("last_seq", 0) > 5, 300, "records"
    )
    set_clock(life.machine)
    life.machine.wait(
        lambda: len(read_records(hub.client(), [life.device(2)])) >= 5, 600, "records on the hub"
    )
    satellite.end(signal.SIGTERM)
    life.machine.wait(lambda: drained(life.machine), 300, "nothing to be pending", 3)
    there = read_records(hub.client(), [life.device(1), life.device(2)])
    verdict = life.verdict(there)
    assert verdict.good, verdict.reason()
    figure(f"no network, then a hub: {verdict}")
    # Of this boot all are corrected or synced. Of the boot before nobody can know the time.
    clocks = {record["clock"] for record in there if record["devID"] == life.device(2)}
    assert clocks <= {"corrected", "synced"}
    assert "corrected" in clocks


def test_7_ssh_opens_with_the_key_and_not_with_another(
    life: Life, ssh_key: Path, tmp_path: Path
) -> None:
    done = life.machine.ssh(ssh_key, "sudo unisat-agent status")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "school-7" in done.stdout
    assert "passwordauthentication yes" in life.machine.run("sudo sshd -T")
    refused = life.machine.ssh(new_key(tmp_path), "true")
    assert refused.returncode == 255
    assert "Permission denied" in refused.stderr


def test_7_the_documented_commands_work_as_they_are_written(life: Life) -> None:
    for command in COMMANDS:
        done = life.machine.attempt(f"sudo unisat-agent {command}")
        # A finding: nothing is plugged in now.
        found = int(command.split()[0] in {"check", "ports"})
        assert done.code in {0, found}, f"{command}: exit {done.code}\n{done.output}"
        assert "no password" not in done.output, command
    assert "intact" in life.machine.run("sudo unisat-agent spool check")
    compared = life.machine.run("sudo unisat-agent reconcile")
    assert "0 missing on the hub, 0 missing in the local Kinto" in compared


def test_7_the_page_shows_what_the_satellite_sent(life: Life) -> None:
    page = f"http://127.0.0.1:{life.machine.page_port}"

    assert requests.get(f"{page}/status", timeout=60).json()["station"] == "school-7"
    records = f"{page}/v1/buckets/telemetry/collections/{life.device(2)}/records?_limit=1"
    assert requests.get(records, timeout=60).json()["data"], "it can't read the local Kinto"
    dom = browse(page, Path(os.environ.get("UNISAT_PICTURES", life.directory)) / "page.png")
    for shown in ("school-7", life.device(2)):
        assert shown in dom


def test_8_a_bad_file_is_explained_and_data_is_taken(life: Life, hub: Kinto) -> None:
    life.machine.power_off()
    lines = ["[station]", 'name = "school-8"', "[serial]", 'baud = "quick"', "[hub]", 'urk = "x"']
    write_settings(life.card, "\n".join([*lines, ""]))
    hub.provision_hub(HUB_ACCOUNT, HUB_PASSWORD, [life.device(3)])
    life.machine.power_on()
    satellite = life.satellite()
    life.machine.log_in("pi", PASSWORD)  # a mistake elsewhere keeps the password
    life.machine.wait(
        lambda: (status(life.machine).get("last_record") or {}).get("devID") == life.device(3),
        300, "a record in spite of the bad file",
    )  # fmt: skip
    problems = " ".join(status(life.machine)["problems"])
    assert "baud" in problems
    assert status(life.machine)["station"] == "school-8"
    assert "[serial] baud" in screen(life.machine)
    assert life.machine.console.find("baud"), "the serial console does not tell the mistake"
    life.picture("mistakes.png")
    satellite.end(signal.SIGTERM)
    life.machine.power_off()
    complaint = life.card.read("unisat-errors.txt")
    assert re.search(r"\b4\b.*baud", complaint), complaint
    assert re.search(r"\b6\b.*urk", complaint), complaint


def test_9_a_mended_file_is_applied_at_the_next_boot(life: Life, hub: Kinto) -> None:
    station = {"name": "school-9", "devices": [], "timezone": "Asia/Almaty"}
    settings = toml("(taken over)", station=station, hub=hub_table("(taken over)"))
    write_settings(life.card, settings)
    life.machine.power_on(hub.port)
    life.machine.log_in("pi", PASSWORD)
    life.machine.wait(lambda: status(life.machine).get("station") == "school-9", 120, "the name")
    assert "+05" in life.machine.run("date +%:z") or "+06" in life.machine.run("date +%:z")
    set_clock(life.machine)
    life.machine.wait(lambda: drained(life.machine), 300, "nothing to be pending", 3)
    there = read_records(hub.client(), [life.device(number) for number in (1, 2, 3)])
    verdict = life.verdict(there)
    assert verdict.good, verdict.reason()
    life.machine.power_off()
    assert "unisat-errors.txt" not in life.card.names()


def test_a_boot_partition_that_comes_late_is_taken_over_all_the_same(life: Life) -> None:
    station = {"name": "school-late", "devices": [], "timezone": "Asia/Almaty"}
    write_settings(life.card, toml("(taken over)", station=station))
    life.machine.power_on(boot_is_late=True)
    life.machine.log_in("pi", PASSWORD)
    life.machine.wait(lambda: status(life.machine).get("station") == "school-9", 120, "the agent")
    assert "the boot partition is not there" in " ".join(status(life.machine)["problems"])
    life.machine.bring_boot_partition()
    life.machine.wait(
        lambda: status(life.machine).get("station") == "school-late", 120, "the late settings"
    )
    assert "boot partition" not in " ".join(status(life.machine)["problems"])
    life.machine.power_off()


def test_what_imager_set_holds_where_unisat_toml_is_silent(life: Life) -> None:
    password = secrets.token_hex(8)
    crypt = run("openssl", "passwd", "-6", password).decode().strip()
    user_data = IMAGER_USER.replace("IMAGER_HASH", crypt)
    settings = toml("", station={"name": "school-9", "timezone": "Asia/Almaty"})
    write_settings(life.card, settings)
    life.card.write("user-data", user_data)
    life.card.write("network-config", IMAGER_NETWORK)
    life.machine.power_on()
    life.machine.wait_console(r"Finished .*unisat-imager", 2 * LOGIN_S)
    life.machine.log_in("pi", password)
    assert "teacher" in life.machine.run("cat ~/.ssh/authorized_keys")
    assert life.machine.run("hostname").strip() == "school-9"
    assert "Almaty" in life.machine.run("readlink /etc/localtime")
    assert status(life.machine)["station"] == "school-9"
    assert "School" in life.machine.run("sudo grep -r ssid= /run/NetworkManager")
    assert "passwordauthentication no" in life.machine.run("sudo sshd -T")
    life.machine.reboot()
    life.machine.log_in("pi", password)
    assert life.machine.run("systemctl show --value -p ConditionResult cloud-init-main") == "no\n"
    life.machine.power_off()
    for file in ("user-data", "network-config"):
        said = life.card.read(file)
        assert crypt not in said
        assert "b9dcf1d8" not in said


def test_bytes_written_for_a_record(life: Life, hub: Kinto) -> None:
    """Between two looks at the kernel's own count, while one satellite sends at its usual pace."""
    hub.provision_hub(HUB_ACCOUNT, HUB_PASSWORD, [life.device(4)])
    settings = toml(PASSWORD, station={"devices": []}, hub=hub_table("(taken over)"))
    write_settings(life.card, settings)
    life.machine.power_on(hub.port)
    life.machine.log_in("pi", PASSWORD)
    set_clock(life.machine)
    life.machine.wait(lambda: drained(life.machine), 300, "nothing to be pending", 3)
    # What the boot itself still writes is not the records'.
    life.machine.run("systemctl is-system-running --wait; sync", 600, check=False)
    before = written(life.machine)
    satellite = life.satellite()
    life.machine.wait(
        lambda: len(read_records(hub.client(), [life.device(4)])) >= 100, 900, "100 records"
    )
    satellite.end(signal.SIGTERM)
    life.machine.wait(lambda: drained(life.machine), 300, "nothing to be pending", 3)
    life.machine.run("sync")
    records = len(local_records(life.machine, life.device(4)))
    after = written(life.machine)
    kib = {name: (count - before.get(name, 0)) / records / 1024 for name, count in after.items()}
    card = kib.pop(CARD)
    figure(f"written on the card: {card:.1f} KiB a record, at 3 s each")
    # What no process wrote is the file system's: its journal, and whole blocks for parts.
    causes = sorted((kib | {"file system": card - sum(kib.values())}).items(), key=itemgetter(1))
    figure("of it: " + ", ".join(f"{name} {one:.1f}" for name, one in causes[::-1] if one > 0.05))
    life.machine.power_off()
