"""The fault tests with the counts of the design: `make soak`, or a part of it with ARGS.

    make soak ARGS="--scale 0.01"                  # a hundredth of everything
    make soak ARGS="--only agent --scale 0.1"
    make soak ARGS="--only random --seed 7"        # the moments of an earlier run

Every round flies a fresh satellite, breaks one thing again and again, and ends with the judge and
one fresh package. Prints a table at the end; exit code 1 when anything was lost or doubled.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rig import faults, schedule
from rig.kintos import Kintos
from rig.satellite import Satellite
from rig.servers import Memcached, Postgres
from rig.station import Station
from rig.valve import Mode

FAULTS_A_ROUND = 25
RECONNECT_MAX_S = 2.0
# What a satellite does wrong by itself while everything else breaks.
UNRULY = ("garbage", "nan", "half", "missing", "crlf", "burst")

Fault = Callable[[Station, Satellite, random.Random], float | None]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault.

    Attributes:
        count: How often, unscaled.
        fault: Does it once; may return seconds that are worth telling.
        spool_mb: Of the station, where the fault is about its disk.
        clock: Whether the agent's wall clock is a fake one.
        a_round: So many before all is delivered and judged.
    """

    count: int
    fault: Fault
    spool_mb: int | None = None
    clock: bool = False
    a_round: int = FAULTS_A_ROUND


@dataclass(slots=True)
class Figures:
    """What came of one kind of fault."""

    done: int = 0
    sent: int = 0
    local: int = 0
    hub: int = 0
    lost: int = 0
    duplicates: int = 0
    excused: int = 0
    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    took_s: float = 0.0


def _obstruct(mode: Mode) -> Fault:
    def fault(station: Station, _: Satellite, rng: random.Random) -> None:
        faults.obstruct_hub(station, rng, mode)
        station.drain_backlog()

    return fault


def _step_clock(station: Station, _: Satellite, rng: random.Random) -> None:
    faults.step_clock(station, faults.FakeClock(station.directory), rng)


def _everything(station: Station, _: Satellite, rng: random.Random) -> None:
    troubles = schedule.schedule(rng)
    try:
        schedule.run(station, troubles)
    except AssertionError as error:
        raise AssertionError(f"{error}; of {'; '.join(map(str, troubles))}") from error


KINDS: Mapping[str, Kind] = {
    "agent": Kind(1000, lambda station, _, rng: faults.kill_agent(station, rng)),
    "local": Kind(100, lambda station, _, rng: faults.kill_kinto(station, rng, station.local)),
    "hub": Kind(100, lambda station, _, rng: faults.kill_kinto(station, rng, station.hub)),
    "postgresql": Kind(200, lambda station, _, rng: faults.kill_postgres(station, rng)),
    "cut": Kind(20, _obstruct(Mode.CUT)),
    "black-hole": Kind(20, _obstruct(Mode.BLACK_HOLE)),
    "portal": Kind(20, _obstruct(Mode.HTML)),
    "second-writer": Kind(20, lambda station, satellite, _: faults.contend(station, satellite)),
    "unplug": Kind(500, faults.replug),
    "full-disk": Kind(50, lambda station, _, rng: faults.fill_disk(station, rng), spool_mb=6),
    "clock": Kind(50, _step_clock, clock=True),
    "random": Kind(60, _everything, a_round=5),
}


def soak(name: str, kind: Kind, count: int, kintos: Kintos, seed: int) -> Figures:
    """Does one kind of fault so many times on one station."""
    figures = Figures()
    started = time.monotonic()
    rng = random.Random(f"{seed}/{name}")
    with (
        tempfile.TemporaryDirectory(prefix=f"unisat-soak-{name}-") as scratch,
        Station(Path(scratch), kintos, spool_mb=kind.spool_mb) as station,
    ):
        clock = faults.FakeClock(station.directory) if kind.clock else None
        station.start_agent(environment=clock.environment if clock else None)
        try:
            while figures.done < count:
                _round(station, kind, min(kind.a_round, count - figures.done), rng, figures)
                _say(f"{name}: {figures.done} of {count}, {figures.sent} packages, "
                     f"{figures.lost} lost, {figures.duplicates} doubled")  # fmt: skip
        except AssertionError as error:
            # A fault that does not heal ends this kind; the others still have something to tell.
            figures.failures.append(str(error))
            _say(f"{name}: {error}")
    figures.took_s = time.monotonic() - started
    return figures


def _round(station: Station, kind: Kind, count: int, rng: random.Random, figures: Figures) -> None:
    with station.satellite(faults=UNRULY, seed=rng.randrange(2**31)) as satellite:
        for _ in range(count):
            seconds = kind.fault(station, satellite, rng)
            figures.done += 1
            if seconds is not None:
                figures.seconds.append(seconds)
    station.drain(600)
    station.send_fresh_package()
    judgement = station.judge()
    verdict = judgement.verdict
    figures.sent, figures.local, figures.hub = verdict.sent, verdict.local, verdict.hub
    figures.lost, figures.duplicates = len(verdict.lost), verdict.duplicates
    figures.excused = judgement.excused
    judgement.insist()


def table(figures: Mapping[str, Figures]) -> str:
    """The figures as text."""
    head = ("fault", "times", "sent", "local", "hub", "lost", "twice", "uncommitted", "note")
    rows: list[tuple[str, ...]] = [head]
    for name, found in figures.items():
        note = f"{found.took_s:.0f} s"
        if found.seconds:
            note += f", reconnect at most {max(found.seconds):.2f} s"
        if found.failures:
            note += f", FAILED: {found.failures[0][:200]}"
        numbers = (found.done, found.sent, found.local, found.hub, found.lost, found.duplicates,
                   found.excused)  # fmt: skip
        rows.append((name, *map(str, numbers), note))
    widths = [max(len(row[column]) for row in rows) for column in range(len(head) - 1)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:], strict=True)]
            + [row[-1]]
        )
        for row in rows
    )


def main() -> int:
    """Runs the soak; returns the exit code."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="of the counts (1)")
    parser.add_argument(
        "--only", action="append", choices=list(KINDS), help="this kind; repeatable"
    )
    parser.add_argument("--seed", type=int, help="of the random moments (a new one, which it says)")
    args = parser.parse_args()
    seed = args.seed if args.seed is not None else random.SystemRandom().randrange(2**31)
    _say(f"seed {seed}")
    found: dict[str, Figures] = {}
    try:
        with (
            tempfile.TemporaryDirectory(prefix="unisat-soak-") as scratch,
            Postgres() as postgres,
            Postgres() as hub_postgres,
            Memcached() as memcached,
            Kintos(Path(scratch), postgres, memcached, hub_postgres) as kintos,
        ):
            for name in args.only or KINDS:
                count = max(1, math.ceil(KINDS[name].count * args.scale))
                found[name] = soak(name, KINDS[name], count, kintos, seed)
    except KeyboardInterrupt:
        _say("stopped")
    print(f"seed {seed}\n{table(found)}")
    bad = any(
        figures.failures
        or figures.lost
        or figures.duplicates
        or max(figures.seconds, default=0.0) > RECONNECT_MAX_S
        for figures in found.values()
    )
    return 1 if bad or not found else 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
