"""A hub in small: Kinto on PostgreSQL, the live stream beside it, and nginx in front of both."""

from __future__ import annotations

import base64
import signal
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from rig import reserve_port
from rig.kinto import Kinto
from rig.processes import Process, program
from rig.servers import Memcached, Postgres
from rig.wait import wait_until

FOLDER = Path(__file__).parents[1]
PLUGIN = {"kinto.includes": "kinto.plugins.accounts kinto.plugins.default_bucket unisat_kinto"}
RECHECK_S = 2.0
START_S = 60.0
NGINX = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        proxy_http_version 1.1;
        location / {{ proxy_pass http://127.0.0.1:{kinto}; }}
        location ~ ^/v1/buckets/[^/]+/stream$ {{ proxy_pass http://127.0.0.1:{stream}; }}
    }}
}}
"""


@dataclass
class Site:
    """A hub with a reader's account and two satellites."""

    folder: Path
    postgres: Postgres
    database: str
    kinto: Kinto
    stream_port: int
    front_port: int
    service: Process | None = None
    reader_password: str = "reads-along"

    @property
    def hub_url(self) -> str:
        """What its readers know."""
        return f"http://127.0.0.1:{self.front_port}/v1"

    @property
    def url(self) -> str:
        """Where its live stream is."""
        return f"{self.hub_url}/buckets/telemetry/stream"

    @property
    def health_url(self) -> str:
        """What the stream's service says of itself, not for readers."""
        return f"http://127.0.0.1:{self.stream_port}/healthz"

    def start(self) -> None:
        """Starts the stream's service and waits until it answers."""
        self.service = Process(
            [
                *(sys.executable, "-m", "unisat_stream", "--port", str(self.stream_port)),
                *("--kinto", self.kinto.url, "--recheck", str(RECHECK_S)),
            ],
            self.folder / "stream.log",
            # As Kinto has it, with SQLAlchemy's driver.
            environment={
                "KINTO_STORAGE_URL": self.database.replace(":", "+psycopg2:", 1),
                "PYTHONPATH": str(FOLDER),
            },
        )
        wait_until(self.streaming, START_S, "the stream's service to answer")

    def streaming(self) -> bool:
        """Whether the service is well."""
        with urllib.request.urlopen(self.health_url, timeout=5) as answer:
            return bool(answer.status == 200)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Ends the stream's service."""
        assert self.service is not None
        self.service.end(number)

    def front(self) -> Process:
        """Starts the nginx that readers talk to."""
        folder = self.folder / "nginx"
        folder.mkdir()
        settings = folder / "nginx.conf"
        settings.write_text(
            NGINX.format(
                folder=folder, port=self.front_port, kinto=self.kinto.port, stream=self.stream_port
            )
        )
        return Process([program("nginx"), "-c", str(settings), "-p", str(folder)], folder / "log")

    def authorization(self, user: str = "reader") -> dict[str, str]:
        token = base64.b64encode(f"{user}:{self.reader_password}".encode()).decode()
        return {"Authorization": f"Basic {token}"}

    def put(self, collection: str, value: object, timestamp: int = 0) -> dict[str, Any]:
        """Makes a record as a station does, and returns it as Kinto has it."""
        answer = self.kinto.client().create_record(
            id=str(uuid.uuid4()),
            data={"devID": collection, "timestamp": timestamp, "temperature": value},
            collection=collection,
        )
        return dict(answer["data"])

    def flood(self, collection: str) -> set[str]:
        """Writes 2 MB of records at once, and returns their ids."""
        with (
            closing(psycopg2.connect(self.database)) as connection,
            connection as transaction,
            transaction.cursor() as cursor,
        ):
            cursor.execute(
                "INSERT INTO objects (id, parent_id, resource_name, data, deleted) "
                "SELECT gen_random_uuid()::text, %s, 'record', "
                "jsonb_build_object('text', repeat('x', 200000)), FALSE "
                "FROM generate_series(1, 10) RETURNING id",
                (f"/buckets/telemetry/collections/{collection}",),
            )
            return {str(row[0]) for row in cursor.fetchall()}

    @contextmanager
    def writing(self, collection: str, record_id: str) -> Iterator[None]:
        """A transaction that has written a record, and commits at the end of the block."""
        connection = psycopg2.connect(self.database)
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(
                    "INSERT INTO objects (id, parent_id, resource_name, data, deleted) "
                    "VALUES (%s, %s, 'record', %s, FALSE)",
                    (record_id, f"/buckets/telemetry/collections/{collection}", '{"late": true}'),
                )
                yield
        finally:
            connection.close()


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A hub that is up."""
    folder = tmp_path_factory.mktemp("hub")
    with Postgres() as postgres, Memcached() as memcached:
        database = postgres.url(postgres.new_database())
        with (
            reserve_port() as stream_port,
            reserve_port() as front_port,
            Kinto(
                folder, "hub", storage_url=database, memcached=memcached.address, settings=PLUGIN
            ) as kinto,
        ):  # fmt: skip
            ports = (holder.getsockname()[1] for holder in (stream_port, front_port))
            site = Site(folder, postgres, database, kinto, *ports)
            admin = kinto.client()
            admin.create_bucket(id="telemetry")
            kinto.provision_reader("reader", site.reader_password)
            kinto.create_account("stranger", site.reader_password)
            for name in ("u01kz", "u02kz"):
                admin.create_collection(id=name, bucket="telemetry")
            front = site.front()
            try:
                site.start()
                yield site
            finally:
                front.end(signal.SIGTERM)
                if site.service is not None:
                    site.stop()
