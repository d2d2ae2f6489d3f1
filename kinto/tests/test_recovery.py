"""A hub's database goes back to a moment, by the role's configuration of pgBackRest.

What that loses, the stations bring again. UNISAT_TEST_S3=HOST:PORT,CA_FILE has the backup come from
an S3 store there (bucket `backup`) instead of the disk.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jinja2
import psycopg2
import pytest

from conftest import new_database
from rig.drift import PASSWORD, Pair
from rig.kinto import Kinto
from rig.processes import program, unprivileged
from rig.servers import Memcached, Postgres
from rig.wait import wait_until
from stream_site import PLUGIN

TEMPLATES = Path(__file__).parents[2] / "roles" / "hub" / "templates"
STANZA = "kinto"


class Hub:
    """PostgreSQL with its backup, and a Kinto on it."""

    def __init__(self, folder: Path, memcached: Memcached, patch: pytest.MonkeyPatch) -> None:
        self.postgres = Postgres()
        # What pgBackRest writes must not be in a folder of root's.
        self.config = self.postgres.directory / "pgbackrest.conf"
        self.s3 = os.environ.get("UNISAT_TEST_S3", "")
        self.config.write_text(self.rendered("pgbackrest.conf"))
        with (self.postgres.directory / "data" / "postgresql.conf").open("a") as settings:
            settings.write(self.rendered("backup.conf"))
        storage = urlsplit(self.postgres.url("postgres"))
        for name, value in {
            "PGBACKREST_CONFIG": self.config,
            "PGBACKREST_LOCK_PATH": self.postgres.directory / "lock",
            "PGBACKREST_PG1_PATH": self.postgres.directory / "data",
            "PGBACKREST_PG1_PORT": self.postgres.port,
            "PGBACKREST_PG1_SOCKET_PATH": self.postgres.directory,
            "PGPASSWORD": storage.password,
        }.items():
            patch.setenv(name, str(value))
        self.postgres.start()
        self.database = self.postgres.url(self.postgres.new_database())
        self.kinto = Kinto(
            folder, "hub", storage_url=self.database, memcached=memcached.address, settings=PLUGIN
        )

    def rendered(self, template: str) -> str:
        """A file as the role writes it."""
        endpoint, _, authority = self.s3.partition(",")
        store = {
            "endpoint": endpoint, "bucket": "backup", "region": "us-east-1", "key": "key",
            "secret": "secret", "passphrase": "passphrase", "ca_file": authority,
        }  # fmt: skip
        environment = jinja2.Environment(  # noqa: S701 - no HTML
            loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined,
            trim_blocks=True,
        )  # fmt: skip
        environment.filters["split"] = str.split
        return environment.get_template(f"{template}.j2").render(
            ansible_managed="", inventory_hostname="hub-1", hub_backup_days=30,
            hub_backup_path="" if self.s3 else self.postgres.directory / "backup",
            hub_backup_s3=store if self.s3 else {}, postgres_port=0,
            __hub_stanza=STANZA, __hub_postgres_cluster="", __hub_postgres_socket="",
        )  # fmt: skip

    def pgbackrest(self, *words: str) -> None:
        """Runs it as PostgreSQL's user."""
        done = subprocess.run(
            [*unprivileged("KILL"), program("pgbackrest"), f"--stanza={STANZA}", *words],
            cwd="/", capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    def asked(self, query: str) -> Any:
        """One value of the database."""
        with closing(psycopg2.connect(self.database)) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            (found,) = cursor.fetchone() or (None,)
            return found

    def close(self) -> None:
        self.kinto.close()
        self.postgres.close()


@pytest.fixture
def memcached() -> Iterator[Memcached]:
    with Memcached() as made:
        yield made


@pytest.fixture
def hub(tmp_path: Path, memcached: Memcached, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    made = Hub(tmp_path, memcached, monkeypatch)
    try:
        made.kinto.start()
        yield made
    finally:
        made.close()


@pytest.fixture
def pair(hub: Hub, memcached: Memcached, tmp_path: Path) -> Iterator[Pair]:
    """A station's spool between its own Kinto and the hub."""
    with new_database() as storage:
        options: Any = {"storage_url": storage, "memcached": memcached.address}
        with Kinto(tmp_path, "local", **options, settings=PLUGIN) as local:
            for kinto in (local, hub.kinto):
                kinto.create_account("agent", PASSWORD)
            made = Pair({"local": local, "hub": hub.kinto}, tmp_path)
            yield made
            made.close()


def test_a_station_brings_what_a_restore_lost(hub: Hub, pair: Pair) -> None:
    hub.pgbackrest("stanza-create")
    hub.pgbackrest("check")
    pair.delivered(40)
    hub.pgbackrest("--type=full", "backup")
    # pgBackRest counts in whole seconds: the moment has to lie in a later one.
    second = "SELECT EXTRACT(EPOCH FROM clock_timestamp())::BIGINT"
    ended = hub.asked(second)
    wait_until(lambda: hub.asked(second) > ended + 1, 30, "the next second")
    pair.delivered(30)
    assert not pair.reconcile().sent
    kept, moment = pair.ids("hub"), hub.asked("SELECT clock_timestamp()::TEXT")
    timeline = hub.asked("SELECT unisat_timeline()")
    pair.delivered(50)
    assert not pair.reconcile().sent

    # What unisat-hub-restore does.
    hub.kinto.terminate()
    hub.postgres.stop()
    hub.pgbackrest(
        "--delta", "--type=time", f"--target={moment}", "--target-action=promote", "restore"
    )
    hub.postgres.start()
    hub.kinto.start()
    assert pair.ids("hub") == kept
    assert len(kept) == 70
    assert hub.asked("SELECT unisat_timeline()") != timeline

    assert dict(pair.reconcile().sent) == {"hub": 50}
    pair.deliver()
    pair.assert_equal()
    assert len(pair.ids("hub")) == 120
    # The backup goes on, in the new life of the database.
    hub.pgbackrest("--type=incr", "backup")

    # On a new server, which has made a database of its own.
    hub.kinto.terminate()
    hub.postgres.stop()
    data = hub.postgres.directory / "data"
    with closing(Postgres()) as other:
        shutil.rmtree(data)
        (other.directory / "data").rename(data)
    hub.pgbackrest("--delta", "--type=default", "restore")
    hub.postgres.start()
    hub.kinto.start()
    assert len(pair.ids("hub")) == 120
