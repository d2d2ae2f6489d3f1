"""Ansible module: how a publisher or a hub is, read off the host itself."""

from __future__ import annotations

import configparser
import contextlib
import datetime
import json
import re
import shutil
import sqlite3
import subprocess
import time
import tomllib
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: station_status
short_description: How a publisher or a hub is
description:
  - Asks the agent and Kinto of this host, at the addresses that their own configuration names.
  - With O(wait_s) it waits until the station is as the other options say, and fails when it is not.
options:
  wait_s: {description: Seconds to wait; 0 only looks., type: int, default: 0}
  agent: {description: Whether an agent belongs here; a hub has none., type: bool, default: true}
  flow:
    description:
      - Wait for a new record at each of these places; V(device) is the way from there to the spool.
    type: list
    elements: str
    choices: [device, local, hub]
    default: []
  worst:
    description: The worst health that will do.
    type: str
    choices: [ok, degraded, failed]
    default: degraded
author: UniSat
"""

EXAMPLES = r"""
- name: Wait until records flow again
  station_status:
    wait_s: 180
    flow: [device, local]
"""

RETURN = r"""
wrong:
  description: What is not as it should be, one sentence; empty when all is well.
  type: str
  returned: always
flowing:
  description: Whether a record came in during the last minute.
  type: bool
  returned: always
spool:
  description: The path of the agent's spool, and the version of its schema; null without a spool.
  type: dict
  returned: always
"""

AGENT_TOML = Path("/etc/unisat-agent/agent.toml")
KINTO_INI = Path("/etc/unisat-kinto/kinto.ini")
KINTO_UNIT = Path("/etc/systemd/system/unisat-kinto.service")
CURRENT = Path("/opt/unisat-agent/current")
REBOOT_REQUIRED = Path("/run/reboot-required")
REBOOT_DUE = "an update takes effect with the next reboot: sudo reboot, when it suits"
# Debian's security updates come to the host daily, and to Kinto's container with a new image alone.
IMAGE_DAYS = 60
SINKS = ("local", "hub")
HEALTHS = ("ok", "degraded", "failed")
FLOW_S = 60
# A unit that was restarted so often while it is looked at will not come up by waiting.
RESTARTS_MAX = 3
MB = 1024 * 1024


def fetch(url: str) -> tuple[int, Any]:
    """Status and JSON of an answer; status 0 and the reason where there is none."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - always http:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            try:
                return error.code, json.load(error)
            except ValueError:
                return error.code, None
    except (OSError, ValueError) as error:
        return 0, str(getattr(error, "reason", error))


def kinto_url() -> str:
    """Where Kinto listens, by its own configuration."""
    ini = configparser.RawConfigParser()
    ini.read(KINTO_INI)
    server = ini["server:main"] if ini.has_section("server:main") else {}
    host = server.get("host", "127.0.0.1")
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # noqa: S104 - compared only
    return f"http://{host}:{server.get('port', '8888')}/v1"


def agent_setting(table: str, key: str, default: str) -> str:
    """A setting of the agent, by its own configuration."""
    settings = tomllib.loads(AGENT_TOML.read_text()) if AGENT_TOML.exists() else {}
    return str(settings.get(table, {}).get(key, default))


def spool() -> dict[str, Any] | None:
    """Where the spool is, and which schema it has; also while no agent runs."""
    path = agent_setting("spool", "path", "/var/lib/unisat-agent/spool.db")
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            ((schema,),) = db.execute("PRAGMA user_version").fetchall()
    except sqlite3.Error:
        return None
    return {"path": path, "schema": schema}


def output(*command: str) -> str:
    """What a command prints; nothing where it is not installed or fails."""
    if shutil.which(command[0]) is None:
        return ""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def restarts(agent: bool) -> int:
    """How often systemd restarted the services by itself."""
    units = ["unisat-kinto", "unisat-agent"] if agent else ["unisat-kinto"]
    found = output("systemctl", "show", "--property=NRestarts", *units)
    return sum(int(number) for number in re.findall(r"=(\d+)", found))


def image_note(engine: str, image: str, today: datetime.date) -> str:
    """What there is to say of the age of Debian's Python and libc in Kinto's image; empty if new.

    Args:
        engine: docker or podman.
        image: Its name.
        today: The present date.
    """
    made = output(engine, "image", "inspect", "--format", "{{json .Created}}", image).strip('"')
    with contextlib.suppress(ValueError):
        days = (today - datetime.date.fromisoformat(made[:10])).days
        if days > IMAGE_DAYS:
            return (
                f"Kinto's container was built {days} days ago, and has Debian's security updates "
                f"of then: set kinto_image_revision to {today} in the inventory and run update.yml"
            )
    return ""


def undervoltage() -> str:
    """What the Raspberry Pi's firmware says of its power; empty on other machines."""
    found = re.search(r"0x([0-9a-f]+)", output("vcgencmd", "get_throttled"))
    if found is None:
        return ""
    bits = int(found[1], 16)
    return "now" if bits & 1 else "was" if bits & 1 << 16 else "no"


