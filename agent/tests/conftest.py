"""Real parts for the tests: one PostgreSQL and one memcached a session, fresh Kintos a test."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from rig.kinto import Kinto
from rig.servers import Memcached, Postgres
from rig.station import Kintos, MakeStation, Station

_skipped: list[str] = []


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
    """A local Kinto and a hub, for one station after the other."""
    with Kintos(tmp_path_factory.mktemp("kintos"), postgres, memcached) as pair:
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
