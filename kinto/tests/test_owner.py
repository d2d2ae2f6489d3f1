"""The plugin in a database of its own, by an account that is no superuser, as on every host."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

from conftest import PLUGIN, User, record
from rig.kinto import Kinto
from rig.servers import Memcached, Postgres


def test_no_superuser_is_needed(tmp_path: Path) -> None:
    with Postgres() as postgres, Memcached() as memcached:
        database, password = postgres.new_database(), secrets.token_hex(16)
        with postgres.connection("postgres") as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(f"CREATE ROLE kinto LOGIN PASSWORD '{password}'")
                cursor.execute(f"ALTER DATABASE {database} OWNER TO kinto")
        url = re.sub("//.*@", f"//kinto:{password}@", postgres.url(database))
        with Kinto(
            tmp_path, "hub", storage_url=url, memcached=memcached.address, settings=PLUGIN
        ) as kinto:
            admin = User(kinto.url, "admin", kinto.admin_password)
            collection = "/buckets/telemetry/collections/u01kz"
            assert admin("PUT", "/buckets/telemetry").status_code == 201
            assert admin("PUT", collection).status_code == 201
            assert admin.ingest(collection, [record(1)])["created"] == 1
            assert admin("POST", f"{collection}/records", json={"data": {}}).status_code == 201
            assert admin("GET", "/").json()["capabilities"]["unisat"]["timeline"]
            series = f"{collection}/series?fields=temperature&from=1660910000&to=1660920000"
            for path in (f"{collection}/account", "/buckets/telemetry/latest", series):
                answer = admin("GET", path)
                assert answer.status_code == 200, answer.text
            retain = admin("POST", f"{collection}/retain", json={"before": 1660910000})
            assert retain.status_code == 200, retain.text
