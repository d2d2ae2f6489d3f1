"""Kinto in several processes, started as the container starts it."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import psycopg2
import pytest
import requests

from conftest import User, new_database, record
from rig.kinto import Kinto
from rig.processes import Process, alive, children
from rig.servers import Memcached
from rig.wait import wait_until

FOLDER = Path(__file__).parents[1]
SETTINGS = {"kinto.includes": "kinto.plugins.accounts kinto.plugins.prometheus unisat_kinto"}
STATIONS = 8


@pytest.fixture
def database() -> Iterator[str]:
    """The address of an empty database."""
    with new_database() as address:
        yield address


@pytest.fixture
def hub(tmp_path: Path, database: str) -> Iterator[Kinto]:
    """A Kinto's settings, database and port; it does not run any more."""
    with ExitStack() as opened:
        kinto = opened.enter_context(
            Kinto(
                tmp_path, "hub", storage_url=database,
                memcached=opened.enter_context(Memcached()).address, settings=SETTINGS,
            )
        )  # fmt: skip
        kinto.provision_hub("station", "station", [f"u{n}" for n in range(STATIONS)])
        kinto.terminate()
        yield kinto


@pytest.fixture
def workers(hub: Kinto, tmp_path: Path) -> Iterator[Process]:
    """The container's program with two processes."""
    ini = tmp_path / "hub.ini"
    ini.write_text(ini.read_text().replace("threads = 4", "threads = 4\nworkers = 2"))
    # Its own folder for temporary files, as the container has.
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    process = Process(
        [sys.executable, str(FOLDER / "unisat_container.py"), "serve"],
        tmp_path / "workers.log",
        environment={
            "KINTO_INI": str(ini), "PYTHONPATH": str(FOLDER), "TMPDIR": str(temporary),
            "PYTHONWARNINGS": "ignore",
        },
    )  # fmt: skip
    try:
        wait_until(hub.healthy, 60, lambda: f"Kinto to answer: {process.tail()}")
        yield process
    finally:
        process.end(signal.SIGINT)


def _store(url: str, count: int) -> int:
    """Has all stations store so many records each at the same time; returns how many are new."""

    def send(number: int) -> int:
        user = User(url, "station", "station")
        path = f"/buckets/telemetry/collections/u{number}"
        return sum(user.ingest(path, [record(seq)])["created"] for seq in range(count))

    with ThreadPoolExecutor(STATIONS) as pool:
        return sum(pool.map(send, range(STATIONS)))


def test_two_processes_share_the_work_and_the_figures(hub: Kinto, workers: Process) -> None:
    assert _store(hub.url, 10) == 10 * STATIONS
    both = children(workers.pid)
    assert len(both) == 2
    # What nginx says of the address that it was asked at.
    headers = {"X-Forwarded-Proto": "https", "Host": "hub.example.org"}
    url = requests.get(f"{hub.url}/", headers=headers, timeout=30).json()["url"]
    assert url == "https://hub.example.org/v1/"
    counted = re.findall(
        r'kinto_request_duration_seconds_count\{.*endpoint="unisat-ingest".*\} (\S+)',
        requests.get(f"{hub.url}/__metrics__", timeout=30).text,
    )
    assert sum(float(number) for number in counted) == 10 * STATIONS

    os.kill(both[0], signal.SIGKILL)
    wait_until(
        lambda: len([pid for pid in children(workers.pid) if alive(pid) and pid != both[0]]) == 2,
        60,
        lambda: f"another process: {workers.tail()}",
    )
    assert _store(hub.url, 10) == 10 * STATIONS
    assert workers.end(signal.SIGINT) == 0


def test_a_restart_of_the_database_costs_no_request(
    hub: Kinto, database: str, workers: Process
) -> None:
    assert _store(hub.url, 10) == 10 * STATIONS
    with closing(psycopg2.connect(database)) as connection, connection.cursor() as cursor:
        # A transaction would see the same connections all along.
        connection.autocommit = True
        others = "pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"

        def ended() -> bool:
            cursor.execute(f"SELECT count(pg_terminate_backend(pid)) = 0 FROM {others}")
            found = cursor.fetchone()
            return bool(found and found[0])

        wait_until(ended, 60, "the connections of both processes to end")
    assert _store(hub.url, 10) == 10 * STATIONS
    assert workers.end(signal.SIGINT) == 0
