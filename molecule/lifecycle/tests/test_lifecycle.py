"""A station's life after its first day, in its order: each test goes on from the one before."""
# ruff: noqa: S608 - the queries are the tests' own

from __future__ import annotations

import gzip
import io
import json
import os
import re
import shutil
import stat
import tarfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import outside
from outside import BUILD, INVENTORY, PROJECT, inside, run, wait_until

STATION, OLD, GONE = "lifecycle-station", "lifecycle-old", "lifecycle-gone"
DEVICE = "u01kz"
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


def status() -> dict[str, Any]:
    """What the station's agent says of itself; empty while it does not answer."""
    said = inside(STATION, "unisat-agent", "status", "--json", check=False)
    return json.loads(said) if said.startswith("{") else {}


def release() -> str:
    return inside(STATION, "readlink", "/opt/unisat-agent/current").strip()


def image(name: str = STATION) -> str:
    return inside(
        name, "docker", "inspect", "--format", "{{.Config.Image}}", "unisat-kinto"
    ).strip()


def sent() -> list[dict[str, Any]]:
    """What the satellite has sent and must have been stored."""
    last: dict[tuple[str, int], dict[str, Any]] = {}
    for line in inside(STATION, "sh", "-c", "grep -H '' /var/lib/satellite/*.journal").splitlines():
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


def stored() -> list[dict[str, Any]]:
    """The station's records of its device."""
    where = f"/buckets/telemetry/collections/{DEVICE}"
    return [
        data
        for (data,) in ask(
            STATION,
            f"SELECT data FROM objects WHERE resource_name = 'record' AND parent_id = '{where}'",
        )
    ]


def judge() -> int:
    """Compare what the satellite sent with what the station holds; return how many that were."""
    inside(STATION, "systemctl", "stop", "satellite")
    try:
        wait_until(
            lambda: status().get("sinks", {}).get("local", {}).get("pending") == 0,
            "all is delivered",
        )
        found = stored()
        wanted = [entry["fields"] for entry in sent()]
        numbers = Counter((record["epoch"], record["seq"]) for record in found)
        assert max(numbers.values()) == 1
        for fields in wanted:
            same = [record for record in found if fields.items() <= record.items()]
            assert len(same) == 1, f"{len(same)} times: {fields}"
    finally:
        inside(STATION, "systemctl", "start", "satellite")
    return len(wanted)


def newest_backup() -> Path:
    return max((KEPT / "backups" / STATION).glob("*Z"))


def other_agent(name: str, version: str, more: str = "") -> str:
    """The option that rolls another agent out: this one with another version and more code."""
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
    with (folder / "src/unisat_agent/cli.py").open("a") as file:
        file.write(more)
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


def test_an_interrupted_installation_was_finished() -> None:
    """prepare.yml left it half done, and site.yml has been run since."""
    assert inside(STATION, "dpkg", "--audit") == ""
    left = "ls /var/lib/dpkg/updates; ls /usr/sbin | grep policy-rc.d || true"
    assert inside(STATION, "sh", "-c", left) == ""
    for service in ("memcached", "postgresql@15-main"):
        inside(STATION, "systemctl", "is-active", service)
    query = "psql --tuples-only --no-align --command 'show data_checksums'"
    assert inside(STATION, "su", "postgres", "-c", query).strip() == "on"


def test_a_backup_holds_everything_and_is_private() -> None:
    wait_until(lambda: len(sent()) >= 3 and stored(), "some packages were sent")
    before = len(stored())
    said = play("backup")
    folder = newest_backup()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert before <= manifest["content"]["record"]["count"] <= len(stored())
    assert {path.name for path in folder.iterdir()} == {
        *("database.dump", "spool.db", "configuration.tar.gz", "manifest.json", "secrets")
    }
    for path in (KEPT / "backups").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    for secret in (KEPT / "secrets").glob("*/*"):
        assert secret.read_text().strip() not in said, secret.name
    assert "unisat-backup" not in inside(STATION, "ls", "-R", "/var")


# A package of the kind that waits for update.yml, and a newer one of it in the only mirror left.
UPGRADE = r"""
set -eu
for version in 1 2; do
    mkdir -p /srv/mirror/$version/DEBIAN
    {
        printf 'Package: postgresql-unisat-test\nVersion: %s\nArchitecture: all\n' $version
        printf 'Maintainer: UniSat\nDescription: a test\n'
    } >/srv/mirror/$version/DEBIAN/control
    dpkg-deb --build /srv/mirror/$version /srv/mirror/$version.deb
done
dpkg --install /srv/mirror/1.deb
cd /srv/mirror
{
    dpkg-deb --field 2.deb
    printf 'Filename: ./2.deb\nSize: %s\n' "$(stat --format %s 2.deb)"
    printf 'SHA256: %s\n' "$(sha256sum 2.deb | cut -d' ' -f1)"
} >Packages
mv /etc/apt/sources.list /root/
echo 'deb [trusted=yes] file:/srv/mirror ./' >/etc/apt/sources.list
"""


def test_an_update_changes_agent_image_and_packages_and_nothing_is_lost() -> None:
    old_release, old_image = release(), image()
    inside(STATION, "sh", "-c", UPGRADE)
    try:
        said = play(
            "update",
            *(other_agent("good", "9.0.0"), other_image("new")),
            *("--extra-vars", '{"update_packages": true}'),
            note=", a new agent, image and package",
        )
    finally:
        inside(STATION, "mv", "/root/sources.list", "/etc/apt/sources.list")
    version = inside(STATION, "dpkg-query", "--show", "postgresql-unisat-test")
    assert version.split()[1] == "2"
    assert status()["version"] == "9.0.0"
    assert release() != old_release
    assert image() == "unisat-kinto:new" != old_image
    assert f"{STATION} runs unisat-kinto:new and agent 9.0.0" in sentences(said)
    assert judge() > 0


