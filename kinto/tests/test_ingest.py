"""records:ingest over HTTP."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from conftest import Network, User, ndjson, record

NOTHING: dict[str, Any] = {
    "created": 0, "corrected": [], "identical": [], "different": [], "deleted": [], "invalid": []
}  # fmt: skip


def post(user: User, collection: str, body: bytes, kind: str, encoding: str = "") -> Any:
    """An ingest request with a body as it is."""
    headers = {"Content-Type": kind} | ({"Content-Encoding": encoding} if encoding else {})
    return user("POST", f"{collection}/records:ingest", data=body, headers=headers)


def outcome(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer without `newest`."""
    return {key: value for key, value in answer.items() if key != "newest"}


def test_stores_and_says_what_was_there(station: User, reader: User, collection: str) -> None:
    batch = [record(n) for n in range(5)]
    first = station.ingest(collection, batch)
    assert outcome(first) == NOTHING | {"created": 5}
    again = station.ingest(collection, [*batch, record(5)])
    assert outcome(again) == NOTHING | {"created": 1, "identical": [r["id"] for r in batch]}
    listed = reader.records(collection, "?_sort=last_modified")
    assert [row["seq"] for row in listed] == [0, 1, 2, 3, 4, 5]
    assert listed[-1]["last_modified"] == again["newest"] > first["newest"]
    stored = {key: value for key, value in listed[0].items() if key != "last_modified"}
    assert stored == batch[0]


def test_empty_batch(station: User, collection: str) -> None:
    assert outcome(station.ingest(collection, [])) == NOTHING
    assert outcome(station.ingest(collection, [])) == NOTHING


def test_other_content_under_the_same_id_changes_nothing(
    station: User, reader: User, collection: str
) -> None:
    first = record(1)
    station.ingest(collection, [first])
    answer = station.ingest(collection, [{**first, "temperature": 99.0}])
    assert outcome(answer) == NOTHING | {"different": [first["id"]]}
    assert reader.records(collection)[0]["temperature"] == 32.0


def test_duplicates_within_a_batch_are_counted(station: User, collection: str) -> None:
    first = record(1)
    answer = station.ingest(collection, [first, first, {**first, "pm25": 5.0}])
    expected = {"created": 1, "identical": [first["id"]], "different": [first["id"]]}
    assert outcome(answer) == NOTHING | expected


def test_a_time_correction_is_the_one_update(station: User, reader: User, collection: str) -> None:
    late = record(1, clock="unsynced", timestamp=120, received_at="1970-01-01T00:02:00.000Z")
    station.ingest(collection, [late, record(2)])
    seen = reader.records(collection, "?_limit=1")[0]["last_modified"]
    right = {**late, "clock": "corrected", "timestamp": 1660918192, "received_at": "2022-08-19"}
    answer = station.ingest(collection, [right])
    assert outcome(answer) == NOTHING | {"corrected": [late["id"]]}
    # A poller is told of it.
    (row,) = reader.records(collection, f"?_since={seen}")
    assert row["timestamp"] == 1660918192
    assert row["clock"] == "corrected"
    assert row["last_modified"] == answer["newest"]
    # Neither the old time nor a second correction gets through, and other content never did.
    assert station.ingest(collection, [late])["identical"] == [late["id"]]
    assert station.ingest(collection, [{**right, "timestamp": 5}])["different"] == [late["id"]]


def test_a_correction_changes_the_time_only(station: User, collection: str) -> None:
    late = record(1, clock="unsynced")
    station.ingest(collection, [late])
    changed = {**late, "clock": "corrected", "pm25": 400.0}
    assert station.ingest(collection, [changed])["different"] == [late["id"]]
    synced = {**late, "clock": "synced", "timestamp": 7}
    assert station.ingest(collection, [synced])["different"] == [late["id"]]


