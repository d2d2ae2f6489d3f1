"""The open archive: months go to files, and only then out of the database; whatever happens."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
import subprocess
import sys
import time
import uuid
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from conftest import Network, Record, User, record
from rig.drift import PASSWORD, Pair
from rig.kinto import Kinto
from rig.servers import Memcached
from stream_site import PLUGIN
from test_docs_data import blocks
from test_reading import get
from unisat_agent.clock import ClockState
from unisat_agent.record import Stamp

DAY_S = 86400
# 2022-08-20, a Saturday.
START = 1660953600
KEEP_DAYS = 365
KINTO = Path(__file__).parent.parent
# Ends itself, as a power cut would, after the step of that number; or stores a record then.
_DRIVER = """
import itertools, json, os, resource, signal, sys, urllib.request
from unisat_archive.__main__ import main
step, request = json.loads(sys.argv.pop(1)), json.loads(sys.argv.pop(1))
numbers = itertools.count(1)
def report(sentence):
    if next(numbers) == step:
        if request is None:
            os.kill(os.getpid(), signal.SIGKILL)
        url, body, headers = request
        sent = urllib.request.Request(url, body.encode(), headers)
        urllib.request.urlopen(sent, timeout=30).read()
status = main(report)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
sys.exit(status)
"""
# In a process of its own: pyarrow's threads stay, and take signals that are meant for others.
_READ = """
import json, sys
from pathlib import Path
from pyarrow import parquet
from unisat_archive import files
root = Path(sys.argv[1])
for manifest in sorted(root.glob("*/*.json")):
    what = json.loads(manifest.read_text())
    table = parquet.read_table(manifest.with_suffix(".parquet"))
    types = {field.name: str(field.type) for field in table.schema}
    found = list(files.records(root, what["device"], what["month"]))
    assert table.num_rows == len(found) == what["records"]
    print(json.dumps([what["device"], what["month"], types, found]))
"""


@dataclass
class Archive:
    """A bucket of the hub, and where its archive is."""

    network: Network
    bucket: str
    folder: Path

    def run(
        self, *, step: int = 0, request: Any = None, check: int | None = 0
    ) -> subprocess.CompletedProcess[str]:
        """The command; at the step of that number, it is killed, or a record comes."""
        words = [sys.executable, "-c", _DRIVER, json.dumps(step), json.dumps(request)]
        options = ["--folder", str(self.folder), "--days", str(KEEP_DAYS)]
        done = subprocess.run(
            [*words, *options, "--bucket", self.bucket],
            env=self.environment(), capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert check is None or done.returncode == check, done.stdout + done.stderr
        return done

    def environment(self) -> dict[str, str]:
        return os.environ | {"KINTO_STORAGE_URL": self.network.storage, "PYTHONPATH": str(KINTO)}

    def content(self) -> dict[tuple[str, str], tuple[dict[str, str], list[Record]]]:
        """By device and month: the columns' types, and the records."""
        done = subprocess.run(
            [sys.executable, "-c", _READ, str(self.folder)],
            env=self.environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        lines = map(json.loads, done.stdout.splitlines())
        return {(device, month): (types, found) for device, month, types, found in lines}

    def archived(self) -> Counter[str]:
        """How often each id is in the archive."""
        return Counter(row["id"] for _, found in self.content().values() for row in found)

    def collection(self) -> str:
        return self.network.collection(f"/buckets/{self.bucket}")


@pytest.fixture
def archive(network: Network, tmp_path: Path) -> Archive:
    bucket = f"b{uuid.uuid4().hex[:12]}"
    assert network.user("admin")("PUT", f"/buckets/{bucket}").status_code == 201
    return Archive(network, bucket, tmp_path)


def on(day: float, **changes: Any) -> Record:
    """A record of that many days after START."""
    return record(int(day * 100), timestamp=START + int(day * DAY_S), **changes)


def stored(user: User, collection: str) -> Counter[str]:
    """How often each id is in the database."""
    return Counter(row["id"] for row in user.records(collection, "?_limit=10000"))


def plain(rows: list[Record]) -> list[Record]:
    """In the order of the archive, without what only the server knows."""
    found = [{k: v for k, v in row.items() if k != "last_modified"} for row in rows]
    return sorted(found, key=lambda row: (row["timestamp"], row["id"]))


def test_months_become_files_and_leave_the_database(
    archive: Archive, station: User, admin: User, reader: User
) -> None:
    collection = archive.collection()
    device = collection.rpartition("/")[2]
    # Three months and the first days of a fourth, which ended long ago as well.
    old = [on(n / 4, alarm=n % 2 == 0, count=n if n % 3 else n + 0.5) for n in range(4 * 80)]
    old[7] |= {"groups": {"a": ['ä,\n"']}, "missing": ["pm25"]}
    old[9].pop("pm10")
    recent = record(1, timestamp=int(time.time()) - DAY_S)
    unsynced = on(1, clock="unsynced")
    station.ingest(collection, [*old, recent, unsynced])
    chart = f"{collection}/series?from={START}&to={START + 80 * DAY_S}&fields=pm25,count"
    before = get(admin, chart)

    said = archive.run().stdout
    assert said == f"{device}: 320 records of 4 months went to the archive\n"
    assert stored(admin, collection) == Counter([recent["id"], unsynced["id"]])
    assert get(admin, chart) == before
    assert admin("GET", collection).json()["data"]["retain_from"] == 1669852800  # 1 December
    found = archive.content()
    months = [f"2022-{month:02}" for month in (8, 9, 10, 11)]
    assert list(found) == [(device, month) for month in months]
    assert plain([row for _, rows in found.values() for row in rows]) == plain(old)
    types = found[device, "2022-08"][0]
    assert {name: types[name] for name in ("time", "timestamp", "alarm", "count", "groups")} == {
        "time": "timestamp[ms, tz=UTC]", "timestamp": "int64", "alarm": "bool", "count": "double",
        "groups": "string",
    }  # fmt: skip
    # The files are what the manifest says, and CSV says the same.
    place = archive.folder / device
    manifest = json.loads((place / f"{device}-2022-08.json").read_text())
    for name, what in manifest["files"].items():
        content = (place / name).read_bytes()
        assert what == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    with gzip.open(place / f"{device}-2022-08.csv.gz", "rt", newline="") as text:
        rows = list(csv.DictReader(text))
    assert len(rows) == manifest["records"] == 48
    first = rows[0]
    assert (first["time"], first["alarm"], first["count"]) == (
        "2022-08-20T00:00:00Z",
        "true",
        "0.5",
    )
    assert rows[9]["pm10"] == ""
    assert json.loads(rows[7]["groups"]) == old[7]["groups"]
    # docs/data.md
    (code,) = (block for block in blocks("python") if "parquet" in block)
    code = code.replace("u01kz", device)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=place, capture_output=True, text=True, check=False
    )
    assert done.stdout == "48 32.0\n", done.stderr
    index = json.loads((archive.folder / "index.json").read_text())
    assert index == {"devices": {device: dict(zip(months, (48, 120, 124, 28), strict=True))}}

    # What comes later is refused; a second run finds nothing to do.
    assert station.ingest(collection, old[:2])["deleted"] == [row["id"] for row in old[:2]]
    assert archive.run().stdout == ""
    assert archive.content() == found


