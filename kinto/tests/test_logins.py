"""A login that was right is not asked for again, and counts for nothing as soon as it is not."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from typing import Any

import pytest

from conftest import BUCKET, Network, User, record


def _send(user: User, collection: str) -> int:
    """The status of an ingest of one new record."""
    return int(user("POST", f"{collection}/records:ingest", json=[record(1)]).status_code)


def _lookups(memcached: str) -> int:
    """How often anybody asked memcached for a value."""
    host, _, port = memcached.partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"stats\r\n")
        answer = b""
        while not answer.endswith(b"END\r\n"):
            answer += connection.recv(65536)
    found = re.search(rb"STAT cmd_get (\d+)", answer)
    assert found
    return int(found[1])


@pytest.fixture
def known(network: Network, collection: str) -> tuple[User, User]:
    """A new account on both Kintos that may add to the collection, and has just done so twice."""
    name = f"station-{collection.rpartition('/')[2]}"
    network.kintos[0].create_account(name, name)
    rights = {"permissions": {"record:create": [f"account:{name}"]}}
    assert network.user("admin")("PATCH", collection, json=rights).status_code == 200
    users = (network.user(name), network.user(name, 1))
    for user in users:
        for _ in range(2):
            assert _send(user, collection) == 200
    return users


def _new_password(admin: User, account: str, _: str) -> None:
    answer = admin("PUT", f"/accounts/{account}", json={"data": {"password": "another"}})
    assert answer.status_code == 200


def _no_account(admin: User, account: str, _: str) -> None:
    assert admin("DELETE", f"/accounts/{account}").status_code == 200


def _no_right(admin: User, _: str, collection: str) -> None:
    rights: dict[str, Any] = {"permissions": {"record:create": []}}
    assert admin("PATCH", collection, json=rights).status_code == 200


def _no_collection(admin: User, _: str, collection: str) -> None:
    assert admin("DELETE", collection).status_code == 200


@pytest.mark.parametrize(
    ("change", "status"),
    [(_new_password, 401), (_no_account, 401), (_no_right, 403), (_no_collection, 404)],
)
def test_what_is_taken_away_counts_at_once_in_every_process(
    known: tuple[User, User],
    admin: User,
    collection: str,
    change: Callable[[User, str, str], None],
    status: int,
) -> None:
    change(admin, known[0].name, collection)
    for user in known:
        assert _send(user, collection) == status
        bad = user("POST", f"{collection}/records:ingest", data="nonsense")
        assert bad.status_code == status


def test_a_new_password_counts_at_once_and_the_old_one_never_again(
    known: tuple[User, User], admin: User, collection: str
) -> None:
    _new_password(admin, known[0].name, collection)
    for user in known:
        old = User(user.url, user.name, user.password)
        user.password = "another"
        for _ in range(2):
            assert _send(user, collection) == 200
            assert _send(old, collection) == 401


def test_a_right_by_a_group_ends_with_the_membership(
    network: Network, known: tuple[User, User], admin: User
) -> None:
    group = f"{BUCKET}/groups/{known[0].name}"
    members: list[str] = [f"account:{known[0].name}"]
    assert admin("PUT", group, json={"data": {"members": members}}).status_code == 201
    collection = network.collection()
    rights = {"permissions": {"record:create": [group]}}
    assert admin("PATCH", collection, json=rights).status_code == 200
    for user in known:
        assert _send(user, collection) == 200
    assert admin("PUT", group, json={"data": {"members": []}}).status_code == 200
    for user in known:
        assert _send(user, collection) == 403


def test_a_known_login_asks_nothing_of_the_cache(
    network: Network, known: tuple[User, User], collection: str
) -> None:
    before = _lookups(network.memcached)
    for user in known:
        assert _send(user, collection) == 200
    assert _lookups(network.memcached) == before
    # Kinto's own policy does.
    assert known[0]("GET", "/").status_code == 200
    assert _lookups(network.memcached) > before


def test_no_other_collection_is_open_to_a_known_login(
    network: Network, known: tuple[User, User]
) -> None:
    elsewhere = network.collection()
    for user in known:
        assert _send(user, elsewhere) == 403
        assert _send(user, f"{BUCKET}/collections/missing") == 404
        assert _send(user, "/buckets/missing/collections/missing") == 404
        assert _send(user, "/buckets/default/collections/missing") == 403


def test_to_bring_back_needs_write_for_a_known_login_too(
    known: tuple[User, User], collection: str
) -> None:
    path = f"{collection}/records:ingest?bring_back=true"
    for user in known:
        assert user("POST", path, json=[record(1)]).status_code == 403


def test_a_known_login_gets_each_outcome(known: tuple[User, User], collection: str) -> None:
    first, second = record(1), record(2)
    assert known[0].ingest(collection, [first, second])["created"] == 2
    answer = known[1].ingest(collection, [first, {**second, "pm25": 5.0}, {"id": "?"}, record(3)])
    assert answer["created"] == 1
    assert answer["identical"] == [first["id"]]
    assert answer["different"] == [second["id"]]
    assert [one["index"] for one in answer["invalid"]] == [2]


def test_the_short_way_answers_as_the_ordinary_one(
    network: Network, admin: User, collection: str
) -> None:
    station, path = network.user("station"), f"{collection}/records:ingest"
    # Right only once more, so that the first one is not known.
    network.kintos[0].create_account("station", "station")
    headers = []
    for seq in range(2):
        answer = station("POST", path, json=[record(seq)])
        assert answer.json()["data"]["created"] == 1
        changing = {"Date", "Content-Length"}
        headers.append({k: v for k, v in answer.headers.items() if k not in changing})
    assert headers[0] == headers[1]
    for broken in ("/buckets/%ff", f"{BUCKET}/collections/%ff/records:ingest"):
        assert station("POST", broken, json=[]).status_code == 400
    assert station("POST", f"{BUCKET}/collections/u%00/records:ingest", json=[]).status_code == 404
