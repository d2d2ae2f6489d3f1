"""Delivery to a real Kinto with the plugin: `records:ingest` as the hub really answers it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rig.clock import FakeClock
from rig.kinto import BUCKET, Kinto
from rig.servers import Memcached, Postgres
from rig.way import BOOT, ids
from unisat_agent.clock import ClockState
from unisat_agent.config.model import SinkSettings
from unisat_agent.delivery.courier import Courier
from unisat_agent.delivery.kinto import KintoClient
from unisat_agent.record import Row, Stamp
from unisat_agent.spool.dead import dead_letters
from unisat_agent.spool.queue import Spool

DEV = "u01"
PLUGIN = {"kinto.includes": "kinto.plugins.accounts unisat_kinto"}


@pytest.fixture
def hub(postgres: Postgres, memcached: Memcached, database: str, tmp_path: Path) -> Iterator[Kinto]:
    url, cache = postgres.url(database), memcached.address
    with Kinto(tmp_path, "hub", storage_url=url, memcached=cache, settings=PLUGIN) as made:
        made.create_account("station", "secret")
        made.client().create_bucket(
            id=BUCKET, permissions={"collection:create": ["account:station"]}
        )
        yield made


def packages(spool: Spool, count: int, stamp: Stamp) -> list[Row]:
    return [
        spool.append(DEV, json.dumps({"groups": {}, "n": n + 0.5}), stamp, []) for n in range(count)
    ]


def test_backlog_and_correction_arrive_once_and_as_they_are(hub: Kinto, spool: Spool) -> None:
    settings = SinkSettings("hub", hub.url, "station", "secret")
    synced = Stamp(1_700_000_000_000, 5_000, "boot-z", ClockState.SYNCED)
    unsynced = Stamp(5_000, 5_000, BOOT, ClockState.UNSYNCED)
    rows = packages(spool, 1500, synced) + packages(spool, 20, unsynced)
    with KintoClient(settings) as client:
        courier = Courier(spool, client, FakeClock(running=True), threading.Event())

        def deliver() -> None:
            while spool.pending("hub"):
                assert courier.step() == 0.0, courier.standing.notices.current()

        deliver()
        assert courier.standing.figures.batches < 10, (
            "the collection was made, then by the thousand"
        )
        spool.correction.correct(BOOT, 1_700_000_000_000)
        assert spool.pending("hub") == 20
        deliver()
    found = hub.client().get_records(bucket=BUCKET, collection=DEV)
    assert {record["id"] for record in found} == set(ids(rows))
    assert len(found) == len(rows)
    times = [r["timestamp"] for r in found if r["clock"] == "corrected"]
    assert times == [1_700_000_005] * 20
    assert list(dead_letters(spool.path)) == []