def test_two_corrections_and_duplicates_in_one_batch(station: User, collection: str) -> None:
    late = [record(n, clock="unsynced") for n in range(2)]
    right = [{**row, "clock": "corrected", "timestamp": 1700000000} for row in late]
    answer = station.ingest(collection, [*late, *right, right[0]])
    assert answer["created"] == 2
    assert sorted(answer["corrected"]) == sorted([*(r["id"] for r in right), right[0]["id"]])


def test_deleted_stays_deleted_unless_asked(
    station: User, admin: User, reader: User, collection: str
) -> None:
    gone, kept = record(1), record(2)
    station.ingest(collection, [gone, kept])
    assert admin("DELETE", f"{collection}/records/{gone['id']}").status_code == 200
    answer = station.ingest(collection, [gone, kept])
    assert outcome(answer) == NOTHING | {"deleted": [gone["id"]], "identical": [kept["id"]]}
    denied = station("POST", f"{collection}/records:ingest?bring_back=true", json=[gone])
    assert denied.status_code == 403
    back = admin.ingest(collection, [gone], "?bring_back=true")
    assert outcome(back) == NOTHING | {"created": 1}
    assert {row["id"] for row in reader.records(collection)} == {gone["id"], kept["id"]}


def test_nothing_comes_back_below_the_floor(network: Network, station: User, admin: User) -> None:
    collection = network.collection(retain_from=1660918198)
    old, new = record(1), record(2)
    answer = station.ingest(collection, [old, new])
    assert outcome(answer) == NOTHING | {"created": 1, "deleted": [old["id"]]}
    assert admin.ingest(collection, [old], "?bring_back=true")["created"] == 1


BAD_RECORDS = [
    pytest.param(5, None, "object", id="a number"),
    pytest.param({"x": 1}, None, "id", id="no id"),
    pytest.param(record(1, id=5), None, "id", id="id is a number"),
    pytest.param(record(1, id="a/b"), None, "id", id="id with a slash"),
    pytest.param(record(1, id="x" * 65), None, "id", id="id is long"),
    pytest.param(record(1, id="b", note="\0"), "b", "NUL", id="NUL"),
    pytest.param({**record(1, id="b"), "a\0": 1}, "b", "NUL", id="NUL in a name"),
    pytest.param(record(1, id="b", note="\ud800"), "b", "surrogate", id="surrogate"),
    pytest.param(record(1, id="b", pm25=float("nan")), "b", "NaN", id="NaN"),
    pytest.param(record(1, id="b", pm25=[{"x": float("inf")}]), "b", "infinity", id="Infinity"),
    pytest.param(record(1, id="b", pm25=10**4000), "b", "integer", id="4,000 digits"),
    pytest.param(record(1, id="b", timestamp="today"), "b", "timestamp", id="timestamp is text"),
    pytest.param(record(1, id="b", timestamp=1.5), "b", "timestamp", id="timestamp is a double"),
    pytest.param(record(1, id="b", seq=-1), "b", "seq", id="negative seq"),
    pytest.param(record(1, id="b", deleted=True), "b", "deleted", id="deleted"),
    pytest.param(record(1, id="b", note="x" * 65536), "b", "larger", id="large record"),
]


@pytest.mark.parametrize(("bad", "name", "word"), BAD_RECORDS)
def test_an_invalid_record_is_an_outcome(
    station: User, collection: str, bad: Any, name: str | None, word: str
) -> None:
    answer = station.ingest(collection, [record(0), bad, record(2)])
    (invalid,) = answer.pop("invalid")
    assert answer["created"] == 2
    assert (invalid["index"], invalid["id"]) == (1, name)
    assert word in invalid["reason"]


def test_a_number_that_overflows_and_bad_lines_are_outcomes(station: User, collection: str) -> None:
    body = b'{"id": "a", "pm25": 1e400}\n{"id": "b"\n\n{"id": "c", "pm25": 1.5}\n' + b"[" * 9999
    answer = post(station, collection, body, "application/x-ndjson").json()["data"]
    assert answer["created"] == 1
    assert [(bad["index"], bad["id"]) for bad in answer["invalid"]] == [
        (0, "a"), (1, None), (3, None)
    ]  # fmt: skip


