"""Nothing committed is lost, nothing arrives twice, whatever happens in between.

Each test runs a station of real processes (rig/oracle.py says what the judge demands), breaks it
while a satellite sends, lets it heal, and judges; then one fresh package has to arrive. `make soak`
does the same for hours.
"""

from __future__ import annotations

import random

import pytest

from rig import faults, schedule
from rig.oracle import OracleError
from rig.station import MakeStation
from rig.valve import Mode

# What a satellite does wrong by itself while everything else breaks.
UNRULY = ("garbage", "nan", "half", "missing", "crlf", "burst")


def test_oracle_convicts(make_station: MakeStation) -> None:
    """A judge that never finds anything would make all the others green."""
    station = make_station()
    station.start_agent()
    with station.satellite(devices=1, interval_s=0.2, count=6) as satellite:
        pass
    station.drain()
    station.judge().insist()
    (device,) = satellite.devices
    victim = station.records(station.hub)[2]
    hub = station.client(station.hub)
    del victim["last_modified"]
    hub.delete_record(id=victim["id"], collection=device)
    with pytest.raises(OracleError, match=r"lost=1.* seqs .* are missing"):
        station.judge().insist()
    hub.create_record(data={**victim, "id": "twice"}, collection=device)
    hub.create_record(data=victim, collection=device)
    with pytest.raises(OracleError, match=r"duplicates=1.* are there twice"):
        station.judge().insist()


def test_killed_agent(make_station: MakeStation, rng: random.Random) -> None:
    station = make_station()
    station.start_agent()
    with station.satellite(faults=UNRULY):
        for _ in range(5):
            faults.kill_agent(station, rng)
    station.drain()
    judgement = station.prove_life()
    assert judgement.verdict.sent > 20
    assert judgement.excused <= 10


def test_killed_kintos(make_station: MakeStation, rng: random.Random) -> None:
    station = make_station()
    station.start_agent()
    with station.satellite(faults=UNRULY):
        for kinto in (station.local, station.hub) * 2:
            faults.kill_kinto(station, rng, kinto)
    station.drain()
    assert station.prove_life().excused == 0


def test_killed_postgresql(make_station: MakeStation, rng: random.Random) -> None:
    station = make_station()
    station.start_agent()
    with station.satellite(faults=UNRULY):
        for _ in range(3):
            faults.kill_postgres(station, rng)
    station.drain()
    assert station.prove_life().excused == 0


@pytest.mark.parametrize("mode", [Mode.CUT, Mode.BLACK_HOLE, Mode.HTML])
def test_hub_out_of_reach(make_station: MakeStation, rng: random.Random, mode: Mode) -> None:
    station = make_station()
    station.start_agent()
    with station.satellite():
        faults.obstruct_hub(station, rng, mode)
        station.drain_backlog()
    station.drain()
    assert station.prove_life().excused == 0


def test_hub_killed_with_the_agent(make_station: MakeStation, rng: random.Random) -> None:
    station = make_station()
    station.start_agent()
    with station.satellite():
        station.hub.kill()
        faults.kill_agent(station, rng)
        station.hub.launch()
        faults.kill_agent(station, rng)
        station.hub.wait_ready()
    station.drain()
    assert station.prove_life().excused <= 4


def test_cable_pulled_and_plugged_in_under_another_name(
    make_station: MakeStation, rng: random.Random
) -> None:
    station = make_station()
    station.start_agent()
    with station.satellite() as satellite:
        seconds, devices = [], []
        for _ in range(4):
            seconds.append(faults.replug(station, satellite, rng))
            devices.append(station.status()["ports"][0]["device"])
    station.drain()
    assert station.prove_life().excused == 0
    assert max(seconds) <= 2.0
    assert len(set(devices)) > 1


def test_full_disk(make_station: MakeStation, rng: random.Random) -> None:
    station = make_station(spool_mb=6)
    station.start_agent()
    with station.satellite():
        for _ in range(2):
            faults.fill_disk(station, rng)
    station.drain()
    assert station.prove_life().excused == 0


def test_full_disk_while_the_hub_is_away(make_station: MakeStation, rng: random.Random) -> None:
    """Nothing can be evicted by delivering it."""
    station = make_station(spool_mb=6)
    station.start_agent()
    with station.satellite():
        station.valve.set(Mode.CUT)
        faults.fill_disk(station, rng)
        station.valve.set(Mode.OPEN)
    station.drain()
    assert station.prove_life().excused == 0


def test_wall_clock_stepped_by_years(make_station: MakeStation, rng: random.Random) -> None:
    station = make_station()
    clock = faults.FakeClock(station.directory)
    station.start_agent(environment=clock.environment)
    with station.satellite():
        for _ in range(2):
            faults.step_clock(station, clock, rng)
    station.drain()
    assert station.prove_life().excused == 0


def test_everything_at_random(make_station: MakeStation) -> None:
    """Agent, both Kintos, both PostgreSQL and the network, overlapping; `make soak` does it longer.

    The seed is fixed: the same troubles at the same moments each time.
    """
    troubles = schedule.schedule(random.Random(18), 12)
    assert {trouble.part for trouble in troubles} == set(schedule.Part)
    station = make_station()
    station.start_agent()
    with station.satellite(faults=UNRULY):
        schedule.run(station, troubles)
    station.drain()
    assert station.prove_life().verdict.sent > 20
