"""Records come back to a new card, and over from an old station."""
# ruff: noqa: S608 - the queries are the tests' own

from __future__ import annotations

import json
import re
import shutil
import time

from life import DEVICE, GONE, LATER, OLD, OLD_RECORDS, newest_backup, play, sentences

from outside import PROJECT, inside, wait_until
from station import KEPT, STATION, ask, everything, judge, status, stored, well


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

    other = KEPT / "backups" / "of-another-station"
    shutil.copytree(newest_backup(), other)
    manifest = json.loads((other / "manifest.json").read_text()) | {"station": "unisat-77"}
    (other / "manifest.json").write_text(json.dumps(manifest))
    said = play("restore", "--extra-vars", f"restore_from={other}", check=False)
    assert "is a backup of unisat-77; name one of" in sentences(said)
    shutil.rmtree(other)

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
    well()


WHERE = "/buckets/unisat/collections/u01kz"
# The containers of the old station: whether each runs, and whether it will by itself.
CONTAINERS = (
    "docker inspect --format '{{.Name}} {{.State.Running}} {{.HostConfig.RestartPolicy.Name}}'"
    " $(docker ps --all --quiet --filter label=com.docker.compose.project=kinto) | sort"
)


def test_an_old_station_becomes_a_publisher_with_every_record() -> None:
    """The usual way: its database is a container of a compose project that runs."""
    script = (PROJECT / "molecule/lifecycle/old-station").read_text()
    inside(OLD, "sh", "-s", "compose", "/srv", stdin=script)
    services = ["cache", "db", "web"]
    assert inside(OLD, "sh", "-c", CONTAINERS).splitlines() == [
        f"/kinto-{name}-1 true always" for name in services
    ]
    engine = inside(OLD, "cat", "/etc/docker/daemon.json")
    said = play(
        "migrate",
        *("--inventory", LATER, "--limit", OLD),
        *("--extra-vars", "migrate_container=kinto-db-1"),
        note=", from a compose project",
    )
    assert f"the old station had {OLD_RECORDS} records; {OLD_RECORDS} were added" in sentences(said)
    # It is stopped, stays so, and is there to go back to; the engine is left as it was.
    assert inside(OLD, "sh", "-c", CONTAINERS).splitlines() == [
        f"/kinto-{name}-1 false no" for name in services
    ]
    assert inside(OLD, "cat", "/etc/docker/daemon.json") == engine

    (found,) = ask(
        OLD,
        "SELECT count(*), count(DISTINCT id), sum((data->>'n')::int), min(last_modified)::text,"
        f" max(last_modified)::text FROM objects WHERE parent_id = '{WHERE}' AND NOT deleted",
    )
    assert found == [
        *(OLD_RECORDS, OLD_RECORDS, OLD_RECORDS * (OLD_RECORDS + 1) // 2),
        *("2022-08-08 23:06:43.01", "2022-08-09 15:46:40.01"),
    ]
    assert ask(OLD, f"SELECT deleted FROM objects WHERE parent_id = '{WHERE}' AND id = 'gone'") == [
        [True]
    ]
    # Of the accounts, the new station's own admin stays, and the old subscribers come along.
    assert {
        row[0] for row in ask(OLD, "SELECT id FROM objects WHERE resource_name = 'account'")
    } >= {*("admin", "agent", "school")}
    # The old station let everybody read: through Kinto they still can.
    url = f"http://127.0.0.1:8888/v1{WHERE}/records?_limit=1&n={OLD_RECORDS}"
    fetch = (
        f"import json, urllib.request as u; print(json.load(u.urlopen({url!r}))['data'][0]['n'])"
    )
    assert inside(OLD, "python3", "-c", fetch).strip() == str(OLD_RECORDS)


def test_what_is_missing_is_added_from_the_data_directory() -> None:
    sums = "find /srv/data -type f -exec sha256sum {} + | sort | sha256sum"
    before = inside(OLD, "sh", "-c", sums)
    lost = f"DELETE FROM objects WHERE parent_id = '{WHERE}' AND (data->>'n')::int <= 500"
    inside(OLD, "su", "postgres", "-c", f'psql --quiet kinto --command "{lost}"')
    said = play(
        "migrate",
        *("--inventory", LATER, "--limit", OLD),
        *("--extra-vars", "migrate_data=/srv/data migrate_postgres_bin=/srv/native/bin"),
        note=", once more, from the data directory",
    )
    assert f"the old station had {OLD_RECORDS} records; 500 were added" in sentences(said)
    assert inside(OLD, "sh", "-c", sums) == before
    assert ask(
        OLD, f"SELECT count(*) FROM objects WHERE parent_id = '{WHERE}' AND NOT deleted"
    ) == [[OLD_RECORDS]]


def test_the_table_shows_the_fleet_also_a_station_that_is_down() -> None:
    said = play("status", "--inventory", LATER, check=False)
    lines = [line for line in said.splitlines() if line.startswith("        lifecycle-")]
    table = {line.split()[0]: line for line in lines}
    assert re.search(rf"ok +9\.0\.0\+\S+ +{DEVICE} \S+Z +local \d+ +right +\d+ MB", table[STATION])
    assert re.search(r"degraded +\d", table[OLD])  # it has no satellite
    assert "no answer" in table[GONE]
    # Cron is told of it.
    assert re.search(rf"^{GONE} .* failed=1 ", said, re.MULTILINE)
    assert re.search(rf"^{STATION} .* failed=0 ", said, re.MULTILINE)