@pytest.mark.parametrize("step", [1, 2, 3, 4, 8, 9])
def test_a_power_cut_loses_nothing_and_doubles_nothing(
    archive: Archive, station: User, admin: User, step: int
) -> None:
    collection = archive.collection()
    rows = [on(n / 4) for n in range(4 * 2)] + [on(30 + n / 4) for n in range(4 * 2)]
    station.ingest(collection, rows)
    killed = archive.run(step=step, check=None).returncode
    # Two months of two days each: written, in place, let go twice.
    assert killed == (-9 if step <= 8 else 0)
    everything = {row["id"] for row in rows}
    assert set(archive.archived() | stored(admin, collection)) == everything
    # A station was cut off as well: what it had still to bring comes now, if its month is open.
    late = on(31.9)
    if not station.ingest(collection, [late])["deleted"]:
        everything.add(late["id"])
    archive.run()
    assert archive.archived() == Counter(everything)
    assert not stored(admin, collection)
    assert not list(archive.folder.glob("*/.new-*"))


def test_what_comes_between_writing_and_deleting_is_archived_as_well(
    archive: Archive, station: User, admin: User
) -> None:
    collection = archive.collection()
    rows = [on(n / 4) for n in range(8)]
    station.ingest(collection, rows)
    late = on(0.1)
    request = [
        f"{admin.url}{collection}/records:ingest",
        json.dumps([late]),
        {
            "Content-Type": "application/json",
            "Authorization": f"Basic {b64encode(b'station:station').decode()}",
        },
    ]
    archive.run(step=2, request=request)
    assert archive.archived() == Counter(row["id"] for row in [*rows, late])
    assert not stored(admin, collection)


