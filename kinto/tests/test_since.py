"""Polling with _since misses nothing, whoever writes, over two Kinto processes."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection  # noqa: N812 - a class

from conftest import Network, User, record
from rig.wait import wait_until

# Long enough that stock Kinto, or one without the lock of the stock writers, misses some each time.
WRITING_S = 6.0


class Writers:
    """Writers of one collection, each of its own kind, until `stop`."""

    def __init__(self, network: Network, collection: str) -> None:
        self.network = network
        self.collection = collection
        self.acknowledged: set[str] = set()
        self.stop = threading.Event()

    def _acknowledge(self, ids: list[str]) -> None:
        self.acknowledged.update(ids)

    def ingest(self, user: User) -> None:
        """Batches of several sizes."""
        for size in (1, 5, 25):
            batch = [record(n) for n in range(size)]
            assert user.ingest(self.collection, batch)["created"] == size
            self._acknowledge([row["id"] for row in batch])

    def put(self, user: User) -> None:
        """Kinto's own single write."""
        name = str(uuid.uuid4())
        answer = user(
            "PUT", f"{self.collection}/records/{name}", json={"data": record(1, id=name)},
            headers={"If-None-Match": "*"},
        )  # fmt: skip
        if answer.status_code == 201:
            self._acknowledge([name])

    def batch(self, user: User) -> None:
        """Kinto's own batch; believed as the agent believes it: all of it or nothing."""
        names = [str(uuid.uuid4()) for _ in range(10)]
        requests = [
            {"method": "PUT", "path": f"{self.collection}/records/{name}",
             "headers": {"If-None-Match": "*"}, "body": {"data": record(1, id=name)}}
            for name in names
        ]  # fmt: skip
        answer = user("POST", "/batch", json={"requests": requests})
        if answer.status_code == 200 and {
            item["status"] for item in answer.json()["responses"]
        } == {201}:
            self._acknowledge(names)

    def delete(self, user: User) -> None:
        """Kinto's own DELETE, as the administrator."""
        self.stop.wait(0.1)
        if self.acknowledged:
            name = next(iter(self.acknowledged.copy()))
            user("DELETE", f"{self.collection}/records/{name}")

    def run(self, kind: str, kinto: int) -> None:
        """One writer."""
        user = self.network.user("admin" if kind == "delete" else "station", kinto)
        step: Callable[[User], None] = getattr(self, kind)
        while not self.stop.is_set():
            step(user)


MIXES = [
    pytest.param(["ingest"] * 4, id="ingest"),
    pytest.param(["put"] * 2 + ["batch"] * 2, id="stock"),
    pytest.param(["ingest", "ingest", "put", "batch", "delete"], id="mixed"),
]


@pytest.mark.parametrize("kinds", MIXES)
def test_a_poller_sees_every_record(network: Network, kinds: list[str]) -> None:
    collection = network.collection()
    poller = network.user("reader", 1)
    writers = Writers(network, collection)
    seen: set[str] = set()
    # From the very first moment of the collection, when it has no timestamp yet.
    since = "0"

    def poll() -> int:
        nonlocal since
        answer = poller("GET", f"{collection}/records?_since={since}&_sort=last_modified")
        assert answer.status_code == 200, answer.text
        since = answer.headers["ETag"].strip('"')
        seen.update(row["id"] for row in answer.json()["data"])
        return len(answer.json()["data"])

    with ThreadPoolExecutor(len(kinds)) as pool:
        running = [pool.submit(writers.run, kind, n % 2) for n, kind in enumerate(kinds)]
        try:
            end = time.monotonic() + WRITING_S
            while time.monotonic() < end:
                poll()
        finally:
            writers.stop.set()
        for one in running:
            one.result()
    while poll():
        pass
    with network.database().cursor() as cursor:
        parent = (f"{collection}",)
        cursor.execute("SELECT id FROM objects WHERE parent_id = %s", parent)
        stored = {row[0] for row in cursor}
    assert len(stored) > 20
    assert stored - seen == set()
    assert writers.acknowledged - stored == set()


# The second only counts, and makes writers wait as well, but too late.
WAITING = ("tgr_a_unisat_lock_record", "tgr_unisat_count_new")


@contextmanager
def disabled(network: Network, *triggers: str) -> Iterator[None]:
    """The database as it would be without these."""

    def switch(how: str) -> None:
        with network.database().cursor() as cursor:
            cursor.execute("SET lock_timeout = '30s'")
            for trigger in triggers:
                cursor.execute(f"ALTER TABLE objects {how} TRIGGER {trigger}")
            cursor.execute("RESET lock_timeout")

    switch("DISABLE")
    try:
        yield
    finally:
        switch("ENABLE")


@pytest.mark.parametrize("locked", [True, False])
def test_without_the_lock_a_record_is_missed(
    network: Network, reader: User, collection: str, locked: bool
) -> None:
    """Why the trigger is there: who writes first may commit last, behind a poller's back."""
    seen: set[str] = set()
    since = reader("GET", f"{collection}/records").headers["ETag"].strip('"')

    def poll() -> None:
        nonlocal since
        answer = reader("GET", f"{collection}/records?_since={since}&_sort=last_modified")
        since = answer.headers["ETag"].strip('"')
        seen.update(row["id"] for row in answer.json()["data"])

    def insert(connection: Connection, name: str) -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO objects (id, parent_id, resource_name, data, deleted)"
                " VALUES (%s, %s, 'record', '{}', FALSE)",
                (name, collection),
            )

    def waits() -> bool:
        with network.database().cursor() as cursor:
            cursor.execute(
                "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
                " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            )
            return cursor.fetchone() is not None

    with (
        nullcontext() if locked else disabled(network, *WAITING),
        closing(psycopg2.connect(network.storage)) as slow,
        closing(psycopg2.connect(network.storage)) as quick,
        ThreadPoolExecutor(1) as pool,
    ):
        insert(slow, "first")
        second = pool.submit(insert, quick, "second")
        if locked:
            wait_until(waits, 30, "the second writer to wait for the first")
        else:
            second.result()
            quick.commit()
        poll()
        slow.commit()
        second.result()
        quick.commit()
    poll()
    assert seen == ({"first", "second"} if locked else {"second"})
    assert {row["id"] for row in reader.records(collection)} == {"first", "second"}


def test_a_client_does_not_choose_last_modified(
    network: Network, admin: User, reader: User
) -> None:
    collection = network.collection()
    admin("PUT", f"{collection}/records/a", json={"data": record(1)})
    seen = reader("GET", f"{collection}/records").headers["ETag"].strip('"')
    for name, stamp in (("b", 1000000000000), ("c", 9999999999999)):
        body = {"data": record(2, id=name, last_modified=stamp)}
        assert admin("PUT", f"{collection}/records/{name}", json=body).status_code == 201
    fresh = reader.records(collection, f"?_since={seen}")
    assert {row["id"] for row in fresh} == {"b", "c"}
    assert all(row["last_modified"] < 9999999999999 for row in fresh)
