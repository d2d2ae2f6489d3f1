"""account, latest and series over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from conftest import EPOCH, Network, User, record

HOUR_S = 3600
# A full hour.
START = 1660917600


def get(user: User, path: str, **headers: str) -> Any:
    """The data of a 200."""
    answer = user("GET", path, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def at(seconds: float, **changes: Any) -> dict[str, Any]:
    """A record of that many seconds after START."""
    return record(int(seconds), timestamp=START + int(seconds), **changes)


READING = ["account", "series"]


@pytest.mark.parametrize("endpoint", READING)
def test_reading_needs_read(network: Network, collection: str, endpoint: str) -> None:
    network.user("station").ingest(collection, [record(1)])
    path = f"{collection}/{endpoint}"
    for name, status in (("", 401), ("station", 403), ("stranger", 403), ("reader", 200)):
        assert network.user(name)("GET", path).status_code == status, name
    assert network.user("stranger")("GET", f"{collection}x/{endpoint}").status_code == 404
    assert network.user("admin")("GET", f"{collection}x/account").status_code == 404


@pytest.mark.parametrize("endpoint", READING)
def test_304_until_something_is_stored(
    station: User, reader: User, collection: str, endpoint: str
) -> None:
    station.ingest(collection, [record(1)])
    path = f"{collection}/{endpoint}"
    etag = reader("GET", path).headers["ETag"]
    assert reader("GET", path, headers={"If-None-Match": etag}).status_code == 304
    station.ingest(collection, [record(2)])
    assert reader("GET", path, headers={"If-None-Match": etag}).status_code == 200


def test_account_counts_each_epoch(
    station: User, admin: User, reader: User, collection: str
) -> None:
    assert get(reader, f"{collection}/account")["epochs"] == []
    batch = [record(n) for n in (5, 6, 9, 10, 11)]
    station.ingest(collection, batch)
    station.ingest(collection, [*batch, record(3, epoch="other"), {"id": "bare"}])
    found = get(reader, f"{collection}/account")
    assert (found["records"], found["retain_from"]) == (7, 0)
    own = {"epoch": EPOCH, "records": 5, "first_seq": 5, "last_seq": 11, "missing": 2}
    assert {row["epoch"]: row for row in found["epochs"]}[EPOCH] == own
    one = get(reader, f"{collection}/account?epoch={EPOCH}")
    expected = {"epoch": EPOCH, "from": 5, "to": 11, "records": 5, "missing": 2}
    assert one == expected | {"gaps": [[7, 8]], "next": None}
    wide = get(reader, f"{collection}/account?epoch={EPOCH}&from=1&to=20")
    assert wide["gaps"] == [[1, 4], [7, 8], [12, 20]]
    assert wide["missing"] == 4 + 2 + 9
    # What is deleted, by Kinto's own endpoint, is missing; at the ends too.
    for row in (batch[0], batch[-1]):
        admin("DELETE", f"{collection}/records/{row['id']}")
    ends = {row["epoch"]: row for row in get(reader, f"{collection}/account")["epochs"]}[EPOCH]
    assert ends == own | {"records": 3, "first_seq": 6, "last_seq": 10}
    # And what it writes is counted.
    admin("PUT", f"{collection}/records/stock", json={"data": record(30, id="stock")})
    admin("PUT", f"{collection}/records/stock", json={"data": record(31, id="stock")})
    ends = {row["epoch"]: row for row in get(reader, f"{collection}/account")["epochs"]}[EPOCH]
    assert ends == own | {"records": 4, "first_seq": 6, "last_seq": 31, "missing": 22}


def test_account_refuses_what_makes_no_sense(station: User, reader: User, collection: str) -> None:
    station.ingest(collection, [record(1)])
    for query in ("epoch=none", f"epoch={EPOCH}&from=x", f"epoch={EPOCH}&from=9&to=3"):
        answer = reader("GET", f"{collection}/account?{query}")
        assert answer.status_code == 400, query
        assert answer.json()["errno"] == 107


def test_series_from_records_minutes_and_hours_agree(
    station: User, reader: User, collection: str
) -> None:
    # Every 20 s for 4 hours, with half an hour of silence in the third.
    values = [
        at(s, temperature=float(s % 600), pm25=s / 100)
        for s in range(0, 4 * HOUR_S, 20)
        if not 2 * HOUR_S <= s < 2.5 * HOUR_S
    ]
    for cut in range(0, len(values), 500):
        station.ingest(collection, values[cut : cut + 500])
    window = f"from={START}&to={START + 4 * HOUR_S}"
    for points, step, buckets in ((720, 20, 630), (240, 60, 210), (48, 300, 42), (4, 3600, 4)):
        found = get(reader, f"{collection}/series?{window}&points={points}&fields=temperature,x")
        assert (found["step"], found["from"], found["pending_hours"]) == (step, START, 0)
        assert len(found["time"]) == buckets
        assert sum(found["records"]) == 630
        # The silence is a gap.
        silent = range(START + 2 * HOUR_S, START + 2 * HOUR_S + 1800, step)
        assert step == HOUR_S or not set(silent) & set(found["time"])
        series = found["fields"]["temperature"]
        place = found["time"].index(START)
        sent = [row["temperature"] for row in values if row["timestamp"] < START + step]
        assert (series["count"][place], series["min"][place]) == (len(sent), min(sent))
        assert series["max"][place] == max(sent)
        assert series["mean"][place] == pytest.approx(sum(sent) / len(sent))
        assert set(found["fields"]["x"]["min"]) == {None}


def test_series_follows_late_records_and_deletions(
    station: User, admin: User, reader: User, collection: str
) -> None:
    path = f"{collection}/series?from={START}&to={START + 2 * HOUR_S}&points=2&fields=pm25"
    station.ingest(collection, [at(0, pm25=1.0), at(HOUR_S, pm25=5.0)])
    assert get(reader, path)["fields"]["pm25"]["max"] == [1.0, 5.0]
    late = at(60, pm25=9.0)
    station.ingest(collection, [late])
    assert get(reader, path)["fields"]["pm25"]["max"] == [9.0, 5.0]
    admin("DELETE", f"{collection}/records/{late['id']}")
    assert get(reader, path)["fields"]["pm25"]["max"] == [1.0, 5.0]
    changed = at(120, pm25=3.0)
    admin("PUT", f"{collection}/records/{changed['id']}", json={"data": changed})
    assert get(reader, path)["fields"]["pm25"]["count"] == [2, 1]


def test_series_defaults_to_the_newest_day(station: User, reader: User, collection: str) -> None:
    assert get(reader, f"{collection}/series")["time"] == []
    station.ingest(collection, [at(-3 * 86400), at(0), at(5)])
    found = get(reader, f"{collection}/series")
    assert sum(found["records"]) == 2
    assert set(found["fields"]) == {"temperature", "humidity", "pressure", "pm25", "pm10"}


def test_series_survives_odd_numbers(network: Network, admin: User, reader: User) -> None:
    collection = "/buckets/telemetry/collections/odd"
    admin("PUT", collection, json={"permissions": {"read": ["account:reader"]}})
    odd: list[dict[str, Any]] = [{"timestamp": "now"}, {"timestamp": [1]}, {"epoch": 5}]
    for data in [*odd, {"timestamp": START + 0.5, "pm25": 2.0, "seq": "x"}]:
        assert admin("POST", f"{collection}/records", json={"data": data}).status_code == 201
    # Kinto refuses such a number; another program may have written it.
    with network.database().cursor() as cursor:
        cursor.execute(
            "INSERT INTO objects (id, parent_id, resource_name, data, deleted) VALUES"
            """ ('n', %s, 'record', '{"timestamp": %s, "pm25": 1e400}', FALSE)""",
            (collection, START),
        )
    window = f"from={START}&to={START + HOUR_S}&fields=pm25"
    for points in (1, 60, 3600):
        found = get(reader, f"{collection}/series?{window}&points={min(points, 2000)}")
        assert found["records"] == [2]
        assert found["fields"]["pm25"]["max"] == [2.0]
    assert get(reader, f"{collection}/account")["records"] == 5


def test_series_refuses_what_is_out_of_bounds(reader: User, collection: str) -> None:
    for query in ("points=0", "points=2001", "from=9&to=3", "from=-1", "fields=a%20b", "fields=",
                  "fields=" + ",".join(f"f{n}" for n in range(21))):  # fmt: skip
        assert reader("GET", f"{collection}/series?{query}").status_code == 400, query


def test_latest_lists_what_one_may_read(network: Network, station: User) -> None:
    bucket = "/buckets/sats"
    admin = network.user("admin")
    admin("PUT", bucket)
    one, two, three = (network.collection(bucket) for _ in range(3))
    own: Any = {"permissions": {"read": []}}
    assert admin("PATCH", three, json=own).status_code == 200
    # The newest by device time, and not the one that was stored last.
    station.ingest(one, [record(7, pm25=7.0)])
    station.ingest(one, [record(n) for n in range(5)])
    station.ingest(three, [record(1)])
    answer = network.user("reader")("GET", f"{bucket}/latest")
    rows = answer.json()["data"]
    assert [row["id"] for row in rows] == [path.split("/")[-1] for path in (one, two)]
    assert (rows[0]["records"], rows[0]["newest"]["pm25"]) == (6, 7.0)
    assert (rows[1]["records"], rows[1]["newest"]) == (0, None)
    listed = admin("GET", f"{bucket}/latest")
    assert len(listed.json()["data"]) == 3
    assert network.user("")("GET", f"{bucket}/latest").status_code == 401
    # To be allowed to add shows nothing.
    assert network.user("station")("GET", f"{bucket}/latest").status_code == 403
    assert admin("GET", "/buckets/none/latest").status_code in {403, 404}
    # 304 until something changes, for each of them.
    etag = {"If-None-Match": answer.headers["ETag"]}
    assert network.user("reader")("GET", f"{bucket}/latest", headers=etag).status_code == 304
    station.ingest(two, [record(1)])
    assert network.user("reader")("GET", f"{bucket}/latest", headers=etag).status_code == 200
    # Pages.
    page = admin("GET", f"{bucket}/latest?limit=2")
    assert [row["id"] for row in page.json()["data"]] == [p.split("/")[-1] for p in (one, two)]
    following = page.headers["Next-Page"].split("/v1")[1]
    rest = admin("GET", following)
    assert [row["id"] for row in rest.json()["data"]] == [three.split("/")[-1]]
    assert "Next-Page" not in rest.headers


def test_latest_follows_every_kind_of_change(
    network: Network, station: User, admin: User, reader: User
) -> None:
    collection = network.collection()
    name = collection.rpartition("/")[2]

    def newest() -> Any:
        found = {row["id"]: row for row in get(reader, "/buckets/telemetry/latest")}[name]
        etag = reader("GET", f"{collection}/records").headers["ETag"]
        assert found["last_modified"] == int(etag.strip('"'))
        listed = reader.records(collection, "?_sort=-timestamp&_limit=1&has_timestamp=true")
        assert [found["newest"]] == listed or found["newest"] is None
        return (found["newest"] or {}).get("seq")

    assert newest() is None
    station.ingest(collection, [{"id": "bare"}])
    assert newest() is None
    station.ingest(collection, [at(seconds) for seconds in (5, 90, 60)])
    assert newest() == 90
    # A backlog is older; of two at the same time the later one counts.
    station.ingest(collection, [at(7)])
    assert newest() == 90
    last = record(91, timestamp=START + 90, clock="unsynced")
    station.ingest(collection, [last])
    assert newest() == 91
    # A correction, Kinto's own writes, and what takes the newest away.
    station.ingest(collection, [{**last, "timestamp": START + 30, "clock": "corrected"}])
    assert newest() == 90
    admin("PUT", f"{collection}/records/stock", json={"data": at(120, id="stock")})
    assert newest() == 120
    admin("PATCH", f"{collection}/records/stock", json={"data": {"pm25": 9.0}})
    assert newest() == 120
    admin("DELETE", f"{collection}/records/stock")
    assert newest() == 90
    admin("POST", f"{collection}/retain", json={"before": START + 2 * HOUR_S})
    assert newest() is None
    station.ingest(collection, [at(3 * HOUR_S)])
    assert newest() == 3 * HOUR_S
    admin("DELETE", f"{collection}/records")
    assert newest() is None