def test_what_somebody_puts_back_joins_its_month(
    archive: Archive, station: User, admin: User
) -> None:
    collection = archive.collection()
    rows = [on(n) for n in range(60)]
    station.ingest(collection, rows)
    archive.run()
    # Of two months; of another type; one that is there already, and one that was corrected.
    again = [rows[3], on(3.5, pm25="broken"), on(40.5, extra=7), rows[5] | {"temperature": -1.0}]
    for row in again:
        path = f"{collection}/records/{row['id']}"
        assert admin("PUT", path, json={"data": row}).status_code == 201
    archive.run()
    assert not stored(admin, collection)
    device = collection.rpartition("/")[2]
    found = archive.content()
    rows[5] = again[3]
    assert plain([row for _, part in found.values() for row in part]) == plain(
        [*rows, again[1], again[2]]
    )
    assert found[device, "2022-08"][0]["pm25"] == "string"
    assert found[device, "2022-09"][0] | {"extra": "int64"} == found[device, "2022-09"][0]


def test_a_long_month_takes_no_more_memory(archive: Archive, station: User) -> None:
    peaks = []
    for rows in (6_000, 36_000):
        collection = archive.collection()
        station.ingest(collection, [on(0)])
        with archive.network.database().cursor() as cursor:
            # Without what the triggers do for each row.
            cursor.execute("SET session_replication_role = replica")
            cursor.execute(
                "INSERT INTO objects (id, parent_id, resource_name, last_modified, data, deleted)"
                " SELECT gen_random_uuid(), o.parent_id, 'record', o.last_modified"
                "   + n * interval '1 ms', o.data || jsonb_build_object("
                "   'timestamp', %s + n, 'seq', n, 'temperature', n / 7.0), FALSE"
                " FROM objects o, generate_series(1, %s) n"
                " WHERE o.parent_id = %s AND o.resource_name = 'record'",
                (START, rows, collection),
            )
            cursor.execute("RESET session_replication_role")
        said = archive.run()
        assert f"{rows + 1} records of 1 months" in said.stdout
        peaks.append(int(said.stderr))
    # KiB. As Python has them, 30,000 records more are some 100 MB.
    assert peaks[1] - peaks[0] < 30 * 1024


def test_a_damaged_file_stops_its_device_alone(
    archive: Archive, station: User, admin: User
) -> None:
    damaged, other = archive.collection(), archive.collection()
    station.ingest(damaged, [on(0), on(40)])
    archive.run()
    device = damaged.rpartition("/")[2]
    file = archive.folder / device / f"{device}-2022-08.parquet"
    file.write_bytes(file.read_bytes()[:-1])
    late = on(1)
    assert admin("PUT", f"{damaged}/records/{late['id']}", json={"data": late}).status_code == 201
    station.ingest(other, [on(0)])
    said = archive.run(check=1).stdout
    assert f"{file} is damaged" in said
    assert stored(admin, damaged) == Counter([late["id"]])
    assert not stored(admin, other)


@pytest.fixture
def pair(network: Network, tmp_path: Path) -> Iterator[Pair]:
    """A station's spool between its own Kinto and the hub."""
    hub, name = network.kintos[0], f"station_{uuid.uuid4().hex}"
    with network.database().cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
        cursor.execute(f"ALTER DATABASE {name} SET TIMEZONE TO 'UTC'")
        storage = urlsplit(network.storage)._replace(path=f"/{name}").geturl()
        with Memcached() as memcached:
            options: Any = {"storage_url": storage, "memcached": memcached.address}
            with Kinto(tmp_path, "local", **options, settings=PLUGIN) as local:
                for kinto in (local, hub):
                    kinto.create_account("agent", PASSWORD)
                made = Pair({"local": local, "hub": hub}, tmp_path)
                yield made
                made.close()
        cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_no_station_brings_back_what_was_archived(
    network: Network, pair: Pair, tmp_path: Path
) -> None:
    archive = Archive(network, pair.bucket, tmp_path / "archive")
    archive.folder.mkdir()

    def package(day: float) -> str:
        stamp = Stamp(int(START + day * DAY_S) * 1000, 5_000, "boot-a", ClockState.SYNCED)
        row = pair.spool.append("u01", json.dumps({"groups": {}, "n": day + 0.5}), stamp, [])
        return str(row.record_id)

    sent = [package(n / 2) for n in range(180)]
    recent = package((time.time() - START) / DAY_S - 1)
    pair.deliver()
    archive.run()
    assert archive.archived() == Counter(sent)
    assert pair.ids("hub") == {recent}
    assert pair.ids("local") == {*sent, recent}
    # Nothing is sent, nor missed, also where everything is compared.
    for afresh in (False, True):
        report = pair.reconcile(afresh=afresh)
        assert (dict(report.sent), report.deleted, report.problems) == ({}, 0, [])
    # What a spool still holds of an archived month is over and done with.
    package(10.25)
    pair.deliver()
    assert pair.ids("hub") == {recent}
    assert dict(pair.reconcile(afresh=True).sent) == {}
