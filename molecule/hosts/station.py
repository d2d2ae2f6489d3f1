"""A station as the tests of several scenarios ask it: status, versions, records; and flashed."""

from __future__ import annotations

import json
import os
from collections import Counter
from typing import Any

from outside import BUILD, PROJECT, inside, run, wait_until

SCENARIO = os.environ["MOLECULE_SCENARIO_NAME"]
STATION = f"{SCENARIO}-station"
KEPT = BUILD / SCENARIO


def status(name: str = STATION) -> dict[str, Any]:
    """What the station's agent says of itself; empty while it does not answer."""
    said = inside(name, "unisat-agent", "status", "--json", check=False)
    return json.loads(said) if said.startswith("{") else {}


def well(name: str = STATION) -> None:
    """Waits until the station has nothing to complain of."""
    wait_until(
        lambda: status(name).get("health") == "ok",
        lambda: f"the station is well: {status(name).get('problems')}",
    )


def release(name: str = STATION) -> str:
    """The agent's release that the link names."""
    return inside(name, "readlink", "/opt/unisat-agent/current").strip()


def image(name: str = STATION) -> str:
    """Kinto's image."""
    # There is none for a moment while another takes its place.
    return inside(
        name, "docker", "inspect", "--format", "{{.Config.Image}}", "unisat-kinto", check=False
    ).strip()


def sent(name: str = STATION) -> list[dict[str, Any]]:
    """What the satellite has sent and must have been stored."""
    last: dict[tuple[str, int], dict[str, Any]] = {}
    journals = "grep -sH '' /var/lib/satellite/*.journal || true"
    for line in inside(name, "sh", "-c", journals).splitlines():
        file, _, entry = line.partition(":")
        # A later line about a package takes an earlier one back.
        last[file, json.loads(entry)["packet"]] = json.loads(entry)
    return [entry for entry in last.values() if entry["expected"]]


# psycopg2 itself: what the database holds, whatever Kinto says of it.
ASK = """
import json, psycopg2
password = open("/var/lib/unisat-station/secrets/kinto_database_password").read().strip()
connection = psycopg2.connect(
    dbname="kinto", user="kinto", host="/run/postgresql", password=password)
cursor = connection.cursor()
cursor.execute({query!r})
print(json.dumps(cursor.fetchall(), default=str))
"""


def ask(name: str, query: str) -> list[list[Any]]:
    """Rows of a host's database."""
    rows: list[list[Any]] = json.loads(inside(name, "python3", "-", stdin=ASK.format(query=query)))
    return rows


def everything(name: str) -> list[list[Any]]:
    """All objects in a database, with their content and times."""
    return ask(
        name,
        "SELECT resource_name, parent_id, id, last_modified, deleted, data FROM objects"
        " ORDER BY 1, 2, 3",
    )


def stored(name: str = STATION) -> list[dict[str, Any]]:
    """The station's records."""
    rows = ask(
        name,
        "SELECT data FROM objects WHERE resource_name = 'record' AND NOT deleted"
        " AND parent_id LIKE '/buckets/telemetry/collections/%'",
    )
    return [data for (data,) in rows]


def judge(name: str = STATION) -> int:
    """Compare what the satellite sent with what the station holds; return how many that were."""
    inside(name, "systemctl", "stop", "satellite")
    try:
        wait_until(
            lambda: status(name).get("sinks", {}).get("local", {}).get("pending") == 0,
            "all is delivered",
        )
        found = stored(name)
        wanted = [entry["fields"] for entry in sent(name)]
        numbers = Counter((record["epoch"], record["seq"]) for record in found)
        twice = [number for number, times in numbers.items() if times > 1]
        if twice:
            raise AssertionError(f"stored more than once: {twice}")
        for fields in wanted:
            same = [record for record in found if fields.items() <= record.items()]
            if len(same) != 1:
                raise AssertionError(f"{len(same)} times: {fields}")
    finally:
        inside(name, "systemctl", "start", "satellite")
    return len(wanted)


# What a flashed card is after its first boot, with passwords that no controller knows.
FLASH = """
set -eu
# The container's engine mounts them, and a mount cannot be replaced.
cp /etc/hostname /etc/hosts /tmp/
umount /etc/hostname /etc/hosts
cp /tmp/hostname /tmp/hosts /etc/
systemctl stop satellite unisat-agent unisat-kinto
su postgres -c "psql --quiet --command 'drop database kinto' --command 'drop role kinto'"
rm -rf /etc/unisat-agent/credentials /etc/unisat-kinto/secrets.env
rm -rf /var/lib/unisat-agent/* /var/lib/satellite/*
# The image brings what site.yml knew of it.
find /var/lib/unisat-station -mindepth 1 ! -name inventory.json -delete
cat >/usr/local/sbin/unisat-station <<'END'
#!/bin/sh
cd /usr/local/lib/unisat-station && exec python3 -B -m unisat_station "$@"
END
chmod 755 /usr/local/sbin/unisat-station
cp /etc/unisat-agent/agent.toml /usr/local/lib/unisat-station/
mkdir -p /boot/firmware
mount --types tmpfs tmpfs /boot/firmware
cat >/boot/firmware/unisat.toml
unisat-station settings
unisat-station first-boot
systemctl start unisat-agent satellite
"""


def flash(name: str, settings: str) -> None:
    """Makes a host what a flashed card is after its first boot.

    Args:
        name: A station that site.yml made.
        settings: The text of unisat.toml.
    """
    library = "/usr/local/lib/unisat-station"
    inside(name, "mkdir", "-p", library)
    for file in ("unisat_station", "unisat.toml"):
        run("docker", "cp", f"{PROJECT}/roles/station/files/{file}", f"{name}:{library}/")
    inside(name, "sh", "-c", FLASH, stdin=settings)
