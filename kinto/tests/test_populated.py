"""A hub that has records already gets the plugin; and its reads find their index."""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import psycopg2
import pytest

from bench.rows import EACH, LONG, START, fill
from conftest import PLUGIN, User, new_database, record
from rig.kinto import Kinto
from rig.servers import Memcached

with warnings.catch_warnings():
    # What Kinto stands on is full of them.
    warnings.simplefilter("ignore")
    from kinto.core.storage import Filter, Sort
    from kinto.core.storage.postgresql.client import PostgreSQLClient
    from kinto.core.utils import COMPARISON
    from kinto.core.utils import sqlalchemy as sa
    from sqlalchemy.orm import scoped_session, sessionmaker

    from unisat_kinto.migration import UnisatMigration
    from unisat_kinto.storage import IndexedStorage

ROWS = 20_000
STATIONS = 20
HOUR_S = 3600
COLLECTION = f"/buckets/telemetry/collections/{LONG}"


@dataclass
class Hub:
    """A hub that was a stock one until a moment ago; its old Kinto still runs beside the new."""

    stock: User
    user: User
    database: str
    # What was stored while the plugin was being installed.
    stored: list[str]
    answers: list[int]

    def query(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Rows of the database."""
        connection = psycopg2.connect(self.database)
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(statement, values)
                return list(cursor) if cursor.description else []
        finally:
            connection.close()


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """Migrated with its rows in place, while a station goes on sending to the stock Kinto."""
    folder = tmp_path_factory.mktemp("populated")
    with new_database() as database, Memcached() as memcached:
        options: Any = {"storage_url": database, "memcached": memcached.address}
        with Kinto(folder, "stock", **options) as stock:
            sender = User(stock.url, "admin", stock.admin_password)
            assert sender("PUT", "/buckets/telemetry").status_code == 201
            fill(database, ROWS, STATIONS, EACH)
            installed = threading.Event()
            found = Hub(sender, sender, database, [], [])

            def send() -> None:
                number = ROWS
                while not installed.is_set():
                    number += 1
                    row = record(number, timestamp=START + 3 * number)
                    path = f"{COLLECTION}/records/{row['id']}"
                    answer = sender("PUT", path, json={"data": row})
                    found.answers.append(answer.status_code)
                    found.stored += [row["id"]] * (answer.status_code == 201)

            sending = threading.Thread(target=send)
            sending.start()
            try:
                new = Kinto(folder, "new", **options, settings=PLUGIN)
                new.admin_password = stock.admin_password
                with new:
                    installed.set()
                    sending.join()
                    found.user = User(new.url, "admin", stock.admin_password)
                    found.query("ANALYZE objects")
                    yield found
            finally:
                installed.set()
                sending.join()


def test_the_plugin_comes_to_a_hub_that_is_in_use(hub: Hub) -> None:
    assert len(hub.stored) > 3
    # Made CONCURRENTLY: the sender was never refused, and waited for no index.
    assert set(hub.answers) == {201}
    invalid = "SELECT indexrelid::REGCLASS::TEXT FROM pg_index WHERE NOT indisvalid"
    assert hub.query(invalid) == []
    names = "SELECT indexname FROM pg_indexes WHERE indexname LIKE 'unisat_%%' ORDER BY 1"
    assert [row[0] for row in hub.query(names) if row[0].startswith("unisat_records")] == [
        "unisat_records_seq", "unisat_records_time",
    ]  # fmt: skip
    # What was there is counted, and what came meanwhile.
    account = hub.user("GET", f"{COLLECTION}/account").json()["data"]
    assert account["records"] == ROWS + len(hub.stored)
    assert sum(epoch["missing"] for epoch in account["epochs"] if epoch["epoch"]) == 0
    chart = f"{COLLECTION}/series?from={START}&to={START + 2 * HOUR_S}&points=2&fields=pm25"
    assert hub.user("GET", chart).json()["data"]["records"] == [1200, 1200]
    other = hub.user("GET", "/buckets/telemetry/collections/u00003/account").json()["data"]
    assert other["records"] == EACH
    latest = {row["id"]: row for row in hub.user("GET", "/buckets/telemetry/latest").json()["data"]}
    assert latest["u00003"]["records"] == EACH
    for name in ("u00003", LONG):
        path = f"/buckets/telemetry/collections/{name}/records?_sort=-timestamp&_limit=1"
        assert [latest[name]["newest"]] == hub.user("GET", path).json()["data"]


def test_an_interrupted_migration_is_completed(hub: Hub) -> None:
    count = "SELECT SUM(records) FROM unisat_epochs"
    before = hub.query(count)
    hub.query("DROP INDEX unisat_records_seq")
    hub.query("DROP TRIGGER tgr_unisat_count_new ON objects")
    hub.query("UPDATE unisat_epochs SET records = 7")
    hub.query("UPDATE metadata SET value = '5' WHERE name = 'unisat_schema_version'")
    engine = sa.create_engine(hub.database.replace("postgresql:", "postgresql+psycopg2:"))
    sessions = scoped_session(sessionmaker(bind=engine))
    client = PostgreSQLClient(sessions, commit_manually=True, invalidate=lambda _: None)
    UnisatMigration().initialize_schema(client)
    engine.dispose()
    assert hub.query(count) == before
    assert hub.query("SELECT to_regclass('unisat_records_seq')::TEXT") == [("unisat_records_seq",)]
    assert hub.user.ingest(COLLECTION, [record(1, epoch="later")])["created"] == 1
    assert hub.query(count) == [(before[0][0] + 1,)]


class Explaining:
    """Stands in for the storage's client, and keeps the plan of each query instead of rows."""

    def __init__(self, database: str) -> None:
        self.plans: list[str] = []
        self._engine = sa.create_engine(database.replace("postgresql:", "postgresql+psycopg2:"))

    @contextmanager
    def connect(self, **_: Any) -> Iterator[Any]:
        """A session."""
        with self._engine.connect() as connection:

            def execute(statement: Any, values: Any) -> Any:
                rows = connection.execute(sa.text(f"EXPLAIN {statement}"), values)
                self.plans.append("\n".join(row[0] for row in rows))
                return SimpleNamespace(fetchmany=lambda _: [])

            yield SimpleNamespace(execute=execute)
        self._engine.dispose()


LOW = Filter("timestamp", START + 2 * HOUR_S, COMPARISON.MIN)
HIGH = Filter("timestamp", START + 3 * HOUR_S, COMPARISON.LT)
PLANS = {
    "an hour": ([LOW, HIGH], [("last_modified", -1)], []),
    "an hour in its order": ([LOW, HIGH], [("timestamp", 1), ("last_modified", -1)], []),
    "the newest": ([], [("timestamp", -1), ("last_modified", -1)], []),
    "all that has a time since": (
        [Filter("timestamp", True, COMPARISON.HAS), LOW], [("timestamp", 1)], [],
    ),
    "a page in the middle": (
        [], [("timestamp", -1), ("last_modified", -1)],
        [[Filter("timestamp", HIGH.value, COMPARISON.EQ),
          Filter("last_modified", START * 1000, COMPARISON.LT)],
         [Filter("timestamp", HIGH.value, COMPARISON.LT)]],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANS)
def test_reads_by_device_time_use_the_index(hub: Hub, name: str) -> None:
    filters, sorting, rules = PLANS[name]
    client = Explaining(hub.database)
    storage = IndexedStorage(client=client, max_fetch_size=10_000)
    storage.list_all(
        "record", COLLECTION, filters=filters, sorting=[Sort(*one) for one in sorting],
        pagination_rules=rules, limit=100,
    )  # fmt: skip
    (plan,) = client.plans
    assert "using unisat_records_time" in plan or "on unisat_records_time" in plan, plan
    if name != "the newest":
        # Bounded by the time, and not only in its order.
        condition = re.search(r"Index Cond: .*", plan)
        assert condition is not None, plan
        assert "timestamp" in condition.group(), plan


ODD: list[dict[str, Any]] = [
    {"n": 1}, {"n": 2, "timestamp": None}, {"n": 3, "timestamp": "x"}, {"n": 4, "timestamp": 5},
    {"n": 5, "timestamp": 5}, {"n": 6, "timestamp": 6.5}, {"n": 7, "timestamp": 8},
    {"n": 8, "timestamp": True}, {"n": 9},
]  # fmt: skip
QUESTIONS = [
    "min_timestamp=5", "gt_timestamp=5", "lt_timestamp=8", "min_timestamp=5&lt_timestamp=8",
    "gt_timestamp=5&max_timestamp=8", "has_timestamp=true&gt_timestamp=5",
    "gt_timestamp=5&in_n=1,6",
    "has_timestamp=false&gt_timestamp=5", "not_timestamp=5&gt_timestamp=5", "timestamp=5",
    "gt_timestamp=5&timestamp=8", "exclude_timestamp=5,8&min_timestamp=5",
]  # fmt: skip


@pytest.mark.parametrize("sort", ["n", "timestamp", "-timestamp", "timestamp,-n"])
def test_the_answers_are_those_of_stock_kinto(hub: Hub, sort: str) -> None:
    path = "/buckets/telemetry/collections/odd"
    if hub.user("GET", path).status_code != 200:
        hub.user("PUT", path)
        for row in ODD:
            hub.user("POST", f"{path}/records", json={"data": row})
    for question in QUESTIONS:
        stock, new = (
            [row["n"] for row in walk(user, f"{path}/records?{question}&_sort={sort}")]
            for user in (hub.stock, hub.user)
        )
        assert stock == new, question
        assert len(stock) == len(set(stock))


def walk(user: User, path: str) -> Iterator[Any]:
    """All pages of three."""
    following: str | None = f"{path}&_limit=3"
    while following:
        answer = user("GET", following)
        assert answer.status_code == 200, answer.text
        yield from answer.json()["data"]
        following = answer.headers.get("Next-Page", "").partition("/v1")[2] or None
