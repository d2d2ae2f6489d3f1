"""What real Kinto on PostgreSQL and memcached does, as far as the delivery relies on it.

When one of these fails after an update of Kinto, the answer table of the delivery has to be read
again before the update is let in.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from rig.faults import second_writer
from rig.kinto import Kinto
from rig.servers import Memcached, Postgres
from rig.wait import wait_until

BUCKET = "/buckets/telemetry"
COLLECTION = f"{BUCKET}/collections/u01kz"
RECORDS = f"{COLLECTION}/records"
NEW = {"If-None-Match": "*"}
NO_COLLECTION = {"id": "unknown", "resource_name": "collection"}


class User:
    """One account's view of a Kinto."""

    def __init__(self, url: str, name: str, password: str) -> None:
        self._url = url
        self._session = requests.Session()
        self._session.auth = (name, password)

    def __call__(self, method: str, path: str, **rest: Any) -> requests.Response:
        return self._session.request(method, self._url + path, timeout=60, **rest)

    def batch(self, *items: dict[str, Any]) -> list[dict[str, Any]]:
        """The sub-answers of a batch, which must itself be 200."""
        answer = self("POST", "/batch", json={"requests": items})
        assert answer.status_code == 200, answer.text
        responses: list[dict[str, Any]] = answer.json()["responses"]
        return responses

    def stored(self) -> set[str]:
        """The ids in the collection."""
        return {row["id"] for row in self("GET", f"{RECORDS}?_fields=id").json()["data"]}

    def total(self, query: str) -> int:
        """Total-Objects of a filter."""
        answer = self("HEAD", f"{RECORDS}?{query}")
        assert answer.status_code == 200, answer.headers
        return int(answer.headers["Total-Objects"])


def put(path: str, data: dict[str, Any] | None = None, **headers: str) -> dict[str, Any]:
    """One PUT inside a batch, as the agent sends it; a path without slash is a record's id."""
    return {
        "method": "PUT",
        "path": path if path.startswith("/") else f"{RECORDS}/{path}",
        "headers": NEW | headers,
        "body": {"data": {"seq": 1} if data is None else data},
    }


def statuses(responses: list[dict[str, Any]]) -> list[int]:
    """The statuses of a batch's answer."""
    return [response["status"] for response in responses]


@pytest.fixture(scope="module")
def database(postgres: Postgres) -> str:
    return postgres.new_database()


@pytest.fixture(scope="module")
def kinto(
    postgres: Postgres,
    memcached: Memcached,
    database: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Kinto]:
    """One for the whole file, which takes seconds to start; each test has a fresh bucket."""
    storage = postgres.url(database)
    folder = tmp_path_factory.mktemp("kinto")
    with Kinto(folder, "facts", storage_url=storage, memcached=memcached.address) as server:
        yield server


@pytest.fixture
def admin(kinto: Kinto) -> Iterator[User]:
    user = User(kinto.url, "admin", kinto.admin_password)
    yield user
    assert user("DELETE", "/buckets").status_code == 200


@pytest.fixture
def agent(kinto: Kinto, admin: User) -> User:
    """May create collections in the bucket; owns the collection."""
    permissions = {"collection:create": ["account:agent"]}
    assert admin("PUT", BUCKET, json={"permissions": permissions}).status_code == 201
    account = {"data": {"password": "secret"}}
    assert admin("PUT", "/accounts/agent", json=account).ok
    user = User(kinto.url, "agent", "secret")
    assert user("PUT", COLLECTION, headers=NEW).status_code == 201
    return user


@pytest.fixture
def stranger(kinto: Kinto, admin: User) -> User:
    """An account without any permission."""
    account = {"data": {"password": "other"}}
    assert admin("PUT", "/accounts/stranger", json=account).ok
    return User(kinto.url, "stranger", "other")