# Starts, says that it is ready, and does nothing: only a look at the records finds that out.
USELESS = """

def _run(args: argparse.Namespace) -> int:
    import socket
    import time

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
    time.sleep(1000)
    return 0
"""


def test_a_failing_update_goes_back_by_itself_and_nothing_is_lost() -> None:
    good_release, good_image, before = release(), image(), len(sent())
    said = play(
        "update",
        *(other_agent("useless", "9.9.9", USELESS), other_image("newer")),
        *("--extra-vars", '{"update_gate_s": 20}'),
        check=False,
        note=", a useless agent, until the return",
    )
    assert (
        f"{STATION} did not pass its update (See whether it works as well as before:"
        in sentences(said)
    )
    assert "works as before; the roll-out stops here" in sentences(said)
    assert (release(), image()) == (good_release, good_image)
    assert status()["health"] == "ok"
    wait_until(lambda: len(sent()) > before, "the satellite goes on")
    assert judge() > before
    assert inside(STATION, "systemctl", "--failed", "--no-legend", "--plain") == ""
    assert inside(STATION, "ls", "/var/lib/unisat-update") == ""


def test_a_new_card_gets_back_every_record_also_those_that_were_not_delivered() -> None:
    inside(STATION, "systemctl", "stop", "unisat-kinto")
    wait_until(lambda: status()["sinks"]["local"]["pending"] >= 3, "some packages wait")
    inside(STATION, "systemctl", "stop", "satellite")
    time.sleep(6)  # a package that nothing follows ends after 5 s
    pending = status()["sinks"]["local"]["pending"]
    before = everything(STATION)
    play("backup", note=", Kinto being down")

    inside(STATION, "systemctl", "stop", "unisat-agent")
    inside(STATION, "sh", "-c", "rm -rf /var/lib/unisat-agent/*")
    wipe = (
        "psql --quiet --command 'drop database kinto' --command 'create database kinto owner kinto'"
    )
    inside(STATION, "su", "postgres", "-c", wipe)

    said = play("restore", "--extra-vars", f"restore_from={newest_backup()}")
    assert f"{pending} records will be delivered" in sentences(said)
    wait_until(
        lambda: len(stored()) == sum(row[0] == "record" for row in before) + pending, "all are back"
    )
    after = {tuple(row[:3]): row for row in everything(STATION)}
    for row in before:
        if row[0] == "record":
            assert after[tuple(row[:3])] == row
    assert judge() > 0
    wait_until(lambda: status()["health"] == "ok", "the station is well")


def test_an_old_station_becomes_a_publisher_with_every_record() -> None:
    sums = "find /srv/data -type f -exec sha256sum {} + | sort | sha256sum"
    before = inside(OLD, "sh", "-c", sums)
    said = play(
        "migrate",
        *("--inventory", LATER, "--limit", OLD),
        *("--extra-vars", "migrate_data=/srv/data migrate_postgres_bin=/srv/native/bin"),
        note=", from a bare host",
    )
    assert f"the old station had {OLD_RECORDS} records; {OLD_RECORDS} were added" in " ".join(
        said.split()
    )
    assert inside(OLD, "sh", "-c", sums) == before

    where = "/buckets/unisat/collections/u01kz"
    (found,) = ask(
        OLD,
        "SELECT count(*), count(DISTINCT id), sum((data->>'n')::int), min(last_modified)::text,"
        f" max(last_modified)::text FROM objects WHERE parent_id = '{where}' AND NOT deleted",
    )
    assert found == [
        *(OLD_RECORDS, OLD_RECORDS, OLD_RECORDS * (OLD_RECORDS + 1) // 2),
        *("2022-08-08 23:06:43.01", "2022-08-09 15:46:40.01"),
    ]
    assert ask(OLD, f"SELECT deleted FROM objects WHERE parent_id = '{where}' AND id = 'gone'") == [
        [True]
    ]
    # Of the accounts, the new station's own admin stays, and the old subscribers come along.
    assert {
        row[0] for row in ask(OLD, "SELECT id FROM objects WHERE resource_name = 'account'")
    } >= {*("admin", "agent", "school")}
    # The old station let everybody read: through Kinto they still can.
    url = f"http://127.0.0.1:8888/v1{where}/records?_limit=1&n={OLD_RECORDS}"
    fetch = (
        f"import json, urllib.request as u; print(json.load(u.urlopen({url!r}))['data'][0]['n'])"
    )
    assert inside(OLD, "python3", "-c", fetch).strip() == str(OLD_RECORDS)


def test_the_table_shows_the_fleet_also_a_station_that_is_down() -> None:
    said = play("status", "--inventory", LATER)
    lines = [line for line in said.splitlines() if line.startswith("        lifecycle-")]
    table = {line.split()[0]: line for line in lines}
    assert re.search(rf"ok +9\.0\.0 +{DEVICE} \S+Z +local \d+ +right +\d+ MB", table[STATION])
    assert re.search(r"degraded +\d", table[OLD])  # it has no satellite
    assert "no answer" in table[GONE]
