"""What a network of before had in accounts' default buckets is found under the hub's address."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from conftest import User, new_database, record
from rig.kinto import Kinto
from rig.processes import program
from rig.servers import Memcached
from stream_site import PLUGIN
from test_reading import get

SQL = Path(__file__).parents[2] / "roles" / "hub" / "files" / "default_buckets.sql"


def brought(database: str) -> str:
    """How many records the role says that it brought over."""
    done = subprocess.run(
        [program("psql"), "--no-psqlrc", "-qtA", "--set=ON_ERROR_STOP=1", database],
        input=SQL.read_text(),
        env={"PGOPTIONS": "-c unisat.bucket=telemetry"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_records_of_default_buckets_come_to_the_hubs_bucket(tmp_path: Path) -> None:
    rows = [record(n) for n in range(1, 1301)]
    odd = record(2000, timestamp="noon")
    with new_database() as database, Memcached() as memcached:
        options: Any = {"storage_url": database, "memcached": memcached.address}
        with Kinto(
            tmp_path, "old", settings={"kinto.batch_max_requests": "1000"}, **options
        ) as old:
            admin = User(old.url, "admin", old.admin_password)
            for first in range(0, 1300, 650):
                requests = [
                    {"method": "PUT", "path": path, "body": {"data": row}}
                    for row in rows[first : first + 650]
                    for path in [f"/buckets/default/collections/u01kz/records/{row['id']}"]
                ]
                answer = admin("POST", "/batch", json={"requests": requests}).json()
                assert {item["status"] for item in answer["responses"]} == {201}
            other = record(1, devID="u02kz")
            for name, row in (("u01kz", odd), ("u02kz", other)):
                path = f"/buckets/default/collections/{name}/records/{row['id']}"
                assert admin("PUT", path, json={"data": row}).status_code == 201
            hidden = admin("GET", "/buckets/default").json()["data"]["id"]
            password = old.admin_password
        new = Kinto(tmp_path, "new", settings=PLUGIN, **options)
        new.admin_password = password
        with new:
            hub = User(new.url, "admin", password)
            assert hub("PUT", "/buckets/telemetry").status_code == 201
            # A station has sent two of them again; one is another record of the same id.
            here = "/buckets/telemetry/collections/u01kz"
            assert hub("PUT", here).status_code == 201
            hub.ingest(here, [rows[0], rows[1] | {"temperature": -40.0}])

            assert brought(database) == "1300"
            assert get(hub, f"{here}/account")["records"] == 1300
            found = {row["id"]: row for row in hub.records(here, "?_limit=2000")}
            assert set(found) == {row["id"] for row in rows}
            assert found[rows[1]["id"]]["temperature"] == -40.0
            assert found[rows[5]["id"]] | rows[5] == found[rows[5]["id"]]
            assert len(hub.records("/buckets/telemetry/collections/u02kz")) == 1
            left = hub.records(f"/buckets/{hidden}/collections/u01kz")
            assert {row["id"] for row in left} == {rows[1]["id"], odd["id"]}
            # The next run of the playbook changes nothing.
            assert brought(database) == "0"
