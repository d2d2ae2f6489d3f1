"""Two hundred stations take an update by their turn, and the first failure stops it."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import pytest
from unisat_rollout import decide

from unisat_update.rings import FIRST, MANUAL, Offer, joins, place

NAMES = [f"school-{number:03}" for number in range(200)]
VERSION = "2.0"


class Fleet:
    """Stations that look once a day."""

    def __init__(self, bad: frozenset[str] = frozenset()) -> None:
        self.stable: dict[str, Any] = {"version": VERSION, "serial": 2, "percent": 0}
        self.stations: dict[str, dict[str, Any]] = {name: {} for name in NAMES}
        self.bad = bad
        self.tried: set[str] = set()

    def day(self, ring: dict[str, str], when: dict[str, str]) -> None:
        offer = Offer(VERSION, 2, self.stable["percent"], "2.0-arm64.json")
        for name in NAMES:
            if name in self.tried:
                continue
            if not joins(name, offer, ring=ring.get(name, ""), when=when.get(name, "")):
                continue
            self.tried.add(name)
            update = {"version": VERSION, "problem": False, "said": "installed"}
            if name in self.bad:
                said = f"Update: version {VERSION} did not work here (no record came in); back."
                update = {"version": "1.0", "problem": True, "said": said}
            self.stations[name] = {"health": "ok", "update": update}

    def operator(self) -> str:
        decided = decide(self.stable, self.stations)
        self.stable["percent"] = decided["percent"]
        return str(decided["why"])


def test_all_come_to_the_new_version_in_steps() -> None:
    fleet, shares = Fleet(), []
    for _ in range(12):
        fleet.operator()
        before = set(fleet.tried)
        fleet.day({}, {})
        shares.append(fleet.stable["percent"])
        offered = {name for name in NAMES if place(name, VERSION) < fleet.stable["percent"]}
        assert fleet.tried == offered | before
    assert {1, 5, 20, 50, 100} <= set(shares)
    assert sorted(shares) == shares
    assert fleet.tried == set(NAMES)


def test_the_first_failure_stops_it() -> None:
    # The one whose turn comes in the third step.
    unlucky = next(name for name in NAMES if 5 <= place(name, VERSION) < 20)
    fleet = Fleet(frozenset({unlucky}))
    while unlucky not in fleet.tried:
        fleet.operator()
        fleet.day({}, {})
    tried = set(fleet.tried)
    assert len(tried) <= 60
    why = fleet.operator()
    assert why == f"2.0 is stopped, because it did not go well on {unlucky}: see status.yml"
    for _ in range(5):
        fleet.day({}, {})
        fleet.operator()
        assert fleet.stable["percent"] == 0
    assert fleet.tried == tried


def test_a_station_that_runs_it_and_is_failed_stops_it_too() -> None:
    stations = {"a": {"health": "failed", "update": {"version": VERSION}}}
    assert decide({"version": VERSION, "percent": 5}, stations)["percent"] == 0
    # One that failed before, on another version, says nothing of this one.
    stations = {"a": {"health": "failed", "update": {"version": "1.0"}}}
    assert decide({"version": VERSION, "percent": 0}, stations)["percent"] == 1


def test_stations_that_are_off_hold_it_up_and_stop_nothing() -> None:
    stations: dict[str, dict[str, Any]] = {name: {} for name in NAMES}
    decided = decide({"version": VERSION, "percent": 20}, stations)
    assert decided["percent"] == 20
    offered = sum(place(name, VERSION) < 20 for name in NAMES)
    assert f"{math.ceil(offered / 2)} are awaited" in decided["why"]


@pytest.mark.parametrize("percent", [0, 100])
def test_the_first_ring_goes_at_once_and_manual_never(percent: int) -> None:
    offer = Offer(VERSION, 2, percent, "")
    assert joins("any", offer, ring=FIRST, when="")
    assert not joins("any", offer, ring=FIRST, when=MANUAL)
    assert joins("any", offer, ring="", when="") == (percent == 100)


def test_the_turn_is_another_one_for_each_version_and_spread_evenly() -> None:
    assert [place(name, "2.0") for name in NAMES] != [place(name, "2.1") for name in NAMES]
    for percent in (5, 20, 50):
        share = sum(place(name, VERSION) < percent for name in NAMES) / len(NAMES) * 100
        assert abs(share - percent) < 10
    expected = int.from_bytes(hashlib.sha256(b"school-001\n2.0").digest()[:8]) % 100
    assert place("school-001", "2.0") == expected
