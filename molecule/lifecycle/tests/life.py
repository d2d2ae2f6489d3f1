"""What the tests of a station's life share: its playbooks, its records, other versions of it."""
# ruff: noqa: S608 - the queries are the tests' own

from __future__ import annotations

import gzip
import io
import json
import os
import re
import shutil
import tarfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import outside
from outside import BUILD, INVENTORY, PROJECT, inside, run, wait_until

STATION, OLD, GONE = "lifecycle-station", "lifecycle-old", "lifecycle-gone"
DEVICE = "u01kz"
DEVICES = {STATION: DEVICE, OLD: "u09kz"}
OLD_RECORDS = 20_000
LATER = f"{PROJECT}/molecule/lifecycle/inventory/later.yml"
KEPT = BUILD / "lifecycle"


def play(name: str, *options: str, check: bool = True, note: str = "") -> str:
    """Run one of the fleet's playbooks; how long it took is kept for the summary."""
    begin = time.monotonic()
    said = run(
        *("ansible-playbook", "--inventory", INVENTORY, *options),
        f"{PROJECT}/playbooks/{name}.yml",
        check=check,
    )
    print(said)
    outside.note(f"{name}.yml{note}: {time.monotonic() - begin:.0f} s")
    return said


def sentences(said: str) -> str:
    """What a playbook says, as it was before Ansible wrapped it."""
    return " ".join(said.split())


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


def release() -> str:
    return inside(STATION, "readlink", "/opt/unisat-agent/current").strip()


def image(name: str = STATION) -> str:
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
connection = psycopg2.connect("dbname=kinto user=kinto host=/run/postgresql password={password}")
cursor = connection.cursor()
cursor.execute({query!r})
print(json.dumps(cursor.fetchall(), default=str))
"""


def ask(name: str, query: str) -> list[list[Any]]:
    """Rows of a host's database."""
    password = (KEPT / "secrets" / name / "kinto_database_password").read_text().strip()
    script = ASK.format(password=password, query=query)
    rows: list[list[Any]] = json.loads(inside(name, "python3", "-", stdin=script))
    return rows


def everything(name: str) -> list[list[Any]]:
    """All objects in a database, with their content and times."""
    return ask(
        name,
        "SELECT resource_name, parent_id, id, last_modified, deleted, data FROM objects"
        " ORDER BY 1, 2, 3",
    )


def stored(name: str = STATION) -> list[dict[str, Any]]:
    """The station's records of its device."""
    where = f"/buckets/telemetry/collections/{DEVICES[name]}"
    return [
        data
        for (data,) in ask(
            name,
            f"SELECT data FROM objects WHERE resource_name = 'record' AND parent_id = '{where}'",
        )
    ]


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
        assert max(numbers.values()) == 1
        for fields in wanted:
            same = [record for record in found if fields.items() <= record.items()]
            assert len(same) == 1, f"{len(same)} times: {fields}"
    finally:
        inside(name, "systemctl", "start", "satellite")
    return len(wanted)


def newest_backup() -> Path:
    return max((KEPT / "backups" / STATION).glob("*Z"))


def other_agent(name: str, version: str, **more: str) -> str:
    """The option that rolls another agent out: this one with another version.

    Args:
        name: Of the folder that it is made in.
        version: Its own.
        more: Code to append to modules of it, by their names with an underscore for each dot.
    """
    folder = KEPT / name
    shutil.copytree(
        PROJECT / "agent",
        folder,
        ignore=shutil.ignore_patterns("build", "*cache*", "*.egg-info", "tests"),
    )
    project = folder / "pyproject.toml"
    text = project.read_text()
    project.write_text(
        re.sub(r'^version = ".*"', f'version = "{version}"', text, flags=re.MULTILINE)
    )
    for module, code in more.items():
        with (folder / "src/unisat_agent" / f"{module.replace('_', '/')}.py").open("a") as file:
            file.write(code)
    return f"--extra-vars=__agent_source={folder}"


def other_image(tag: str) -> str:
    """The option that rolls another image out: this one under another name."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    file = KEPT / f"kinto-{tag}.tar.gz"
    with (
        tarfile.open(PROJECT / "build" / f"kinto-{machine}.tar.gz") as old,
        gzip.open(file, "wb", compresslevel=1) as packed,
        tarfile.open(fileobj=packed, mode="w|") as new,
    ):
        for member in old:
            content = old.extractfile(member)
            data = content.read() if content else b""
            if member.name == "manifest.json":
                (manifest,) = json.loads(data)
                data = json.dumps([{**manifest, "RepoTags": [f"unisat-kinto:{tag}"]}]).encode()
                member.size = len(data)
            if member.name not in {"repositories", "index.json"}:
                new.addfile(member, io.BytesIO(data))
    return f"--extra-vars=kinto_image_archive={file}"