def test_conflict_inside_a_batch_makes_earlier_201_a_lie(
    postgres: Postgres, database: str, agent: User
) -> None:
    """The false 201: after a 409 what came before it in the batch says 201 and is not stored.

    Kinto gives a record the millisecond after the newest one it can see. A record in the future
    fixes that number; another writer's open transaction takes the next but one, which the batch
    therefore reaches at its second item, waits for, and loses when the other commits.
    """
    ahead_ms = time.time_ns() // 1_000_000 + 3_600_000
    agent("PUT", f"{RECORDS}/ahead", json={"data": {"last_modified": ahead_ms}})
    answers: list[list[dict[str, Any]]] = []
    sender = threading.Thread(
        target=lambda: answers.append(agent.batch(*(put(f"r{i}") for i in range(4))))
    )
    with second_writer(postgres, database, COLLECTION, ahead_ms + 2) as commit:
        sender.start()
        commit()
    sender.join()
    assert statuses(answers[0]) == [201, 409, 201, 201]
    assert agent.stored() == {"ahead", "second-writer", "r2", "r3"}, "r0 said 201"


def test_existing_record_is_412_for_itself_alone_and_comes_whole(agent: User) -> None:
    agent.batch(put("old", {"seq": 7, "humidity": 20.0}))
    first, second = agent.batch(put("old", {"seq": 8}), put("new"))
    assert (first["status"], second["status"]) == (412, 201)
    existing = first["body"]["details"]["existing"]
    assert {k: v for k, v in existing.items() if k != "last_modified"} == {
        "id": "old",
        "seq": 7,
        "humidity": 20.0,
    }
    assert isinstance(existing["humidity"], float)
    assert agent.stored() == {"old", "new"}


def test_refused_items_leave_their_neighbours_stored(agent: User, admin: User) -> None:
    admin("PUT", f"{BUCKET}/collections/closed")
    wrong = base64.b64encode(b"agent:wrong").decode()
    answers = agent.batch(
        put("first"),
        put(f"{BUCKET}/collections/unknown/records/a"),
        put("/buckets/unknown/collections/unknown/records/a"),
        put("not an id!"),
        put(f"{BUCKET}/collections/closed/records/a"),
        put("b", Authorization=f"Basic {wrong}"),
        put("first"),
        put("last"),
    )
    assert statuses(answers) == [201, 404, 404, 400, 403, 401, 412, 201]
    assert agent.stored() == {"first", "last"}
    for missing in answers[1:3]:
        # The same whether the collection or its bucket is missing: the body can't tell.
        assert missing["body"]["details"] == NO_COLLECTION


def test_wrong_password_is_401_in_each_item_of_a_batch_that_is_200(
    kinto: Kinto, agent: User
) -> None:
    del agent
    assert statuses(User(kinto.url, "agent", "wrong").batch(put("a"), put("b"))) == [401, 401]


def test_unknown_collection_is_404_to_write_and_403_to_count_for_who_may_create_it(
    agent: User, stranger: User
) -> None:
    unknown = f"{BUCKET}/collections/unknown"
    for user in agent, stranger:
        answer = user("PUT", f"{unknown}/records/a", json={"data": {}})
        assert (answer.status_code, answer.json()["details"]) == (404, NO_COLLECTION)
    assert agent("HEAD", f"{unknown}/records").status_code == 403
    assert stranger("PUT", unknown, headers=NEW).status_code == 403
    assert agent("PUT", unknown, headers=NEW).status_code == 201
    assert agent("PUT", unknown, headers=NEW).status_code == 412
    assert agent("HEAD", f"{unknown}/records").headers["Total-Objects"] == "0"


def test_unknown_bucket_is_403_to_all_but_who_may_create_it(agent: User, admin: User) -> None:
    for method, path in (("PUT", "/buckets/b"), ("GET", "/buckets/b")):
        assert agent(method, path).status_code == 403
    assert agent("PUT", "/buckets/b/collections/c", headers=NEW).status_code == 403
    record = agent("PUT", "/buckets/b/collections/c/records/a", json={"data": {}})
    assert record.status_code == 404
    assert admin("PUT", "/buckets/b", headers=NEW).status_code == 201


