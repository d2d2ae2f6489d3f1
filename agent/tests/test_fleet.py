"""The station's record on the hub: small, hourly, on change, and never in the way."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from rig.clock import FakeClock
from unisat_agent.delivery.kinto import Answer, TransportError
from unisat_agent.service.fleet import EVERY_S, JITTER, Fleet, document
from unisat_agent.service.snapshot import SinkSnapshot, Snapshot, SpoolSnapshot

HEALTHY = Snapshot(station="unisat-01", version="0.2.0")
ILL = Snapshot(station="unisat-01", version="0.2.0", troubles=("the spool is damaged",))


class Hub:
    """Keeps what is put, or answers as told."""

    def __init__(self) -> None:
        self.put: list[tuple[str, dict[str, Any]]] = []
        self.status = 200
        self.is_away = False

    def request(self, method: str, path: str, body: object | None = None) -> Answer:
        assert method == "PUT"
        assert isinstance(body, dict)
        if self.is_away:
            raise TransportError("no answer in time")
        self.put.append((path, body["data"]))
        return Answer(self.status, {}, None)

    def close(self) -> None:
        pass

    abort = close


class Station:
    """A fleet record at a clock that a test moves."""

    def __init__(self, update: Path | None = None, account: str = "unisat-01") -> None:
        self.hub, self.clock, self.snapshot = Hub(), FakeClock(), HEALTHY
        self.fleet = Fleet(
            self.hub,
            account,
            lambda: self.snapshot,
            update,
            self.clock,
            threading.Event(),
            chance=lambda: 0.5,
        )

    def after(self, seconds: float) -> int:
        """How often the hub was told in this time, looked at every ten seconds."""
        before = len(self.hub.put)
        for _ in range(int(seconds // 10)):
            self.clock.advance(10)
            self.fleet.look()
        return len(self.hub.put) - before


def test_it_is_told_hourly_and_on_change() -> None:
    station = Station()
    assert station.after(60) == 0
    assert station.after(60) == 1
    path, record = station.hub.put[0]
    assert path == "/buckets/fleet/collections/unisat-01/records/status"
    assert record["health"] == "ok"
    assert station.after(EVERY_S * (1 - JITTER)) == 0
    assert station.after(EVERY_S * 2 * JITTER) == 1
    station.snapshot = ILL
    assert station.after(60) == 1
    assert station.hub.put[-1][1]["problems"] == ["the spool is damaged"]


def test_what_changes_all_the_time_is_no_change() -> None:
    station = Station()
    station.after(120)
    station.snapshot = Snapshot(
        station="unisat-01",
        version="0.2.0",
        sinks=(SinkSnapshot("hub", pending=7),),
        spool=SpoolSnapshot(disk_free=2**30, last_seq=9),
    )
    assert station.after(600) == 0


def test_a_station_that_flickers_tells_once_a_minute() -> None:
    station = Station()
    told = 0
    for second in range(60):
        station.snapshot = ILL if second % 2 else HEALTHY
        told += station.after(10)
    assert told <= 10


def test_a_hub_that_is_away_is_asked_again_and_one_without_the_bucket_rarely() -> None:
    station = Station()
    station.hub.is_away = True
    assert station.after(3600) == 0
    station.hub.is_away = False
    assert station.after(400) == 1
    refused = Station()
    refused.hub.status = 403
    assert refused.after(EVERY_S) == 1


def test_it_never_exceeds_a_kilobyte(tmp_path: Path) -> None:
    update = tmp_path / "update.json"
    said = {"phase": "good", "version": "v" * 99, "target": "", "said": "é" * 999, "problem": True}
    update.write_text(json.dumps(said))
    long = Snapshot(station="s" * 500, version="0.2.0", troubles=tuple("é" * 500 for _ in range(9)))
    record = document(long, 0, update, tmp_path)
    assert record["health"] == "failed"
    assert len(json.dumps(record).encode()) <= 1024
    plain = Snapshot(station="s", version="0.2.0", troubles=tuple("e" * 500 for _ in range(9)))
    record = document(plain, 0, None, tmp_path)
    assert len(json.dumps(record).encode()) <= 1024
    assert len(record["problems"]) == 4


@pytest.mark.parametrize("text", ["", "{", "[]", '{"phase": 1}'])
def test_an_update_file_that_cannot_be_read_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "update.json").write_text(text)
    assert document(HEALTHY, 0, tmp_path / "update.json")["update"] is None


def test_a_weak_supply_and_an_update_are_told(tmp_path: Path) -> None:
    (tmp_path / "hwmon0").mkdir()
    (tmp_path / "hwmon0/in0_lcrit_alarm").write_text("1\n")
    update = tmp_path / "update.json"
    said = {
        "phase": "good",
        "version": "1.2",
        "target": "",
        "said": "Update: done.",
        "problem": False,
    }
    update.write_text(json.dumps(said))
    record = document(HEALTHY, 0, update, tmp_path)
    assert record["power"] == "low"
    assert record["update"]["version"] == "1.2"
