"""The database's disk is full: senders come again, readers are served, and nothing is lost."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from conftest import PLUGIN, User, record
from rig.kinto import Kinto
from rig.servers import Memcached, Postgres
from rig.wait import wait_until

COLLECTION = "/buckets/telemetry/collections/u01kz"
# As large as what is there, and some room that the test fills.
SHRINK = """
set -eu
mount -t tmpfs -o "size=$(($(du -sm "$1" | cut -f1) + 64))m" small "$2"
cp -a "$1/." "$2"
mount --bind "$2" "$1"
"""
GONE = 'umount --lazy "$1"; umount --lazy "$2"'


@contextmanager
def small_disk(postgres: Postgres, folder: Path) -> Iterator[Path]:
    """A copy of the database on a small disk; PostgreSQL is not running afterwards."""
    folder.mkdir()
    where = ("sh", str(postgres.directory / "data"), str(folder))
    postgres.stop()
    try:
        subprocess.run(["sh", "-c", SHRINK, *where], check=True)
        postgres.start()
        yield folder
    finally:
        postgres.stop()
        subprocess.run(["sh", "-c", GONE, *where], check=False)


def _store(user: User, count: int) -> set[int]:
    """Has both ways store so many records; returns the numbers of those that are acknowledged."""
    acknowledged = set()
    for seq in range(count, 2 * count):
        answer = user("POST", f"{COLLECTION}/records:ingest", json=[record(seq)])
        put = record(-seq)
        stock = user("PUT", f"{COLLECTION}/records/{put['id']}", json={"data": put})
        acknowledged |= {seq} if answer.status_code == 200 else set()
        acknowledged |= {-seq} if stock.status_code == 201 else set()
        for one in (answer, stock):
            assert one.status_code in {200, 201, 503}
            assert one.ok or int(one.headers["Retry-After"]) > 0
    return acknowledged


def test_nothing_is_lost_and_readers_are_served(tmp_path: Path) -> None:
    with ExitStack() as opened:
        postgres = opened.enter_context(Postgres())
        memcached = opened.enter_context(Memcached()).address
        url = postgres.url(postgres.new_database())
        hub = opened.enter_context(
            Kinto(tmp_path, "hub", storage_url=url, memcached=memcached, settings=PLUGIN)
        )
        hub.provision_hub("station", "station", ["u01kz"])
        hub.provision_reader("reader", "reader")
        station, reader = (User(hub.url, name, name) for name in ("station", "reader"))
        acknowledged = _store(station, 2)
        disk = opened.enter_context(small_disk(postgres, tmp_path / "disk"))
        wait_until(hub.healthy, 60, lambda: "Kinto to find the database")
        acknowledged |= _store(station, 4)
        filler = disk / "filler"
        subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=64k"], check=False)
        full = _store(station, 50)
        assert len(full) < 100
        acknowledged |= full
        assert {one["seq"] for one in reader.records(COLLECTION)} == acknowledged
        filler.unlink()
        healed = _store(station, 200)
        assert len(healed) == 400
        stored = [one["seq"] for one in reader.records(COLLECTION, "?_limit=1000")]
        assert sorted(stored) == sorted(acknowledged | healed)
