"""What is past: the database goes back to a moment, and old months go to the open archive."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from conftest import HUB, Account, put, sql
from outside import inside, wait_until

RECORDS = "/v1/buckets/telemetry/collections/u02kz/records"
TIMELINE = "SELECT unisat_timeline()"


def stored(accounts: dict[str, Account], number: int) -> list[Any]:
    """What a reader is given of the package with that number."""
    found: list[Any] = accounts["reader"].ask("GET", f"{RECORDS}?seq={number}").json["data"]
    return found


def test_the_database_goes_back_to_a_moment(accounts: dict[str, Account]) -> None:
    # The first one was started by the playbook; systemd joins it, or makes another.
    inside(HUB, "systemctl", "start", "unisat-hub-backup")
    # pgBackRest counts in whole seconds: the moment has to lie in a later one.
    second = "SELECT extract(epoch FROM clock_timestamp())::bigint"
    ended = int(sql(second))
    wait_until(lambda: int(sql(second)) > ended + 1, "the next second")
    assert put(accounts["almaty"], "u02kz", 70, temperature=1.0).status == 201
    moment, before = sql("SELECT clock_timestamp()"), sql(TIMELINE)
    assert put(accounts["almaty"], "u02kz", 71, temperature=1.0).status == 201
    for wrong in ("yesterdayish", "2001-01-01", "2101-01-01"):
        said = inside(HUB, "unisat-hub-restore", wrong, check=False)
        assert said.startswith("unisat-hub-restore: "), said
    assert sql(TIMELINE) == before

    inside(HUB, "unisat-hub-restore", moment)
    assert sql(TIMELINE) != before
    assert stored(accounts, 70)
    assert not stored(accounts, 71)
    # Its station sees the other timeline, and brings it.
    assert put(accounts["almaty"], "u02kz", 71, temperature=1.0).status == 201
    inside(HUB, "systemctl", "start", "unisat-hub-backup")


def test_an_old_month_goes_to_the_archive_and_readers_find_it_there(
    accounts: dict[str, Account],
) -> None:
    assert put(accounts["almaty"], "u02kz", 80, temperature=21.5).status == 201
    inside(HUB, "systemctl", "start", "unisat-archive")
    assert not stored(accounts, 80)
    for who in ("reader", "app"):
        index = accounts[who].ask("GET", "/archive/index.json")
        assert index.status == 200
        assert index.json["devices"]["u02kz"]["2022-08"] > 0
    reader = accounts["reader"]
    manifest = reader.ask("GET", "/archive/u02kz/u02kz-2022-08.json").json
    for name, what in manifest["files"].items():
        answer = reader.ask("GET", f"/archive/u02kz/{name}")
        assert hashlib.sha256(answer.text).hexdigest() == what["sha256"]
        part = reader.ask("GET", f"/archive/u02kz/{name}", headers={"Range": "bytes=-4"})
        assert (part.status, part.text) == (206, answer.text[-4:])
    assert b"u02kz-2022-08.csv.gz" in reader.ask("GET", "/archive/u02kz/").text
    # What is let go is no secret, and not everybody's.
    for who, status in {"anonymous": 401, "stranger": 401, "almaty": 403}.items():
        answer = accounts[who].ask("GET", "/archive/index.json")
        assert (answer.status, answer.json["code"]) == (status, status), who
        # A browser asks for a login.
        assert ("www-authenticate" in answer.headers) is (status == 401), who
    for path in (".lock", "u02kz/.new-2022-08/x", "../unisat-hub/", "nothing"):
        assert reader.ask("GET", f"/archive/{path}").status in {400, 404}, path


@pytest.mark.parametrize("unit", ["unisat-archive.timer", "unisat-hub-backup.timer"])
def test_it_happens_every_night(unit: str) -> None:
    assert inside(HUB, "systemctl", "is-active", unit).strip() == "active"
    assert inside(HUB, "systemctl", "is-enabled", unit).strip() == "enabled"
