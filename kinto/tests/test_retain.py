"""Retention: what is let go stays away, and what was made of it stays."""

from __future__ import annotations

import time
from typing import Any

from conftest import Network, User, record
from test_reading import HOUR_S, START, at, get


def retain(user: User, collection: str, before: Any) -> Any:
    """The answer to a retain request."""
    return user("POST", f"{collection}/retain", json={"before": before})


def test_lets_old_records_go_and_keeps_their_series(
    network: Network, station: User, admin: User, reader: User
) -> None:
    collection = network.collection(name="kept")
    old = [at(s, pm25=s / 60) for s in range(0, 2 * HOUR_S, 60)]
    new = [at(2 * HOUR_S + s, pm25=1.0) for s in range(0, HOUR_S, 60)]
    unsynced = record(1, timestamp=120, clock="unsynced")
    station.ingest(collection, [*old, *new, unsynced])
    chart = f"{collection}/series?from={START}&to={START + 3 * HOUR_S}&fields=pm25&points=180"
    before = get(reader, chart)
    etag = reader("GET", f"{collection}/records").headers["ETag"]

    # In the middle of an hour: whole hours go.
    answer = retain(admin, collection, START + 2 * HOUR_S + 1234).json()["data"]
    floor = START + 2 * HOUR_S
    assert answer == {"deleted": len(old), "retain_from": floor, "complete": True}
    metadata = admin("GET", collection).json()["data"]
    assert (metadata["retain_from"], metadata["name"]) == (floor, "kept")
    # No tombstones, right counts, another ETag.
    listed = reader("GET", f"{collection}/records?_since=0")
    assert len(listed.json()["data"]) == len(new) + 1
    assert listed.headers["ETag"] > etag
    assert get(reader, chart) == before
    found = get(reader, f"{collection}/account")
    assert (found["records"], found["retain_from"]) == (len(new) + 1, floor)

    # What comes again is not brought back; a clock that was never set is no reason to refuse.
    late = record(2, timestamp=121, clock="unsynced")
    again = station.ingest(collection, [*old[:3], new[0], late])
    assert again["deleted"] == [row["id"] for row in old[:3]]
    assert (again["identical"], again["created"]) == ([new[0]["id"]], 1)
    # A stock writer may put one back; the chart of what is gone does not suffer.
    admin("PUT", f"{collection}/records/{old[0]['id']}", json={"data": old[0]})
    assert get(reader, chart) == before
    # Pollers go on.
    newest = station.ingest(collection, [at(9 * HOUR_S)])["newest"]
    assert newest > int(listed.headers["ETag"].strip('"'))
    assert retain(admin, collection, START).json()["data"]["retain_from"] == floor


def test_needs_write_and_a_mark_that_makes_sense(
    network: Network, admin: User, collection: str
) -> None:
    for name, status in (("", 401), ("station", 403), ("reader", 403)):
        assert retain(network.user(name), collection, START).status_code == status, name
    # Milliseconds lie in the future.
    for mark in (None, "now", 1.5, True, 0, -5, START * 1000, int(time.time()) + 60):
        assert retain(admin, collection, mark).status_code == 400, mark
    assert admin("POST", f"{collection}/retain", json=[]).status_code == 400
    assert retain(admin, f"{collection}x", START).status_code == 404


def test_a_long_past_goes_in_steps(network: Network, station: User, admin: User) -> None:
    collection = network.collection()
    hours = 450
    records = [record(n, timestamp=START + n * HOUR_S) for n in range(hours)]
    for row in records[::200]:
        station.ingest(collection, [row])
    station.ingest(collection, records)
    deleted, steps, complete = 0, 0, False
    while not complete:
        answer = retain(admin, collection, START + hours * HOUR_S).json()["data"]
        deleted, steps, complete = deleted + answer["deleted"], steps + 1, answer["complete"]
    assert (deleted, steps) == (hours, 3)
    assert answer["retain_from"] == START + hours * HOUR_S
