"""The simulated satellite: what it says, and what it promises of that."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice, pairwise
from typing import Any

import pytest

from rig.promise import decode, promised, understood
from unisat_agent.protocols.events import Rejected
from unisat_agent.protocols.psott import Decoder
from unisat_agent.simulator.satellite import FAULTS, LINE_ENDS, Entry, Frame, frames

DEV_IDS = ("sim01", "sim02")


def some(
    count: int, seed: int = 1, faults: Sequence[str] = (), often: float = 0.5, **how: Any
) -> list[Frame]:
    return list(islice(frames(DEV_IDS, seed, faults, often, **how), count))


def test_the_same_seed_says_the_same_and_another_seed_something_else() -> None:
    assert some(40, seed=7, faults=FAULTS) == some(40, seed=7, faults=FAULTS)
    assert some(1, seed=7) != some(1, seed=8)


@pytest.mark.parametrize("faults", [(), *((name,) for name in FAULTS), FAULTS], ids=str)
@pytest.mark.parametrize("idle", [False, True], ids=["at once", "idle after each frame"])
def test_the_decoder_gets_exactly_what_the_journal_promises(
    faults: tuple[str, ...], *, idle: bool
) -> None:
    for seed in range(20):
        sent = some(40, seed, faults)
        packages = decode([frame.data for frame in sent], idle=idle)
        assert understood(packages) == promised([frame.entry for frame in sent])


@pytest.mark.parametrize("faults", [(), *((name,) for name in FAULTS), FAULTS], ids=str)
@pytest.mark.parametrize("crc", [False, True], ids=["bare", "crc"])
@pytest.mark.parametrize("end", LINE_ENDS)
def test_the_journal_holds_with_checksums_and_other_line_ends(
    faults: tuple[str, ...], end: str, *, crc: bool
) -> None:
    for seed in range(5):
        sent = some(40, seed, faults, crc=crc, line_end=LINE_ENDS[end])
        packages = decode([frame.data for frame in sent])
        assert understood(packages) == promised([frame.entry for frame in sent])
        if not {"half", "reset"}.intersection(faults):
            assert {package.checked for package in packages} == {crc}


def test_the_journal_also_holds_byte_by_byte() -> None:
    sent = some(60, faults=FAULTS)
    bytes_one_by_one = [bytes([byte]) for frame in sent for byte in frame.data]
    assert understood(decode(bytes_one_by_one)) == promised([frame.entry for frame in sent])


def test_types_are_those_of_the_record() -> None:
    for frame in some(40):
        for name, value in frame.entry.fields.items():
            expected = {"packet": int, "satellites": int, "battery": bool}.get(name, float)
            assert type(value) is expected, name
    assert b"humidity=40\r\n" in b"".join(frame.data for frame in some(40))


@pytest.mark.parametrize("fault", ["garbage", "nan", "half", "reset"])
def test_a_spoiling_fault_leaves_something_to_reject(fault: str) -> None:
    decoder = Decoder()
    events = [event for frame in some(40, faults=[fault]) for event in decoder.feed(frame.data)]
    assert any(isinstance(event, Rejected) for event in events)


def test_the_other_faults_do_what_their_names_say() -> None:
    assert any(frame.entry.missing for frame in some(40, faults=["missing"]))
    assert any(frame.pause == 0 for frame in some(40, faults=["burst"]))
    assert any(frame.pause > 2 for frame in some(40, faults=["silence"]))
    ends = {frame.data.endswith(b"\r\n") for frame in some(80, faults=["crlf"])}
    assert ends == {True, False}
    assert any(not frame.entry.expected for frame in some(200, faults=["half"]))


def test_the_orbit_and_the_weather_look_like_data() -> None:
    rows = [frame.entry.fields for frame in some(2000) if frame.entry.dev_id == "sim01"]
    for row in rows:
        assert abs(row["lat"]) <= 51.7
        assert abs(row["long"]) <= 180
        assert 400_000 < row["alt"] < 430_000
        assert 0 <= row["humidity"] <= 100
        assert 950 < row["pressure"] < 1050
        assert 0 < row["pm25"] < row["pm10"]
    for one, two in pairwise(rows):
        assert abs(one["lat"] - two["lat"]) < 0.3
        assert abs(one["temperature"] - two["temperature"]) < 3
    assert max(row["lat"] for row in rows) - min(row["lat"] for row in rows) > 50


def test_the_journal_is_read_as_it_was_written() -> None:
    for frame in some(100, faults=FAULTS):
        assert Entry.from_json(frame.entry.to_json()).to_json() == frame.entry.to_json()
