"""What is read off a host before anything is changed there."""

from __future__ import annotations

import datetime
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import station_facts
import station_status


def test_somebody_elses_containers_are_seen_without_a_daemon(tmp_path: Path) -> None:
    folder = tmp_path / "var/lib/docker/containers"
    for number, name in enumerate(["/unisat-kinto", "/kinto_db_1"]):
        (folder / str(number)).mkdir(parents=True)
        (folder / str(number) / "config.v2.json").write_text(json.dumps({"Name": name}))
    (folder / "torn").mkdir()
    (folder / "torn/config.v2.json").write_text("{")
    assert station_facts.docker_guests(tmp_path) == ["kinto_db_1"]


@pytest.mark.parametrize(
    ("card", "zone"), [({"station.timezone": "Asia/Almaty"}, "Asia/Almaty"), ({}, "")]
)
def test_the_cards_time_zone_is_seen(tmp_path: Path, card: dict[str, str], zone: str) -> None:
    (tmp_path / "usr/local/sbin").mkdir(parents=True)
    (tmp_path / "usr/local/sbin/unisat-station").touch()
    (tmp_path / "var/lib/unisat-station").mkdir(parents=True)
    (tmp_path / "var/lib/unisat-station/applied.json").write_text(json.dumps(card))
    assert station_facts.station(tmp_path)["timezone"] == zone


def test_the_schema_of_the_spool_is_seen_where_its_file_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, spool = tmp_path / "agent.toml", tmp_path / "other.db"
    monkeypatch.setattr(station_status, "AGENT_TOML", config)
    config.write_text(f'[spool]\npath = "{spool}"\n')
    assert station_status.spool() is None
    with closing(sqlite3.connect(spool)) as db:
        db.execute("PRAGMA user_version = 7")
    assert station_status.spool() == {"path": str(spool), "schema": 7}


def test_the_clusters_of_kinto_are_told_from_others(tmp_path: Path) -> None:
    for version, start in [("15", "# a comment\n\nmanual\n"), ("17", "auto\n"), ("14", "auto\n")]:
        (tmp_path / version / "main/conf.d").mkdir(parents=True)
        (tmp_path / version / "main/start.conf").write_text(start)
        if version != "14":
            (tmp_path / version / "main/conf.d/unisat.conf").touch()
    assert station_facts.kinto_clusters(tmp_path) == {"15": "manual", "17": "auto"}


@pytest.mark.parametrize(
    ("made", "days"),
    [("2026-08-01T10:00:00.123456789Z", 116), ("2026-11-20T10:00:00Z", 0), ("", 0)],
)
def test_an_old_image_of_kinto_is_told(
    monkeypatch: pytest.MonkeyPatch, made: str, days: int
) -> None:
    monkeypatch.setattr(station_status, "output", lambda *_: json.dumps(made))
    note = station_status.image_note("docker", "unisat-kinto:1", datetime.date(2026, 11, 25))
    assert (f"built {days} days ago" in note) if days else note == ""