def test_what_the_server_fills_in_is_ignored(station: User, reader: User, collection: str) -> None:
    sent = record(1, last_modified=9999999999999, schema=5)
    station.ingest(collection, [sent])
    (row,) = reader.records(collection)
    assert row["last_modified"] < 9999999999999
    assert "schema" not in row
    assert station.ingest(collection, [sent])["identical"] == [sent["id"]]


def test_ndjson_and_gzip(station: User, collection: str) -> None:
    lines, array = ndjson([record(1), record(2)]), json.dumps([record(3)]).encode()
    for body, kind, encoding, created in (
        (lines, "application/x-ndjson", "", 2),
        (array, "application/json", "", 1),
        (gzip.compress(ndjson([record(4)])), "application/x-ndjson", "gzip", 1),
        (gzip.compress(json.dumps([record(5)]).encode()), "application/json", "gzip", 1),
    ):
        answer = post(station, collection, body, kind, encoding)
        assert answer.json()["data"]["created"] == created, answer.text


ARRAY = "application/json"
BAD_BODIES = [
    pytest.param(b"[{", ARRAY, "", 400, id="broken JSON"),
    pytest.param(b'{"data": []}', ARRAY, "", 400, id="not an array"),
    pytest.param(b"[" * 100000, ARRAY, "", 400, id="deep"),
    pytest.param(b"\xff\xfe[]", ARRAY, "", 400, id="not UTF-8"),
    pytest.param(b"", ARRAY, "", 400, id="no body"),
    pytest.param(b"[]", ARRAY, "gzip", 400, id="not gzip"),
    pytest.param(gzip.compress(b"[]")[:-4], ARRAY, "gzip", 400, id="cut gzip"),
    pytest.param(gzip.compress(b"[]") * 2, ARRAY, "gzip", 400, id="two gzip members"),
    pytest.param(gzip.compress(b" " * (64 << 20)), ARRAY, "gzip", 413, id="gzip bomb"),
    pytest.param(b"[" + b" " * (4 << 20) + b"]", ARRAY, "", 413, id="4 MiB and more"),
    pytest.param(ndjson([record(1)] * 1001), "application/x-ndjson", "", 413, id="1,001 records"),
    pytest.param(b"[]", "text/plain", "", 415, id="text"),
    pytest.param(b"[]", ARRAY, "br", 415, id="brotli"),
]


@pytest.mark.parametrize(("body", "kind", "encoding", "status"), BAD_BODIES)
def test_a_bad_body_is_refused_in_kintos_words(
    station: User, reader: User, collection: str, body: bytes, kind: str, encoding: str, status: int
) -> None:
    answer = post(station, collection, body, kind, encoding)
    assert answer.status_code == status, answer.text
    assert answer.json()["code"] == status
    assert reader.records(collection) == []


def test_the_largest_batch(station: User, reader: User, collection: str) -> None:
    batch = [record(n) for n in range(1000)]
    assert station.ingest(collection, batch)["created"] == 1000
    answer = reader("HEAD", f"{collection}/records")
    assert answer.headers["Total-Objects"] == "1000"
    # Kinto refuses a _since of the future.
    etag = answer.headers["ETag"].strip('"')
    assert reader("GET", f"{collection}/records?_since={etag}").status_code == 200
    assert len(station.ingest(collection, batch)["identical"]) == 1000


def test_kintos_own_policy_decides(network: Network, collection: str) -> None:
    path, body = f"{collection}/records:ingest", [record(1)]
    for name, status in (("", 401), ("reader", 403), ("stranger", 403), ("admin", 200)):
        answer = network.user(name)("POST", path, json=body)
        assert answer.status_code == status, (name, answer.text)
    wrong = User(network.kintos[0].url, "station", "wrong")
    assert wrong("POST", path, json=body).status_code == 401
    # A permission that is taken away ends at once.
    change: Any = {"permissions": {"record:create": []}}
    assert network.user("admin")("PATCH", collection, json=change).status_code == 200
    assert network.user("station")("POST", path, json=body).status_code == 403


