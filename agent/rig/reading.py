"""A reader in its thread, with an intake that remembers, on real pseudo-terminals."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rig.wait import wait_until
from unisat_agent.config.model import PortSettings
from unisat_agent.protocols.events import Event, Package, Rejected
from unisat_agent.serial.reader import FINISH_S, PortReader
from unisat_agent.serial.status import State

RECONNECT_S = 2.0
NMEA = b"$GPGGA,092204.999,4250.5589,S,14718.5084,E,1,04,24.4,19.7,M,,,,0000*1F\r\n"


def package(number: int) -> bytes:
    """A package of u01 with this number."""
    return b"\r\ndevID=u01\r\nn=%d\r\n\r\n" % number


def fast_clock() -> float:
    """Runs 20 times as fast, so that a probe of a silent port takes half a second."""
    return time.monotonic() * 20


class SkippingClock:
    """Runs as it does, but for the seconds that a test skips."""

    def __init__(self) -> None:
        self.skipped_s = 0.0

    def __call__(self) -> float:
        """The time, in seconds."""
        return time.monotonic() + self.skipped_s


class Spy:
    """An intake that remembers."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.ages: list[float] = []
        self.ports: list[str] = []

    def accept(self, port: str, events: Sequence[Event], age_s: float) -> None:
        """Takes what was read on a port so many seconds ago."""
        assert events
        self.ages.append(age_s)
        self.events.extend(events)
        self.ports.append(port)

    def numbers(self) -> list[object]:
        """Of the packages so far."""
        return [event.fields["n"] for event in self.events if isinstance(event, Package)]

    def reasons(self) -> list[str]:
        """Why lines were refused so far."""
        return [event.reason for event in self.events if isinstance(event, Rejected)]


class Running:
    """A reader in its thread."""

    def __init__(
        self, settings: PortSettings, clock: Callable[[], float], devices: frozenset[str]
    ) -> None:
        self.spy = Spy()
        self.stop = threading.Event()
        self.beats: list[float] = []
        self.states: set[State] = set()
        self.reader = PortReader(settings, self.spy, self.stop, self._beat, clock, devices)
        self.thread = threading.Thread(target=self.reader.run)

    def _beat(self) -> None:
        self.beats.append(time.monotonic())
        self.states.add(self.reader.status().state)

    @property
    def state(self) -> State:
        """Of the reader, now."""
        return self.reader.status().state

    @property
    def detail(self) -> str:
        """What the reader says of it."""
        return self.reader.status().detail

    def wait_for(self, *numbers: int, within_s: float = 5.0) -> None:
        """Waits until these packages were read, and no others."""
        wait_until(
            lambda: self.spy.numbers() == list(numbers),
            within_s,
            lambda: f"packages {numbers}, got {self.spy.events}, {self.reader.status()}",
            step_s=0.01,
        )

    def wait_state(self, state: State, within_s: float = 5.0) -> None:
        """Waits until the reader is in this state."""
        wait_until(lambda: self.state is state, within_s, f"{state}", step_s=0.01)


@contextmanager
def running(
    port: str = "auto",
    *,
    candidates: Sequence[str] = (),
    idle_s: float = 60.0,
    clock: Callable[[], float] = time.monotonic,
    devices: Sequence[str] = (),
) -> Iterator[Running]:
    """A reader with these settings in its thread, until the block ends."""
    settings = PortSettings(port=port, candidates=tuple(candidates), idle_s=idle_s)
    run = Running(settings, clock, frozenset(devices))
    run.thread.start()
    try:
        yield run
    finally:
        run.stop.set()
        run.thread.join(FINISH_S + 3)
        assert not run.thread.is_alive()
        assert run.state is State.STOPPED