def is_recent(record: dict[str, Any] | None) -> bool:
    """Whether a record came in just now, by the time since boot: the clock may be wrong."""
    if record is None:
        return False
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    uptime_s = float(Path("/proc/uptime").read_text().split()[0])
    return bool(record["boot_id"] == boot_id and uptime_s - record["uptime"] < FLOW_S)


def look(agent: bool) -> dict[str, Any]:
    """How the station is at this moment."""
    kinto_status, kinto = fetch(f"{kinto_url()}/__heartbeat__")
    unit = KINTO_UNIT.read_text() if KINTO_UNIT.exists() else ""
    image = re.search(r"unisat-kinto:\S+", unit)
    engine = "podman" if "/podman run" in unit else "docker"
    disk = shutil.disk_usage("/var/lib")
    today = datetime.datetime.now(datetime.UTC).date()
    notes = [
        REBOOT_DUE if REBOOT_REQUIRED.exists() else "",
        image_note(engine, image[0], today) if image else "",
    ]
    found: dict[str, Any] = {
        "kinto": kinto_status == 200,
        "kinto_detail": "" if kinto_status == 200 else f"Kinto does not answer: {kinto}",
        "kinto_version": (fetch(f"{kinto_url()}/")[1] or {}).get("project_version", "")
        if kinto_status
        else "",
        "kinto_image": image[0] if image else "",
        "release": CURRENT.readlink().name if CURRENT.is_symlink() else "",
        "disk_free_mb": disk.free // MB,
        "disk_free_percent": 100 * disk.free // disk.total,
        "undervoltage": undervoltage(),
        "flowing": False,
        "spool": spool() if agent else None,
        "notes": [note for note in notes if note],
    }
    if not agent:
        found["health"] = "ok" if found["kinto"] else "failed"
        found["problems"] = [found["kinto_detail"]] if found["kinto_detail"] else []
        return found
    status, said = fetch(f"http://{agent_setting('status', 'listen', '127.0.0.1:8890')}/status")
    if status != 200 or not isinstance(said, dict):
        found["health"] = "failed"
        found["problems"] = [f"the agent does not answer: {said}"]
        return found
    return found | {
        "health": said["health"],
        "problems": said["problems"],
        "version": said["version"],
        "clock_synchronised": said["clock"]["synchronised"],
        "seen": {
            "device": said["spool"]["last_seq"],
            **{name: sink["acked"] for name, sink in said["sinks"].items()},
        },
        "last_record": said["last_record"],
        "flowing": is_recent(said["last_record"]),
        "pending": {name: sink["pending"] for name, sink in said["sinks"].items()},
        "delivering": [n for n, sink in said["sinks"].items() if sink["state"] == "delivering"],
    }


def lacking(found: dict[str, Any], wanted: dict[str, Any], seen: dict[str, int]) -> str:
    """The first thing that is not as wanted; `seen` keeps the counts of the first look."""
    if not found["kinto"]:
        return str(found["kinto_detail"])
    if not wanted["agent"]:
        return ""
    if "version" not in found:
        return str(found["problems"][0])
    running = found["version"].partition("+")[2]
    if running and found["release"] and running != found["release"]:
        return f"the agent that runs is still {running}, and not {found['release']}"
    if HEALTHS.index(found["health"]) > HEALTHS.index(wanted["worst"]):
        return f"the agent's health is {found['health']}: {'; '.join(found['problems'])}"
    for name in wanted["flow"]:
        count = found["seen"].get(name, 0)
        # Fewer than before: the agent was started anew and counts from nothing.
        seen[name] = min(seen.get(name, count), count)
        if count == seen[name]:
            return "no record came in" if name == "device" else f"{name} acknowledged no record"
    return ""


def main() -> None:
    """Looks, and waits where it was asked to."""
    module = AnsibleModule(
        argument_spec={
            "wait_s": {"type": "int", "default": 0},
            "agent": {"type": "bool", "default": True},
            "flow": {
                "type": "list",
                "elements": "str",
                "choices": ["device", *SINKS],
                "default": [],
            },
            "worst": {"choices": list(HEALTHS), "default": "degraded"},
        },
        supports_check_mode=True,
    )
    wanted = module.params
    wait_s = 0 if module.check_mode else wanted["wait_s"]
    begin, begun_with = time.monotonic(), restarts(wanted["agent"])
    seen: dict[str, int] = {}
    while True:
        found = look(wanted["agent"])
        wrong = lacking(found, wanted, seen)
        if not wrong or not wait_s:
            module.exit_json(changed=False, wrong=wrong, **found)
        if restarts(wanted["agent"]) - begun_with >= RESTARTS_MAX:
            module.fail_json(msg=f"a service restarts again and again; {wrong}", **found)
        if time.monotonic() - begin > wait_s:
            module.fail_json(msg=f"{wrong} within {wait_s} s", **found)
        time.sleep(1)


if __name__ == "__main__":
    main()