def test_an_unknown_collection_is_404(network: Network, station: User) -> None:
    for bucket in ("telemetry", "nothing"):
        answer = station("POST", f"/buckets/{bucket}/collections/none/records:ingest", json=[])
        assert answer.status_code == 404
        assert answer.json()["details"] == {"id": "none", "resource_name": "collection"}
    admin = network.user("admin")
    answer = admin("POST", "/buckets/telemetry/collections/none/records:ingest", json=[])
    assert answer.status_code == 404
    bad = admin("POST", "/buckets/telemetry/collections/a%20b/records:ingest", json=[])
    assert bad.status_code == 404


def test_the_default_bucket_is_refused(admin: User) -> None:
    own = admin("GET", "/").json()["user"]["bucket"]
    for bucket in ("default", own):
        path = f"/buckets/{bucket}/collections/u01kz/records:ingest"
        answer = admin("POST", path, json=[record(1)])
        assert answer.status_code == 403, bucket
        assert "name the bucket" in answer.json()["message"]


def test_a_deleted_collection_takes_nothing(network: Network, station: User, admin: User) -> None:
    collection = network.collection()
    station.ingest(collection, [record(1)])
    assert admin("DELETE", collection).status_code == 200
    assert station("POST", f"{collection}/records:ingest", json=[record(2)]).status_code == 404


def test_etag_304_and_before(station: User, reader: User, collection: str) -> None:
    station.ingest(collection, [record(1), record(2)])
    path = f"{collection}/records"
    etag = reader("GET", path).headers["ETag"]
    assert reader("GET", path, headers={"If-None-Match": etag}).status_code == 304
    newest = station.ingest(collection, [record(3)])["newest"]
    fresh = reader("GET", path, headers={"If-None-Match": etag})
    assert (fresh.status_code, fresh.headers["ETag"]) == (200, f'"{newest}"')
    assert [row["seq"] for row in reader.records(collection, f"?_before={newest}")] == [2, 1]


def test_a_failure_is_logged_without_the_batch(network: Network, station: User) -> None:
    collection, secret = network.collection(), "LATITUDE-OF-THE-SCHOOL"
    with network.database().cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION fail() RETURNS TRIGGER LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'no'; END $$;"
            "CREATE TRIGGER fail BEFORE INSERT ON objects FOR EACH ROW"
            " WHEN (NEW.id = 'poison') EXECUTE FUNCTION fail()"
        )
    try:
        path = f"{collection}/records:ingest"
        body = [record(1, id="poison", note=secret), record(2)]
        answer = station("POST", path, json=body)
        assert answer.status_code == 503
        assert network.user("reader").records(collection) == []
    finally:
        with network.database().cursor() as cursor:
            cursor.execute("DROP TRIGGER fail ON objects; DROP FUNCTION fail()")
    log = network.kintos[0].log.read_text()
    assert "unisat_ingest" in log
    assert secret not in log


def test_no_right_to_rewrite_is_left(network: Network, station: User, reader: User) -> None:
    collection = network.collection()
    body = {"data": record(1, id="one")}
    path = f"{collection}/records/one"
    assert station("PUT", path, json=body, headers={"If-None-Match": "*"}).status_code == 201
    assert station("POST", f"{collection}/records", json={"data": {"seq": 2}}).status_code == 201
    station.ingest(collection, [record(3, id="three")])
    for name in ("one", "three"):
        for method in ("PUT", "PATCH", "DELETE"):
            answer = station(method, f"{collection}/records/{name}", json={"data": {"seq": 9}})
            assert answer.status_code == 403, (name, method)
    # Kinto deletes those that it may: none.
    assert station("DELETE", f"{collection}/records").json()["data"] == []
    shared = {"data": record(4), "permissions": {"write": ["account:station"]}}
    assert station("POST", f"{collection}/records", json=shared).status_code == 400
    assert len(reader.records(collection)) == 3
