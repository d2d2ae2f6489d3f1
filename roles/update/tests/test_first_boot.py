"""A bundle that comes while a card is being set up waits its turn."""

from __future__ import annotations

from pathlib import Path

import pytest
from pretend import Folder, make_key, make_station, sentences

from unisat_update.__main__ import wait_for_first_boot
from unisat_update.files import Layout, write
from unisat_update.state import State


@pytest.fixture
def station(tmp_path: Path) -> Layout:
    return make_station(tmp_path / "station", make_key(tmp_path, "ours"))


def pauses(station: Layout, told: list[State]) -> int:
    """How often it was waited, where the third time the first boot is done."""
    count = 0

    def pause() -> None:
        nonlocal count
        count += 1
        if count == 3:
            write(station.station / "first-boot-done", "")

    wait_for_first_boot(station, sentences(station, Folder(station), told), pause)
    return count


def test_a_flashed_station_waits_until_its_first_boot_is_done(station: Layout) -> None:
    write(station.root / "usr/local/sbin/unisat-station", "#!/bin/sh\n", 0o755)
    told: list[State] = []
    assert pauses(station, told) == 3
    assert told[0].said == "Update: the station looks for one when its first boot is done."
    assert pauses(station, told) == 0


def test_a_station_that_was_not_flashed_waits_for_nothing(station: Layout) -> None:
    told: list[State] = []
    assert pauses(station, told) == 0
    assert told == []
