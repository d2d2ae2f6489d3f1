"""Killed at any moment, the station ends with all of one version, and goes on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from pretend import Folder, make_bundle, make_key, make_station, sentences, versions

from unisat_update import state as states
from unisat_update.files import Layout
from unisat_update.sources import BundleFile

PROGRAM = str(Path(__file__).parent / "pretend.py")
ROUNDS = int(os.environ.get("UNISAT_UPDATE_KILLS", "10"))
ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(Path(__file__).parent.parent / "files"),
    "PYTHONDONTWRITEBYTECODE": "1",
}


def start(layout: Layout, bundle: Path) -> subprocess.Popen[bytes]:
    """One start of the supervisor, which can be killed with all that it started."""
    command = [sys.executable, PROGRAM, str(layout.root), str(bundle)]
    return subprocess.Popen(command, env=ENVIRONMENT, start_new_session=True)


def kill(process: subprocess.Popen[bytes]) -> bool:
    """Kills it; whether it was still running."""
    alive = process.poll() is None
    if alive:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return alive


def looks_of(layout: Layout) -> str:
    """Where a kill came, by what is on the disk."""
    phase = states.load(layout).phase
    if phase == states.GOOD and list(layout.incoming.glob("*")):
        return "fetching"
    return phase


@pytest.mark.parametrize("bad", [False, True], ids=["a good version", "a bad version"])
def test_killed_at_random_moments_it_ends_with_one_version(tmp_path: Path, bad: bool) -> None:
    key = make_key(tmp_path, "ours")
    seed = random.SystemRandom().randrange(1 << 32)
    chance = random.Random(seed)
    ballast = chance.randbytes(3_000_000)
    bundle = make_bundle(tmp_path / "new.update", key, 2, bad=bad, ballast=ballast, room=32 << 20)
    # How long it takes when nobody kills it.
    station = make_station(tmp_path / "measured", key)
    begin = time.monotonic()
    assert start(station, bundle).wait() == 0
    whole = time.monotonic() - begin
    wanted = {"version 1"} if bad else {"version 2"}
    assert versions(station.root) == wanted
    seen: Counter[str] = Counter()
    kills = 0
    for round_number in range(ROUNDS):
        station = make_station(tmp_path / f"station-{round_number}", key)
        for _ in range(2):
            process = start(station, bundle)
            time.sleep(chance.uniform(0.05, whole))
            if not kill(process):
                break
            kills += 1
            seen[looks_of(station)] += 1
            if states.load(station).phase in {states.GOOD, states.READY}:
                # Before the switch and after the end all is of one version.
                assert len(versions(station.root)) == 1, f"seed {seed}"
        told: list[states.State] = []
        sequence = sentences(station, Folder(station), told)
        sequence.resume()
        sequence.offer(BundleFile(bundle))
        assert versions(station.root) == wanted, f"seed {seed}: {told}"
        state = states.load(station)
        assert state.phase == states.GOOD, f"seed {seed}"
        assert not station.baseline.exists(), f"seed {seed}"
        assert not station.archive.exists(), f"seed {seed}"
        assert (2 in state.failed) == bad, f"seed {seed}"
        files = [file for file in station.root.rglob("*") if file.is_file()]
        assert all(file.stat().st_size for file in files), f"seed {seed}"
    assert len(seen) >= 2, f"all {kills} kills came at one moment: {seen}"
