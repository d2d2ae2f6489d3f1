"""How often devices send is learned, and known after a restart too."""

from __future__ import annotations

import json

from rig.clock import FakeClock
from rig.site import WAIT_S, Site, running
from rig.wait import wait_until
from unisat_agent.delivery.retention import Kept
from unisat_agent.serial.devices import MAX_DEVICES
from unisat_agent.serial.status import DeviceHeard
from unisat_agent.service.intervals import NOTE, SAVE_S, Intervals
from unisat_agent.spool.queue import Spool


def heard(interval_s: float | None, dev_id: str = "u01") -> DeviceHeard:
    return DeviceHeard(dev_id, packages=9, age_s=1.0, interval_s=interval_s)


def test_is_known_after_a_restart(spool: Spool) -> None:
    clock = FakeClock()
    Intervals(spool, clock.monotonic).learn([heard(1800.0), heard(None, "u02")])
    again = Intervals(spool, clock.monotonic)
    assert again.usual() == {"u01": 1800.0}
    assert again.filled([heard(None), heard(None, "u02")]) == (heard(1800.0), heard(None, "u02"))
    assert again.filled([heard(2.0)]) == (heard(2.0),), "what is learned anew counts more"


def test_only_changes_are_written_and_not_too_often(spool: Spool) -> None:
    clock = FakeClock()
    intervals = Intervals(spool, clock.monotonic)

    def kept() -> object:
        return json.loads(spool.note(NOTE) or "{}")

    intervals.learn([heard(10.0)])
    assert kept() == {"u01": 10.0}
    clock.advance(SAVE_S)
    intervals.learn([heard(11.0)])
    assert kept() == {"u01": 10.0}, "nearly the same"
    intervals.learn([heard(20.0)])
    intervals.learn([heard(40.0)])
    assert kept() == {"u01": 20.0}, "too soon after the last time"
    clock.advance(SAVE_S)
    intervals.learn([])
    assert kept() == {"u01": 40.0}


def test_noise_fills_nothing(spool: Spool) -> None:
    clock = FakeClock()
    intervals = Intervals(spool, clock.monotonic)
    intervals.learn(heard(3.0, f"u{number}") for number in range(MAX_DEVICES + 5))
    intervals.learn([heard(3.0, "u5")])
    assert len(intervals.usual()) == MAX_DEVICES
    assert "u4" not in intervals.usual()
    assert list(intervals.usual())[-1] == "u5"


def test_note_that_is_none_is_learned_anew(spool: Spool) -> None:
    for text in ("{", "[]", '{"u01": "x"}'):
        spool.set_note(NOTE, text)
        assert Intervals(spool, FakeClock().monotonic).usual() == {}


def test_agent_learns_and_remembers(site: Site) -> None:
    with running(site):
        for number in range(4):
            site.send()
            site.delivered(number + 1)
            site.clock.advance(2.0)
        wait_until(lambda: site.status()["ports"][0]["devices"][0]["interval_s"], WAIT_S, "learned")
    with running(site) as agent:
        assert "u01" in agent.intervals.usual()


def test_forecast_counts_no_device_that_is_gone(site: Site) -> None:
    with running(site) as agent:
        agent.retaining.kept = Kept(able=False)
        agent.intervals.learn([heard(0.1, "u99")])
        assert site.status()["retention"]["full_in_days"] is None
        agent.intervals.learn([heard(0.1, "u01")])
        assert site.status()["retention"]["full_in_days"] > 0
