"""What the tests do to a station that updates itself, and what they ask it."""

from __future__ import annotations

import datetime
import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bundles import OUT, bundle, serial

from outside import inside, run, wait_until
from station import STATION, image, release, status, stored

FLASHED = "pull-flashed"
HOSTS = (STATION, FLASHED)
STATE = "/var/lib/unisat-update/state.json"
SETTINGS = """\
[station]
name = "school-7"
devices = ["u02kz"]
timezone = "Asia/Almaty"
"""

# Runs a unit to its end, and weighs all its processes meanwhile.
WATCH = """
import json, subprocess, sys, time
from pathlib import Path

unit = sys.argv[1]

def show(*names):
    said = subprocess.run(["systemctl", "show", unit, *("--property=" + name for name in names)],
                          capture_output=True, text=True, check=True).stdout
    return dict(line.partition("=")[::2] for line in said.splitlines())

def weight(pid):
    try:
        said = Path("/proc", pid, "smaps_rollup").read_text()
    except OSError:  # it has ended
        return 0
    return next((int(l.split()[1]) for l in said.splitlines() if l.startswith("Pss:")), 0)

begin, peak = time.monotonic(), 0
subprocess.run(["systemctl", "start", unit], check=True)
while True:
    now = show("ActiveState", "SubState", "ControlGroup")
    if now["ActiveState"] in ("inactive", "failed") or now["SubState"] == "auto-restart":
        break
    try:
        pids = Path("/sys/fs/cgroup" + now["ControlGroup"], "cgroup.procs").read_text().split()
    except OSError:
        pids = []
    peak = max(peak, sum(map(weight, pids)))
    time.sleep(0.3)
print(json.dumps([time.monotonic() - begin, peak / 1024, now["SubState"]]))
"""
# Everything that a refused bundle must leave as it is.
EVERYTHING = r"""
find /etc /opt /usr/local /var/lib/unisat-update -type f ! -name state.json \
    -exec sha256sum {} + 2>/dev/null | sort -k2
find /etc /opt -type l -printf '%p %l\n' | sort
docker image ls --no-trunc --format '{{.ID}} {{.Repository}} {{.Tag}}'; docker ps --quiet
systemctl show --property=MainPID unisat-agent unisat-kinto
"""
# Kills supervisor and Ansible with no warning at a moment of an update.
CUT = """
until {moment}; do [ "$(systemctl is-active unisat-update)" != inactive ] || exit 1; sleep 0.2; done
systemctl kill --signal=KILL unisat-update
"""
# Ansible has linked the new agent, and not restarted it.
IN_THE_SWITCH = '[ "$(readlink /opt/unisat-agent/current)" != "$1" ]'
IN_THE_GATE = (
    "journalctl --output=cat _SYSTEMD_INVOCATION_ID=$(systemctl show --value"
    " --property=InvocationID unisat-update) | grep -q 'TASK .See whether it works'"
)


@dataclass(frozen=True, slots=True)
class Cost:
    """What an update took: seconds, and MB at the most of all its processes together."""

    seconds: float
    memory_mb: float


def run_unit(name: str, unit: str) -> Cost:
    """Runs one of the supervisor's units to its end."""
    seconds, peak, how = json.loads(inside(name, "python3", "-", unit, stdin=WATCH))
    journal = inside(name, "journalctl", "--unit", unit, "--output=cat", "--lines=40")
    assert how == "dead", f"{name}: {how}\n{journal}"
    return Cost(seconds, peak)


def state(name: str) -> dict[str, Any]:
    """The supervisor's own state."""
    found: dict[str, Any] = json.loads(inside(name, "cat", STATE, check=False) or "{}")
    return found


def bring(name: str, file: Path, to: str = "/root") -> str:
    """Copies a bundle to a station; returns its path there."""
    # docker cp does not see what is mounted inside.
    run("docker", "cp", str(file), f"{name}:/root/incoming")
    inside(name, "mv", "/root/incoming", f"{to}/{file.name}")
    return f"{to}/{file.name}"


def offer(name: str, path: str) -> str:
    """What the supervisor says of a bundle, in one sentence."""
    inside(name, "unisat-update", "from", path, check=False)
    return inside(name, "unisat-update", "status", check=False).strip()


def everything(name: str) -> str:
    """What a refused bundle must leave as it is."""
    return inside(name, "sh", "-c", EVERYTHING)


def runs(name: str) -> tuple[str, str, str]:
    """The versions of a station: the agent that runs, its release, and Kinto's image."""
    return str(status(name).get("version")), release(name), image(name)


def cut_update(name: str, moment: str) -> None:
    """Starts an update, and kills all of it at IN_THE_SWITCH or IN_THE_GATE."""
    old_release = release(name)
    inside(name, "systemctl", "start", "unisat-update")
    inside(name, "sh", "-c", CUT.format(moment=moment), "sh", old_release)
    found = state(name)
    assert found["phase"] == "switching", found
    assert inside(name, "ls", "/var/lib/unisat-update/before.json")


def pause_s(name: str, since: str) -> float:
    """The longest time without a record since a moment, in seconds."""
    times = sorted(
        datetime.datetime.fromisoformat(record["received_at"])
        for record in stored(name)
        if record["received_at"] > since
    )
    gaps = [(later - earlier).total_seconds() for earlier, later in itertools.pairwise(times)]
    return max(gaps)


def serve(name: str, version: str) -> None:
    """Has the station's own nginx offer a version over HTTPS, by an authority of its own."""
    run("docker", "cp", str(OUT / version / "web"), f"{name}:/srv/updates")
    inside(name, "sh", "-euc", WEB_SERVER)


WEB_SERVER = r"""
cd /srv
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost \
    -addext subjectAltName=DNS:localhost -keyout key.pem \
    -out /usr/local/share/ca-certificates/test.crt 2>/dev/null
update-ca-certificates >/dev/null 2>&1
cat >/etc/nginx/conf.d/test.conf <<'END'
server {
    listen 127.0.0.1:8443 ssl;
    ssl_certificate /usr/local/share/ca-certificates/test.crt;
    ssl_certificate_key /srv/key.pem;
    location /updates/ { root /srv; }
}
END
nginx -t 2>/dev/null
systemctl reload nginx
"""


def told(name: str) -> str:
    """What the agent's status shows."""
    return " ".join(status(name).get("problems", []))


def goes_back(name: str, version: str, before: tuple[str, str, str], why: str) -> None:
    """Checks all that has to be so after a version that did not work."""
    found = state(name)
    assert found["phase"] == "good", found
    assert found["failed"].keys() >= {str(serial(version))}, found
    assert re.search(why, found["said"]), found["said"]
    sentence = f"version {version} did not work here"
    assert found["said"].endswith("the station is back on the version before."), found["said"]
    wait_until(lambda: runs(name) == before, lambda: f"{before} runs again, not {runs(name)}")
    assert sentence in inside(name, "unisat-update", "status", check=False)
    wait_until(lambda: sentence in told(name), "the agent's status shows it", 30)
    left = inside(name, "ls", "-A", "/var/lib/unisat-update").split()
    assert sorted(left) == ["incoming", "releases", "state.json"]
    # Nor is it tried again.
    unchanged = everything(name)
    path = bring(name, bundle(version))
    assert f"is not taken again: {sentence}" in offer(name, path)
    inside(name, "rm", path)
    assert everything(name) == unchanged
    assert inside(name, "systemctl", "--failed", "--no-legend", "--plain") == ""
