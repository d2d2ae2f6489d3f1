"""A spool, a courier for the hub, and a scripted hub: delivery step by step, without threads."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from typing import Any

from rig.clock import FakeClock
from rig.replies import Reply, Request
from rig.scripted import ScriptedServer
from rig.wait import wait_until
from unisat_agent.clock import ClockState
from unisat_agent.config.model import SinkSettings
from unisat_agent.delivery.backoff import PAUSE_MAX_S
from unisat_agent.delivery.courier import IDLE_S, Courier
from unisat_agent.delivery.kinto import KintoClient, TransportError
from unisat_agent.delivery.standing import SinkState
from unisat_agent.record import Record, Row, Stamp
from unisat_agent.spool.dead import dead_letters
from unisat_agent.spool.queue import Spool

BOOT = "boot-a"
BATCH = "POST /v1/batch"


class FullJitter(random.Random):
    """Always the longest wait that the jitter allows; keeps what it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[tuple[float, float]] = []

    def uniform(self, a: float, b: float) -> float:
        """The upper end."""
        self.drawn.append((a, b))
        return b


class Way:
    """A spool, a courier for the hub, and a server that answers as told."""

    def __init__(self, spool: Spool, server: ScriptedServer, **settings: Any) -> None:
        self.spool = spool
        self.server = server
        self.stop = threading.Event()
        self.clock = FakeClock(uptime=100_000)
        self.idle: list[bool] = []
        self.beats: list[None] = []
        given = {"read_timeout_s": 0.3, "connect_timeout_s": 5.0, **settings}
        self.settings = SinkSettings("hub", server.url, "station", "secret", **given)
        self.wait_s = 0.0
        self.client = KintoClient(self.settings)
        self.rng = FullJitter()
        self.courier = Courier(
            spool,
            self.client,
            self.clock,
            self.stop,
            hold_s=10.0,
            on_idle=self.idle.append,
            rng=self.rng,
        )
        # So that the first request is the batch, on a new connection.
        self.courier.standing.proven = True

    def packages(self, count: int = 3, dev_id: str = "u01", at: Stamp | None = None) -> list[Row]:
        """Appends packages of a device to the spool."""
        stamp = at or Stamp(1_700_000_000_000, 5_000, BOOT, ClockState.SYNCED)
        first = self.spool.last_seq
        return [
            self.spool.append(dev_id, json.dumps({"n": first + n}), stamp, []) for n in range(count)
        ]

    def step(self) -> float:
        """One step, as if the wait before it were over."""
        self.clock.advance(self.wait_s)
        self.wait_s = self.courier.step()
        waits_for_a_pause = self.wait_s == IDLE_S and self.pending()
        if waits_for_a_pause:
            self.clock.advance(PAUSE_MAX_S)
        return self.wait_s

    def deliver(self, most: int = 100) -> None:
        """Until nothing waits."""
        for _ in range(most):
            if not self.pending():
                return
            self.step()
        raise AssertionError(f"{self.pending()} rows still wait: {self.said()}")

    def pending(self) -> int:
        """How many rows wait for the hub."""
        return self.spool.pending("hub")

    def stored(self, dev_id: str = "u01") -> dict[str, Record]:
        """What the hub has of a device, by id."""
        return self.server.records(dev_id)

    def dead(self) -> dict[str, str]:
        """The details of the dead letters, by record id."""
        return {str(x.row.record_id): x.detail for x in dead_letters(self.spool.path)}

    def asked(self, line: str) -> list[Request]:
        """The requests whose `METHOD /path` begins with this."""
        return [r for r in self.server.requests if f"{r.method} {r.path}".startswith(line)]

    def settle(self, dev_id: str = "u01", most: int = 50) -> None:
        """Until nothing waits; a healthy package comes now and then, as on a station."""
        for _ in range(most):
            if not self.pending():
                return
            self.packages(1, dev_id)
            for _ in range(4):
                self.step()
        raise AssertionError(f"{self.pending()} rows still wait: {self.said()}")

    @property
    def state(self) -> SinkState:
        """What the hub is doing, for the operator."""
        return self.courier.standing.state

    def said(self) -> str:
        """The troubles that the courier tells."""
        return "; ".join(self.courier.standing.notices.current())


MakeWay = Callable[..., Way]


def ids(rows: list[Row]) -> list[str]:
    """The record ids of rows."""
    return [str(row.record_id) for row in rows]


def refuse(way: Way, reply: Reply, refused: Callable[[list[str]], bool]) -> None:
    """Answers each batch of such record ids with the reply."""

    def matches(request: Request) -> bool:
        if not request.path.endswith("/batch"):
            return False
        return refused([item["path"].rpartition("/")[2] for item in request.body["requests"]])

    way.server.intercept(matches, lambda _: reply)


def client(url: str, clock: FakeClock | None = None, **settings: Any) -> KintoClient:
    """A client of its own, that waits half a second for an answer."""
    given = {"connect_timeout_s": 5.0, "read_timeout_s": 0.5, **settings}
    made = clock or FakeClock(running=True)
    return KintoClient(SinkSettings("hub", url, "me", "sécret", **given), made.monotonic)


def aborted(made: KintoClient, under_way: Callable[[], object]) -> list[TransportError]:
    """Aborts a request of another thread once it is under way; returns what that thread got."""
    failures: list[TransportError] = []

    def ask() -> None:
        try:
            made.request("GET", "/")
        except TransportError as error:
            failures.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    wait_until(under_way, 10, "the request", 0.01)
    made.abort()
    thread.join(30)
    return failures
