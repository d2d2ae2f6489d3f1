"""Everything breaks at random, at the same time, for a while: a schedule made from one seed.

Each part of a station has troubles of its own, one after the other, whatever the others have.
Afterwards all is healed; the judge comes later.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial

from rig.station import Station
from rig.valve import Mode

STRETCH_S = 20.0
_SOUND_S = 4.0
_TROUBLE_S = (0.2, 4.0)


class Part(Enum):
    """What can break."""

    AGENT = "agent"
    LOCAL = "local Kinto"
    HUB = "hub"
    LOCAL_DATABASE = "local Kinto's PostgreSQL"
    HUB_DATABASE = "hub's PostgreSQL"
    NETWORK = "network"


KILLED = "killed"
FROZEN = "frozen"
RESET = "reset"
_WAYS: Mapping[Part, tuple[str, ...]] = {
    **dict.fromkeys(Part, (KILLED, FROZEN)),
    Part.NETWORK: (Mode.CUT.value, Mode.BLACK_HOLE.value, Mode.HTML.value, RESET),
}


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is wrong with a part, from when until when; seconds from the beginning."""

    begin_s: float
    end_s: float
    part: Part
    way: str

    def __str__(self) -> str:
        return f"{self.begin_s:.1f}-{self.end_s:.1f} s: {self.part.value} {self.way}"


def schedule(rng: random.Random, seconds: float = STRETCH_S) -> list[Trouble]:
    """Troubles of all parts; those of one part do not overlap, and none begins after the end."""
    troubles = []
    for part in Part:
        at_s = rng.expovariate(1 / _SOUND_S)
        while at_s < seconds:
            end_s = at_s + rng.uniform(*_TROUBLE_S)
            troubles.append(Trouble(at_s, end_s, part, rng.choice(_WAYS[part])))
            at_s = end_s + rng.expovariate(1 / _SOUND_S)
    return troubles


def run(station: Station, troubles: list[Trouble]) -> None:
    """Does all of it to a station, in the order of time, and heals what is still broken."""
    events = []
    for trouble in troubles:
        begin, end = _actions(station, trouble)
        events += [(trouble.begin_s, begin), (trouble.end_s, end)]
    started = time.monotonic()
    try:
        for at_s, action in sorted(events, key=lambda event: event[0]):
            time.sleep(max(0.0, started + at_s - time.monotonic()))
            action()
    finally:
        # Whatever failed: nothing stays frozen for the next station.
        for kinto in (station.local, station.hub):
            kinto.thaw()
        for cluster in station.kintos.clusters.values():
            cluster.thaw()
        station.kintos.mend()


def _actions(station: Station, trouble: Trouble) -> tuple[Callable[[], object], ...]:
    """What begins the trouble, and what ends it."""
    killed = trouble.way == KILLED
    if trouble.part is Part.NETWORK:
        return partial(_obstruct, station, trouble.way), partial(station.valve.set, Mode.OPEN)
    if trouble.part is Part.AGENT:
        if killed:
            return station.kill_agent, partial(station.start_agent, wait=False)
        return partial(_signal, station, signal.SIGSTOP), partial(_signal, station, signal.SIGCONT)
    if trouble.part in {Part.LOCAL, Part.HUB}:
        kinto = station.local if trouble.part is Part.LOCAL else station.hub
        # Launched without its database it ends again, and is started when all is healed.
        return (kinto.kill, kinto.launch) if killed else (kinto.freeze, kinto.thaw)
    cluster = station.kintos.clusters["local" if trouble.part is Part.LOCAL_DATABASE else "hub"]
    return (cluster.kill, cluster.start) if killed else (cluster.freeze, cluster.thaw)


def _obstruct(station: Station, way: str) -> None:
    if way == RESET:
        station.valve.set(Mode.CUT)
        station.valve.set(Mode.OPEN)
    else:
        station.valve.set(Mode(way))


def _signal(station: Station, number: signal.Signals) -> None:
    assert station.agent is not None
    assert station.agent.running(), f"the agent has ended: {station.log_tail()}"
    station.agent.send(number)
