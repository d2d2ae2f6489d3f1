"""What the tests of the image share: the image, where its cards lie, and the figures printed."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rig.kinto import Kinto
from rig.servers import Memcached, Postgres

PROJECT = Path(__file__).parents[2]
IMAGE = Path(os.environ.get("UNISAT_IMAGE", PROJECT / "build/image/unisat-debian.img"))
_figures: list[str] = []


def figure(line: str) -> None:
    """Keeps a figure for the end of the run."""
    _figures.append(line)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the figures."""
    if _figures:
        terminalreporter.section("figures, under emulation")
        for line in _figures:
            terminalreporter.line(line)


@pytest.fixture(scope="session")
def image() -> Path:
    """The image that was built."""
    if not IMAGE.is_file():
        pytest.fail(f"{IMAGE} is not there: build it with `make image`", pytrace=False)
    return IMAGE.resolve()


@pytest.fixture(scope="session")
def seed() -> int:
    """Of the moments at which the power is cut, and of what the card then loses."""
    chosen = int(os.environ.get("SEED", random.randrange(10**6)))
    figure(f"seed of the power cuts: SEED={chosen}")
    return chosen


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kinto]:
    """A real hub on the host's loopback."""
    with Postgres() as postgres, Memcached() as memcached:
        storage = postgres.url(postgres.new_database())
        directory = tmp_path_factory.mktemp("hub")
        with Kinto(directory, "hub", storage_url=storage, memcached=memcached.address) as server:
            yield server


@pytest.fixture(scope="session")
def ssh_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key pair of an operator, made for this run."""
    return new_key(tmp_path_factory.mktemp("ssh"))


def new_key(directory: Path) -> Path:
    """Makes an ssh key pair in a folder."""
    file = directory / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", file], check=True)
    return file
