"""The stations before their first update: one of them flashed, and both without a network."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from bundles import make_all
from pulling import FLASHED, HOSTS, SETTINGS

from outside import inside, run
from station import flash, well


@pytest.fixture(scope="session", autouse=True)
def stations() -> None:
    """Makes the bundles and the flashed station, and pulls the cable out."""
    make_all()
    for name in HOSTS:
        run("docker", "network", "disconnect", "unisat-test", name)
    flash(FLASHED, SETTINGS)
    for name in HOSTS:
        well(name)


@pytest.fixture(autouse=True)
def journal_on_failure(request: pytest.FixtureRequest) -> Iterator[None]:
    """Prints the supervisors' own words when a test has failed."""
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed > failed:
        for name in HOSTS:
            shown = ("--unit=unisat-update*", "--lines=120", "--output=cat", "--no-pager")
            print(f"--- {name}\n{inside(name, 'journalctl', *shown, check=False)}")
