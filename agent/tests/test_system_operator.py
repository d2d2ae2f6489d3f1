"""What an operator meets: commands beside a running agent, damage, wrong answers, a late clock.

The parts are as real as in test_system_oracle.py.
"""

from __future__ import annotations

import csv
import io
import json
import os
import signal
from datetime import UTC, datetime, timedelta

import pytest

from rig.cable import Cable
from rig.faults import FakeClock, contend
from rig.station import MakeStation, Station
from rig.valve import Mode
from rig.wait import wait_until

STOP_S = 5.0


def succeed(station: Station, *words: str) -> str:
    """Runs a command that must end with 0; returns what it said."""
    done = station.cli(*words)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


def test_every_command_beside_a_running_agent(make_station: MakeStation) -> None:
    station = make_station()
    station.start_agent()
    with station.satellite(faults=("garbage",), count=20):
        pass
    station.drain()
    with station.satellite(devices=1) as satellite:
        station.wait_status(
            # Twice: it is believed from its second package on.
            lambda status: (
                (last := status["last_record"] or {}).get("devID") == satellite.devices[0]
                and last["packet"] >= 2
            ),
            "the satellite to be heard",
        )
        succeed(station, "check", "--offline")
        assert "FAIL" not in succeed(station, "check")
        assert str(station.link) in succeed(station, "status")
        assert succeed(station, "ports", "--listen", "0")
        assert json.loads(succeed(station, "status", "--json"))["station"] == "station"
    station.drain()
    assert "intact" in succeed(station, "spool", "check")
    stored = station.records(station.hub)
    lines = [json.loads(line) for line in succeed(station, *EXPORT, "jsonl").splitlines()]
    assert sorted(line["id"] for line in lines) == sorted(record["id"] for record in stored)
    table = list(csv.DictReader(io.StringIO(succeed(station, *EXPORT, "csv"))))
    assert [row["id"] for row in table] == [line["id"] for line in lines]
    assert "no dead letters" in succeed(station, "dead", "list")
    assert succeed(station, "dead", "retry").startswith("0 ")
    assert "0 missing on the hub" in succeed(station, "reconcile")
    assert station.prove_life().excused == 0


EXPORT = ("spool", "export", "--format")


def test_commands_without_an_agent_say_so(make_station: MakeStation) -> None:
    station = make_station(config={"[serial]": {"port": "/dev/no-such-port"}})
    status = station.cli("status")
    assert (status.returncode, status.stdout) == (1, "")
    assert "no agent answers" in status.stderr
    check = station.cli("check", "--listen", "1")
    assert check.returncode == 1
    assert "/dev/no-such-port" in check.stdout


def test_second_agent_on_one_spool_is_refused(make_station: MakeStation) -> None:
    station = make_station()
    station.start_agent()
    second = station.cli("run", deadline_s=20)
    assert second.returncode == 1
    assert "another agent has this spool" in second.stderr
    assert station.prove_life().excused == 0


