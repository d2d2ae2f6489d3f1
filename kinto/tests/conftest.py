"""Two Kintos with the plugin on one real PostgreSQL, and accounts with each kind of permission."""

from __future__ import annotations

import itertools
import json
import os
import secrets
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import psycopg2
import pytest
import requests
from psycopg2.extensions import connection as Connection  # noqa: N812 - a class

from rig.kinto import Kinto
from rig.servers import Memcached, Postgres
from stream_site import PLUGIN, site

__all__ = ["PLUGIN", "site"]  # used by others

BUCKET = "/buckets/telemetry"
EPOCH = "7d0c7f0e-6a2e-4d3a-9c1e-0d6a2f5b9a11"
Record = dict[str, Any]


def record(seq: int, /, **changes: Any) -> Record:
    """The package with that number, as a station sends it; a new id unless one is given."""
    package = {
        "id": str(uuid.uuid4()), "devID": "u01kz", "timestamp": 1660918192 + 3 * seq,
        "received_at": "2022-08-19T14:09:52.431Z", "clock": "synced", "epoch": EPOCH, "seq": seq,
        "boot_id": "1b4c6c1e-43f7-4a5e-8a55-0f3cf9d0a111", "uptime": 5123.4 + seq,
        "groups": {"meteo": ["temperature", "humidity", "pressure"], "air": ["pm25", "pm10"]},
        "temperature": 32.0, "humidity": 20.0 + seq % 30, "pressure": 1304.4, "pm25": 4.0,
        "pm10": 11.1,
    }  # fmt: skip
    return {**package, **changes}


@dataclass
class User:
    """One account's view of a Kinto, on one kept connection."""

    url: str
    name: str = ""
    password: str = ""
    session: requests.Session = field(default_factory=requests.Session)

    def __call__(self, method: str, path: str, **rest: Any) -> requests.Response:
        auth = (self.name, self.password) if self.name else None
        return self.session.request(method, self.url + path, auth=auth, timeout=60, **rest)

    def ingest(self, collection: str, records: Any, query: str = "") -> Any:
        """What ingest says of the records; it must accept the request."""
        path = f"{collection}/records:ingest{query}"
        headers = {"Content-Type": "application/json"}
        # Also what is not JSON, such as NaN.
        answer = self("POST", path, data=json.dumps(records), headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def records(self, collection: str, query: str = "") -> list[Record]:
        """The collection's records, as Kinto lists them."""
        answer = self("GET", f"{collection}/records{query}")
        assert answer.status_code == 200, answer.text
        found: list[Record] = answer.json()["data"]
        return found


@dataclass
class Network:
    """What a test works with: two Kinto processes, one database, who may do what."""

    kintos: tuple[Kinto, Kinto]
    storage: str
    memcached: str
    database: Callable[[], Connection]
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def user(self, name: str, kinto: int = 0) -> User:
        """An account on one of the Kintos; '' is nobody."""
        server = self.kintos[kinto]
        password = self.kintos[0].admin_password if name == "admin" else name
        return User(server.url, name, password if name else "")

    def collection(self, bucket: str = BUCKET, **metadata: Any) -> str:
        """A new collection, which `station` may add to and `reader` may read."""
        path = f"{bucket}/collections/u{next(self.numbers):04}"
        permissions = {"record:create": ["account:station"], "read": ["account:reader"]}
        body = {"data": metadata, "permissions": permissions}
        answer = self.user("admin")("PUT", path, json=body)
        assert answer.status_code == 201, answer.text
        return path


@contextmanager
def new_database() -> Iterator[str]:
    """The address of an empty database.

    On a PostgreSQL of its own, of the newest major that Debian installed; or on the server that
    UNISAT_TEST_POSTGRES names, as its superuser, to test against another major.
    """
    server = os.environ.get("UNISAT_TEST_POSTGRES")
    if server is None:
        with Postgres() as postgres:
            yield postgres.url(postgres.new_database())
        return
    name = f"unisat_test_{uuid.uuid4().hex}"
    administrator = psycopg2.connect(server)
    administrator.autocommit = True
    with administrator.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
        cursor.execute(f"ALTER DATABASE {name} SET TIMEZONE TO 'UTC'")
        yield urlsplit(server)._replace(path=f"/{name}").geturl()
        cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")
    administrator.close()


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """The network; each test makes collections of its own in it."""
    folder = tmp_path_factory.mktemp("kintos")
    with new_database() as storage, Memcached() as memcached:
        # As the processes of one hub: what one writes to the cache, the other believes.
        shared = {
            "kinto.cache_prefix": "network-", "kinto.userid_hmac_secret": secrets.token_hex(16)
        }  # fmt: skip
        options: Any = {
            "storage_url": storage, "memcached": memcached.address, "settings": PLUGIN | shared
        }  # fmt: skip
        with Kinto(folder, "first", **options) as first:
            second = Kinto(folder, "second", **options)
            second.admin_password = first.admin_password
            with second, closing(psycopg2.connect(storage)) as connection:
                connection.autocommit = True
                pair = Network((first, second), storage, memcached.address, lambda: connection)
                for account in ("station", "stranger", "reader"):
                    first.create_account(account, account)
                answer = pair.user("admin")("PUT", BUCKET)
                assert answer.status_code in {200, 201}, answer.text
                yield pair


@pytest.fixture
def collection(network: Network) -> str:
    """A new collection's path."""
    return network.collection()


@pytest.fixture
def station(network: Network) -> User:
    """The account that may add records."""
    return network.user("station")


@pytest.fixture
def admin(network: Network) -> User:
    """The account that may do anything."""
    return network.user("admin")


@pytest.fixture
def reader(network: Network) -> User:
    """The account that may read."""
    return network.user("reader")


def ndjson(records: list[Any]) -> bytes:
    """Records as NDJSON."""
    return "\n".join(json.dumps(item) for item in records).encode()