def test_writer_of_a_collection_it_did_not_create(
    kinto: Kinto, admin: User, agent: User, stranger: User
) -> None:
    """As on the hub: the publisher's account has `write` on the collection, and nothing else."""
    del agent
    permissions = {"write": ["account:stranger"]}
    admin("PATCH", COLLECTION, json={"permissions": permissions})
    assert statuses(stranger.batch(put("a"))) == [201]
    assert stranger.total("") == 1
    assert stranger("PUT", COLLECTION, headers=NEW).status_code == 403


def test_nul_is_503_and_stores_nothing_of_the_batch(agent: User) -> None:
    answer = agent("POST", "/batch", json={"requests": [put("a"), put("b", {"x": "\0"}), put("c")]})
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "3"
    assert agent.stored() == set()


@pytest.mark.parametrize("number", ["NaN", "Infinity"])
def test_number_that_is_not_json_is_400_for_the_whole_batch(agent: User, number: str) -> None:
    body = json.dumps({"requests": [put("a"), put("b", {"x": float(number)})]})
    answer = agent("POST", "/batch", data=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert agent.stored() == set()


def test_batch_above_the_limit_is_400_and_the_limit_is_told(agent: User) -> None:
    limit = agent("GET", "/").json()["settings"]["batch_max_requests"]
    assert limit == 25
    items = [put(f"r{i}") for i in range(limit + 1)]
    assert agent("POST", "/batch", json={"requests": items}).status_code == 400
    assert statuses(agent.batch(*items[:limit])) == [201] * limit


def test_counts_by_epoch_and_seq(agent: User) -> None:
    agent.batch(*(put(f"r{i}", {"epoch": "e1", "seq": i}) for i in range(20)))
    agent.batch(put("other", {"epoch": "e2", "seq": 5}))
    assert agent.total('epoch="e1"') == 20
    assert agent.total('epoch="e1"&min_seq=5&max_seq=9') == 5
    assert agent.total('epoch="e1"&gt_seq=5&lt_seq=9') == 3
    assert agent.total('epoch="e2"&min_seq=0') == 1
    assert agent.total("in_id=r1,r2,unknown") == 2
    page = agent("GET", f'{RECORDS}?epoch="e1"&_sort=seq&_fields=seq&_limit=15')
    assert [row["seq"] for row in page.json()["data"]] == list(range(15))
    assert "Next-Page" in page.headers


def test_filter_that_looks_like_a_number_needs_quotes(agent: User) -> None:
    agent.batch(put("a", {"epoch": "1e5"}), put("b", {"epoch": "123456"}))
    assert (agent.total("epoch=1e5"), agent.total('epoch="1e5"')) == (0, 1)
    assert (agent.total("epoch=123456"), agent.total('epoch="123456"')) == (0, 1)


def test_large_doubles_come_back_as_integers(agent: User) -> None:
    """PostgreSQL's JSONB writes numbers its own way: equal decimals, not equal Python objects."""
    agent.batch(put("a", {"x": 1e23, "y": 20.0, "z": -0.5}))
    data = agent("GET", f"{RECORDS}/a").json()["data"]
    assert data["x"] == 10**23 != 1e23
    assert float(data["x"]) == 1e23
    assert repr((data["y"], data["z"])) == "(20.0, -0.5)"


def test_deleted_record_can_be_put_again(agent: User) -> None:
    agent.batch(put("a"))
    assert agent("DELETE", f"{RECORDS}/a").status_code == 200
    assert agent.stored() == set()
    assert statuses(agent.batch(put("a"))) == [201]


def test_killed_postgresql_comes_back_under_a_running_kinto(
    postgres: Postgres, agent: User
) -> None:
    agent.batch(put("before"))
    postgres.kill()
    answer = agent("POST", "/batch", json={"requests": [put("during")]})
    assert answer.status_code in {500, 503}
    postgres.start()
    wait_until(lambda: agent("GET", "/__heartbeat__").status_code == 200, 30, "Kinto's heartbeat")
    # A stale connection of the pool may still fail once; nothing may be believed of that.
    wait_until(
        lambda: agent("POST", "/batch", json={"requests": [put("after")]}).status_code == 200,
        30,
        "Kinto to store again",
    )
    assert agent.stored() >= {"before", "after"}
