"""A booted station as the tests ask it: status, records, ports, and the operator's steps."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from card import Card, run
from machine import HUB_ADDRESS, HUB_PORT, Machine, MachineError

DEVICE = "u01kz"
HUB_ACCOUNT = "unisat-test"

_STATUS = """
import urllib.request
print(urllib.request.urlopen("http://127.0.0.1:8890/status", timeout=10).read().decode())
"""
_RECORDS = """
import base64, json, sys, urllib.request
password = open("/etc/unisat-agent/credentials/local.password").read().strip()
basic = "Basic " + base64.b64encode(f"agent:{password}".encode()).decode()
url = ("http://127.0.0.1:8888/v1/buckets/telemetry/collections/%s/records?_limit=1000"
       % sys.argv[1])
found = []
while url:
    request = urllib.request.Request(url, headers={"Authorization": basic})
    with urllib.request.urlopen(request, timeout=60) as answer:
        found += json.load(answer)["data"]
        url = answer.headers.get("Next-Page")
print(json.dumps(found))
"""
# What NTP does once it has found the time: the network of the tests has no time server in it.
_SET_CLOCK = """
import ctypes, sys, time
time.clock_settime(time.CLOCK_REALTIME, float(sys.argv[1]))
libc, timex = ctypes.CDLL(None, use_errno=True), ctypes.create_string_buffer(208)
# Status and both errors are 0: with errors as after a start, the kernel itself takes it back.
ctypes.c_uint.from_buffer(timex, 0).value = 0x0010 | 0x0004 | 0x0008
assert libc.adjtimex(timex) >= 0, ctypes.get_errno()
"""
# Tells on the console which package was committed last, until the power goes.
_WITNESS = """
import json, sys, time, urllib.request
while True:
    with urllib.request.urlopen("http://127.0.0.1:8890/status", timeout=10) as answer:
        seen = json.load(answer)["spool"]["last_seq"]
    print(f"COMMITTED={seen};", file=open("/dev/ttyAMA0", "w"), flush=True)
    time.sleep(0.5)
"""
# The card, and by process: what was handed on to the file system.
CARD = "the card"
_WRITTEN = f"""
import collections, json, pathlib
found = collections.Counter()
fields = next(l.split() for l in open("/proc/diskstats") if l.split()[2] == "vda")
found["{CARD}"] = int(fields[9]) * 512
for io in pathlib.Path("/proc").glob("[0-9]*/io"):
    try:
        name = (io.parent / "comm").read_text().strip()
        counts = dict(line.split(": ") for line in io.read_text().splitlines())
    except OSError:
        continue
    found[name] += int(counts["write_bytes"]) - int(counts["cancelled_write_bytes"])
print(json.dumps(found))
"""
# As Raspberry Pi Imager 2 writes them.
IMAGER_USER = """#cloud-config
manage_resolv_conf: false

hostname: imager
manage_etc_hosts: true
packages:
- avahi-daemon
apt:
  preserve_sources_list: true
  conf: |
    Acquire {
      Check-Date "false";
    };
timezone: Europe/London
keyboard:
  model: pc105
  layout: "gb"
user:
  name: pi
  shell: /bin/bash
  lock_passwd: false
  passwd: "IMAGER_HASH"
  ssh_authorized_keys:
    - "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIJCcjmYlLbVRqgTBSLhKN5pWQXC3Lg9tjYZfHkPDPzD teacher"
  sudo: null

ssh_pwauth: false

runcmd:
  - [ systemctl, enable, --now, ssh ]
"""
IMAGER_NETWORK = """network:
  version: 2
  ethernets:
    eth0:
      dhcp4: true
      dhcp6: true
      optional: true
  wifis:
    wlan0:
      dhcp4: true
      regulatory-domain: "KZ"
      access-points:
        "School":
          password: "b9dcf1d8cc3a5e9c6b4d2f1a7e8093b6b9dcf1d8cc3a5e9c6b4d2f1a7e8093b6"
      optional: true
"""


def toml(password: str, *, keys: Iterable[str] = (), **tables: dict[str, Any]) -> str:
    """An `unisat.toml` as a person fills it in."""
    access = {"password": password, "ssh_keys": list(keys)}
    # JSON's strings, numbers and lists of strings are TOML's as well.
    return "\n".join(
        f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
        for name, table in ({"access": access} | tables).items()
    )


def hub_table(password: str) -> dict[str, Any]:
    """The [hub] that a machine with a network reaches."""
    url = f"http://{HUB_ADDRESS}:{HUB_PORT}/v1"
    return {"url": url, "user": HUB_ACCOUNT, "password": password}


def status(machine: Machine) -> dict[str, Any]:
    """The agent's /status; empty while it does not answer."""
    try:
        said: dict[str, Any] = json.loads(machine.python(_STATUS))
    except (MachineError, ValueError):
        return {}
    return said


def local_records(machine: Machine, device: str = DEVICE) -> list[dict[str, Any]]:
    """The records of a device in the local Kinto; none while it does not answer."""
    try:
        said: list[dict[str, Any]] = json.loads(machine.python(_RECORDS, device))
    except (MachineError, ValueError):
        return []
    return said


def screen(machine: Machine) -> str:
    """The text on the screen, without its line breaks."""
    return machine.run("sudo cat /dev/vcs1")


def written(machine: Machine) -> dict[str, int]:
    """Bytes written since the start: on the card, and by each name of a process."""
    counts: dict[str, int] = json.loads(machine.python(_WRITTEN))
    return counts


def browse(page: str, picture: Path) -> str:
    """What a person's browser makes of a page, at the size of a laptop; and a picture of it."""
    words = ["chromium", "--headless", "--no-sandbox", "--hide-scrollbars", "--lang=en"]
    words += ["--window-size=1280,1000", "--virtual-time-budget=20000"]
    run(*words, f"--screenshot={picture.resolve()}", page)
    return run(*words, "--dump-dom", page).decode()


def set_clock(machine: Machine) -> None:
    """Sets the clock right and says so to the kernel, as NTP would.

    chrony, which has nobody to ask in the network of the tests, would take the word back.
    """
    machine.run("sudo systemctl stop chrony")
    machine.python(_SET_CLOCK, str(time.time()))


def start_witness(machine: Machine) -> None:
    """Has the last committed seq told on the console twice a second."""
    file = Path("/run/witness.py")
    # The script holds no single quote.
    machine.run(f"printf %s '{_WITNESS.strip()}' | sudo tee {file} >/dev/null")
    machine.run(f"sudo systemd-run --quiet --property=Restart=always python3 {file}")


def witnessed(machine: Machine) -> int:
    """The highest seq that the witness has told since the power came; 0 before."""
    told = machine.console.text().split("COMMITTED=")[1:]
    whole = [piece.partition(";") for piece in told]
    return max((int(word) for word, end, _ in whole if end and word.isdecimal()), default=0)


def write_settings(card: Card, text: str) -> None:
    """Edits the file on the boot partition; the power must be off."""
    card.write("unisat.toml", text)
