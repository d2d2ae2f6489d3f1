"""The whole serial side at once: a pty, a reader in its thread, the intake and a real spool."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rig.cable import Cable
from rig.clock import FakeClock
from rig.wait import wait_until
from unisat_agent.config.model import PortSettings
from unisat_agent.serial.intake import Intake
from unisat_agent.serial.reader import PortReader
from unisat_agent.serial.status import PortStatus
from unisat_agent.service.line import line_problems
from unisat_agent.spool.queue import Spool
from unisat_agent.spool.schema import SINKS

OURS = frozenset({"u01kz"})
PACKAGE = b"\r\ndevID=u01kz\r\nn=%d\r\n\r\n"
# What a line of 115,200 Bd carries in thirty seconds.
FLOOD_BYTES = 30 * 11_520


class Station:
    """A reader on a port, and what became of it."""

    def __init__(self, folder: Path, cable: Cable) -> None:
        self.cable = cable
        self.spool = Spool(folder / "spool.db", SINKS, "boot", 16 * 1024 * 1024)
        self.clock = FakeClock(running=True)
        self.intake = Intake(self.spool, self.clock, OURS)
        self.stop = threading.Event()
        settings = PortSettings(port=cable.name, baud=115200)
        self.reader = PortReader(
            settings, self.intake, self.stop, lambda: None, self.clock.monotonic, OURS
        )

    def status(self) -> PortStatus:
        return self.reader.status()

    def problems(self) -> list[str]:
        status = self.status()
        return list(line_problems(status.ports, status.devices, OURS).values())

    def numbers(self) -> list[int]:
        waiting = self.spool.take("local", "u01kz", 10_000)
        return [waiting.row.record()["n"] for waiting in waiting]


@contextmanager
def running(station: Station) -> Iterator[None]:
    thread = threading.Thread(target=station.reader.run)
    thread.start()
    try:
        yield
    finally:
        station.stop.set()
        thread.join(10)
        assert not thread.is_alive()
        station.intake.flush(final=True)


@pytest.fixture
def station(tmp_path: Path) -> Iterator[Station]:
    cable = Cable(tmp_path / "usb")
    made = Station(tmp_path, cable)
    yield made
    cable.close()
    made.spool.close()


def send(station: Station, data: bytes) -> None:
    for start in range(0, len(data), 1000):
        part = data[start : start + 1000]
        assert station.cable.write(part, 10) == len(part)
    assert station.cable.drained(10)


def test_a_flood_of_random_bytes_costs_no_package(station: Station) -> None:
    noise = random.Random(1)
    with running(station):
        for number in range(30):
            # Ended, or the package's first line would be glued to it.
            send(station, noise.randbytes(FLOOD_BYTES // 30) + b"\r\n" + PACKAGE % number)
        wait_until(lambda: station.numbers() == list(range(30)), 10, "all packages")
        assert station.intake.waiting == 0
    assert sum(station.intake.bad_lines.values()) > 500
    assert 0 < station.spool.quarantined() <= 60
    assert station.intake.unsampled > 0


def test_a_wrong_baud_is_one_sentence_and_a_bounded_quarantine(station: Station) -> None:
    noise = random.Random(2)
    with running(station):
        send(station, noise.randbytes(FLOOD_BYTES))
        station.clock.advance(120)
        wait_until(lambda: station.status().bytes == FLOOD_BYTES, 10, "the flood")
        wait_until(lambda: len(station.problems()) == 2, 10, "the sentences")
        wrong_speed, never_heard = station.problems()
    assert "the wrong speed? Set `baud`" in wrong_speed
    assert never_heard.startswith("u01kz is expected and has not been heard")
    assert station.spool.quarantined() <= 60


def test_only_a_foreign_device(station: Station) -> None:
    with running(station):
        send(station, b"devID=zz9\r\nn=1\r\n\r\n" * 3)
        wait_until(lambda: len(station.problems()) == 1, 10, "the sentence")
        assert station.problems()[0].startswith("zz9 is sending, but only u01kz is expected")
        send(station, PACKAGE % 1)
        wait_until(lambda: station.numbers() == [1], 10, "our own package")
    assert station.intake.foreign == {"zz9": 3}
