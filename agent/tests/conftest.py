"""Real parts for the tests: one PostgreSQL and one memcached a session, fresh Kintos a test."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from rig.cable import Cable
from rig.kinto import Kinto
from rig.kintos import Kintos
from rig.scripted import ScriptedServer
from rig.servers import Memcached, Postgres
from rig.site import Site, Systemd, make_site
from rig.spools import opened, spool_path
from rig.station import MakeStation, Station
from rig.way import MakeWay, Way
from unisat_agent.spool.queue import Spool

_skipped: list[str] = []

# A shell starts its background jobs with SIGINT ignored; programs under test would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Notes skipped tests, for UNISAT_FORBID_SKIPS."""
    if report.skipped and not hasattr(report, "wasxfail"):
        _skipped.append(report.nodeid)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """With UNISAT_FORBID_SKIPS=1 a skipped test is a failure: what did not run is not green."""
    if os.environ.get("UNISAT_FORBID_SKIPS") == "1" and _skipped:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says why the session failed when it did because of skips."""
    if os.environ.get("UNISAT_FORBID_SKIPS") == "1" and _skipped:
        terminalreporter.section("skips are forbidden (UNISAT_FORBID_SKIPS=1)", red=True)
        for name in _skipped:
            terminalreporter.line(name)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A running PostgreSQL cluster; a test that stops it starts it again."""
    with Postgres() as server:
        yield server


@pytest.fixture(scope="session")
def memcached() -> Iterator[Memcached]:
    """A running memcached."""
    with Memcached() as server:
        yield server


@pytest.fixture
def database(postgres: Postgres) -> Iterator[str]:
    """The name of a fresh database."""
    if not postgres.running:
        postgres.start()
    name = postgres.new_database()
    yield name
    postgres.drop_database(name)


@pytest.fixture
def kinto(
    postgres: Postgres, memcached: Memcached, database: str, tmp_path: Path
) -> Iterator[Kinto]:
    """A Kinto with an administrator and nothing in it, on a fresh database."""
    storage = postgres.url(database)
    address = memcached.address
    with Kinto(tmp_path, "kinto", storage_url=storage, memcached=address) as server:
        yield server


@pytest.fixture(scope="session")
def kintos(
    postgres: Postgres, memcached: Memcached, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kintos]:
    """A local Kinto and a hub on clusters of their own, for one station after the other."""
    directory = tmp_path_factory.mktemp("kintos")
    with Postgres() as hub_postgres, Kintos(directory, postgres, memcached, hub_postgres) as pair:
        yield pair


@pytest.fixture
def make_station(tmp_path: Path, kintos: Kintos) -> Iterator[MakeStation]:
    """Makes the test's station, with the options of Station; it ends with the test."""
    with ExitStack() as stack:

        def make(**options: Any) -> Station:
            return stack.enter_context(Station(tmp_path, kintos, **options))

        yield make


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Seeded by the test's name: the same moments each time, others in each test."""
    return random.Random(request.node.name)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A cable, two scripted Kintos, and a configuration for an agent between them."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    with make_site() as made:
        yield made


@pytest.fixture
def systemd_(monkeypatch: pytest.MonkeyPatch) -> Iterator[Systemd]:
    """What the agent reports to systemd."""
    # Not pytest's folder, whose path may be too long for a socket.
    with (
        tempfile.TemporaryDirectory(prefix="unisat-notify-") as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener,
    ):
        listener.bind(f"{folder}/socket")
        monkeypatch.setenv("NOTIFY_SOCKET", f"{folder}/socket")
        made = Systemd(listener)
        yield made
        made.close()


@pytest.fixture
def path() -> Iterator[Path]:
    """Where a spool may be, in memory where there is such a place."""
    with spool_path() as path:
        yield path


@pytest.fixture
def spool(path: Path) -> Iterator[Spool]:
    """An empty spool with both sinks."""
    made = opened(path)
    yield made
    made.close()


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as made:
        yield made


@pytest.fixture
def make_way(spool: Spool, server: ScriptedServer) -> Iterator[MakeWay]:
    with contextlib.ExitStack() as stack:

        def make(**settings: Any) -> Way:
            made = Way(spool, server, **settings)
            stack.callback(made.client.close)
            return made

        yield make


@pytest.fixture
def way(make_way: MakeWay) -> Way:
    return make_way()


@pytest.fixture
def plug(tmp_path: Path) -> Iterator[Callable[[str], Cable]]:
    """Makes cables that are pulled at the end."""
    cables: list[Cable] = []

    def make(name: str) -> Cable:
        cables.append(Cable(tmp_path / name))
        return cables[-1]

    yield make
    for cable in cables:
        cable.close()


@pytest.fixture
def cable(plug: Callable[[str], Cable]) -> Cable:
    return plug("usb-UniSat")