@pytest.mark.parametrize("damage", ["some pages", "the whole file"])
def test_damaged_spool_is_set_aside_and_salvaged(make_station: MakeStation, damage: str) -> None:
    station = make_station()
    station.start_agent()
    station.valve.set(Mode.CUT)
    with station.satellite(count=120, interval_s=0.05):
        pass
    station.wait_status(
        lambda status: status["sinks"]["local"]["pending"] == 0, "the local Kinto to have all"
    )
    station.stop_agent()
    size = station.spool.stat().st_size
    with station.spool.open("r+b") as file:
        # The schema stands at the beginning: without it no row can be read.
        first, last = (0, size) if damage == "the whole file" else (size * 2 // 3, size * 5 // 6)
        file.seek(first)
        file.write(os.urandom(last - first))
    # A start does not read every row. The check does, and has the next start set the file aside.
    assert station.cli("spool", "check").returncode == 1
    station.start_agent(wait=False)
    station.wait_status(
        lambda status: any("aside" in problem for problem in status["problems"]),
        "the status to say that a spool was set aside",
    )
    (aside,) = station.spool.parent.glob("spool.db.corrupt-?")
    assert aside.stat().st_size == size
    assert str(aside) in succeed(station, "spool", "check")
    if damage == "some pages":
        # In the background, after the agent is ready.
        station.wait_status(
            lambda status: 10 < status["sinks"]["hub"]["pending"] < 120, "the intact rows"
        )
    station.valve.set(Mode.OPEN)
    # What the damage cost is in the local Kinto, from where the hub gets it.
    succeed(station, "reconcile")
    station.drain()
    assert station.prove_life().excused == 0
    station.stop_agent()
    station.start_agent(wait=False)
    station.drain()
    station.judge().insist()


def test_stop_finishes_the_package_in_hand(make_station: MakeStation) -> None:
    # Named: a devID that is not is believed from its second package on.
    station = make_station(config={"station": {"devices": ["inhand"]}})
    cable = Cable(station.link)
    station.provision_hub("inhand")
    station.start_agent()
    cable.write(b"\r\ndevID=inhand\r\ntemperature=20.5\r\nhumi")
    assert cable.drained(5)
    wait_until(lambda: station.status()["ports"][0]["bytes"] >= 30, 5, "the agent to have read it")
    assert station.agent is not None
    os.kill(station.agent.pid, signal.SIGTERM)
    cable.write(b"dity=40\r\npressure=1000.1\r\npm25=3.0\r\n\r\n")
    assert station.stop_agent() <= STOP_S
    assert station.last_committed_fields()["humidity"] == 40.0
    station.start_agent()
    station.drain()
    for kinto in (station.local, station.hub):
        (record,) = station.records(kinto, "inhand")
        assert (record["pm25"], "missing" in record) == (3.0, False)
    cable.close()


def test_stop_does_not_wait_for_a_hub_that_is_silent(make_station: MakeStation) -> None:
    station = make_station(config={"hub": {"read_timeout_s": 30, "connect_timeout_s": 30}})
    station.start_agent()
    with station.satellite():
        station.valve.set(Mode.BLACK_HOLE)
        station.wait_status(
            lambda status: status["sinks"]["hub"]["pending"] >= 3, "the hub to be silent"
        )
        assert station.stop_agent() <= STOP_S
    station.valve.set(Mode.OPEN)
    station.start_agent(wait=False)
    station.drain()
    station.prove_life()


@pytest.mark.parametrize("hold_s", [600, 1])
def test_clock_that_is_right_only_later(make_station: MakeStation, hold_s: int) -> None:
    """A Pi has no real-time clock: it starts in the past and does not know better.

    Within `hold_s` the hub never sees a wrong time; after it, one that says that it is unsynced.
    Once the clock is right both Kintos have the right time for every record.
    """
    station = make_station(config={"clock": {"hold_s": hold_s}})
    station.clock_flag.unlink()
    clock = FakeClock(station.directory)
    clock.step(-20 * 365 * 86400)
    begun = datetime.now(UTC)
    station.start_agent(environment=clock.environment)
    with station.satellite(devices=1) as satellite:
        station.wait_status(
            lambda status: (
                status["sinks"]["local"]["acked"] >= 5
                and (hold_s == 600 or status["sinks"]["hub"]["acked"] >= 3)
            ),
            "the local Kinto, and the hub after hold_s, to have unsynced records",
        )
        early = {kinto.name: station.records(kinto) for kinto in (station.local, station.hub)}
        assert {record["clock"] for record in early["local"]} == {"unsynced"}
        assert {record["clock"] for record in early["hub"]} == (
            set() if hold_s == 600 else {"unsynced"}
        )
        clock.step(0)
        station.clock_flag.touch()
        station.wait_status(
            lambda status: (status["last_record"] or {}).get("clock") == "synced",
            "packages to be stamped with the right time",
        )
    ended = datetime.now(UTC)
    station.drain()
    station.judge().insist()
    records = [r for r in station.records(station.hub) if r["devID"] in satellite.devices]
    assert {record["clock"] for record in records} == {"corrected", "synced"}
    second = timedelta(seconds=1)
    for record in records:
        received = datetime.fromisoformat(record["received_at"])
        assert begun - second <= received <= ended + second
        assert type(record["timestamp"]) is int
        assert record["timestamp"] == int(received.timestamp())
    # Packages of one read have one time: their numbers, not the hub's order, say which came first.
    in_order = sorted(records, key=lambda record: int(record["seq"]))
    assert in_order == sorted(in_order, key=lambda record: str(record["received_at"]))
    station.prove_life()


def test_false_201_of_a_batch_loses_nothing(make_station: MakeStation) -> None:
    """See test_kinto_facts.py for what Kinto does here."""
    station = make_station()
    station.start_agent()
    with station.satellite(devices=1) as satellite:
        contend(station, satellite)
    station.drain()
    assert "409" in station.log_tail()
    assert station.prove_life().excused == 0


@pytest.mark.parametrize("which", ["local", "hub"])
def test_restored_database_becomes_equal_again(make_station: MakeStation, which: str) -> None:
    station = make_station()
    kinto = getattr(station, which)
    station.start_agent()
    with station.satellite(count=30, interval_s=0.1):
        pass
    station.drain()
    backup = station.kintos.snapshot(kinto)
    with station.satellite(count=60, interval_s=0.1):
        pass
    station.drain()
    assert len(station.records(kinto)) == 90
    station.kintos.restore(kinto, backup)
    # The collections that the backup did not have are the hub operator's to make.
    if which == "hub":
        station.provision_hub()
    assert len(station.records(kinto)) == 30
    succeed(station, "reconcile")
    station.drain()
    station.judge().insist()
    assert len(station.records(kinto)) == 90
    station.prove_life()


def test_refused_records_are_kept_and_can_be_retried(make_station: MakeStation) -> None:
    station = make_station()
    station.start_agent()
    # Healthy packages come before and after them, which shows whose fault it is.
    refused = {"not": {"enum": [5, 6, 7]}}
    with station.satellite(devices=1, interval_s=0.2) as satellite:
        (device,) = satellite.devices
        station.client(station.hub).patch_collection(
            id=device, data={"schema": {"type": "object", "properties": {"packet": refused}}}
        )
        station.wait_status(
            lambda status: status["sinks"]["hub"]["dead"] == 3, "the hub to refuse three"
        )
    station.drain()
    dead = [json.loads(line) for line in succeed(station, "dead", "list", "--json").splitlines()]
    there = station.records(station.hub)
    assert len(dead) + len(there) == len(station.records(station.local))
    assert {entry["record"]["id"] for entry in dead}.isdisjoint(record["id"] for record in there)
    assert {entry["sink"] for entry in dead} == {"hub"}
    assert device in succeed(station, "dead", "list")
    station.client(station.hub).patch_collection(id=device, data={"schema": {}})
    one = dead[0]["record"]["id"]
    assert succeed(station, "dead", "retry", one).startswith("1 ")
    station.wait_status(
        lambda status: status["sinks"]["hub"]["dead"] == len(dead) - 1, "one to be retried"
    )
    assert succeed(station, "dead", "retry").startswith(f"{len(dead) - 1} ")
    station.wait_status(lambda status: not status["sinks"]["hub"]["dead"], "all to be retried")
    station.drain()
    assert station.prove_life().excused == 0


def test_wrong_password_pauses_the_sink_alone(make_station: MakeStation) -> None:
    # Kinto takes half a second to refuse a password, for each record of a batch.
    station = make_station(config={"hub": {"read_timeout_s": 30}})
    with station.satellite(devices=1, count=10, interval_s=0.2):
        station.hub.create_account("station", "another")
        station.start_agent()
    status = station.wait_status(
        lambda status: (
            status["sinks"]["hub"]["state"] == "paused"
            and status["sinks"]["local"]["acked"] >= 10
            and not status["sinks"]["local"]["pending"]
        ),
        "the hub to be paused, and the local Kinto to have all",
    )
    assert status["health"] == "failed"
    assert any("hub" in problem for problem in status["problems"])
    assert status["sinks"]["hub"]["pending"] == 10
    assert station.log_tail().count("refuses the account") == 1
    assert "FAIL" in station.cli("check").stdout
    station.provision_hub()
    station.stop_agent()
    station.start_agent(wait=False)
    station.drain()
    assert station.prove_life().excused == 0


def test_types_as_the_mobile_app_reads_them(make_station: MakeStation) -> None:
    station = make_station(config={"station": {"devices": ["typed"]}})
    cable = Cable(station.link)
    station.provision_hub("typed")
    station.start_agent()
    cable.write(b"\r\ndevID=typed\r\nhumidity=20\r\nsatellites=7\r\nbattery=true\r\n\r\n")
    wait_until(lambda: station.status()["spool"]["last_seq"] == 1, 10, "the package")
    station.drain()
    (record,) = station.records(station.hub, "typed")
    assert repr(record["humidity"]) == "20.0"
    assert (type(record["timestamp"]), type(record["satellites"])) == (int, int)
    assert record["battery"] is True
    assert record["missing"] == ["temperature", "pressure", "pm25"]
    cable.close()
