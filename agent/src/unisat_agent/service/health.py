"""The health in one word, and a sentence for each problem: a pure function of a snapshot."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from unisat_agent.delivery.retention import DAY_S
from unisat_agent.serial.status import merged
from unisat_agent.service.forecast import WARN_DAYS
from unisat_agent.service.line import line_problems
from unisat_agent.service.snapshot import (
    Obstacle,
    PortSnapshot,
    SinkSnapshot,
    Snapshot,
    WorkerSnapshot,
)
from unisat_agent.text import counted, duration

DISK_LOW_BYTES = 200 * 1024 * 1024


class Word(StrEnum):
    """The health in one word."""

    OK = "ok"
    DEGRADED = "degraded"
    """Something needs an eye."""
    FAILED = "failed"
    """A person must act."""


@dataclass(frozen=True, slots=True)
class Health:
    """The word, and its reasons: those that make it failed first."""

    word: Word
    problems: tuple[str, ...]


def assess(snapshot: Snapshot) -> Health:
    """Judges a snapshot."""
    failed = [*snapshot.intake.troubles, *snapshot.troubles]
    degraded: list[str] = []
    for worker in snapshot.workers:
        failed += _worker(worker)
    for sink in snapshot.sinks:
        (failed if sink.state == "paused" else degraded).extend(map(_sink_trouble, sink.troubles))
        degraded += _dead_letters(sink)
    for port in snapshot.ports:
        degraded += _port(port)
    degraded += serial_problems(snapshot).values()
    degraded += _reconcile(snapshot)
    degraded += _retention(snapshot)
    degraded += _clock(snapshot)
    degraded += _spool(snapshot)
    degraded += snapshot.notices
    word = Word.FAILED if failed else Word.DEGRADED if degraded else Word.OK
    return Health(word, (*failed, *degraded))


def serial_problems(snapshot: Snapshot) -> dict[str, str]:
    """What is wrong on the serial side, by a key that stays while the problem lasts."""
    return line_problems(
        [heard for port in snapshot.ports for heard in port.heard],
        merged(device for port in snapshot.ports for device in port.devices),
        snapshot.expected,
        snapshot.interval_s,
        snapshot.usual_s,
    )


_DOUBT = (
    "one flipped bit can make up a devID. List the real ones as `devices` under [station], and "
    "remove others with: unisat-agent spool discard DEVICE"
)


def _some(names: tuple[str, ...]) -> str:
    """A few of the names, and how many there are beside them."""
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def _worker(worker: WorkerSnapshot) -> list[str]:
    found: list[str] = []
    if worker.stalled:
        found.append(f"the thread {worker.name} hangs")
    if worker.failure:
        found.append(f"the thread {worker.name} fails: {worker.failure}")
    return found


def _sink_trouble(text: str) -> str:
    """The courier's sentence, with the unit to look at where the local Kinto does not run."""
    if text.startswith("local: ") and text.endswith("nothing listens there"):
        return f"{text}: sudo systemctl status unisat-kinto"
    return text


def _dead_letters(sink: SinkSnapshot) -> list[str]:
    dead = sum(sink.dead.values())
    if not dead:
        return []
    return [f"{sink.name}: {counted(dead, 'dead letter')}: unisat-agent dead list says why"]


def _port(port: PortSnapshot) -> list[str]:
    if port.state == "reading":
        return []
    return [f"port {port.name}: {port.detail or port.state}"]


def _reconcile(snapshot: Snapshot) -> list[str]:
    failure = snapshot.reconcile.failure
    if failure:
        # What the delivery to the same Kinto tells already is not told twice.
        why = failure.removeprefix("reconcile: ")
        told = any(text.endswith(why) for sink in snapshot.sinks for text in sink.troubles)
        return [] if told else [failure]
    return [f"reconcile: {problem}" for problem in snapshot.reconcile.problems]


_FIXES = {
    Obstacle.NO_HUB: (
        "without a hub nothing is deleted. Use a larger card, or set delete_without_hub = true "
        "under [retention]: then the oldest records go, and nobody has them any more"
    ),
    Obstacle.HUB_AWAY: "records are deleted only once the hub has them: bring it in reach",
    Obstacle.NO_PLUGIN: (
        "the local Kinto can't let old records go, since it runs without the plugin unisat_kinto"
    ),
}


def _retention(snapshot: Snapshot) -> list[str]:
    retention = snapshot.retention
    found = [retention.problem] if retention.problem else []
    full = retention.full_in_days
    if full is not None and full < WARN_DAYS:
        fix = _FIXES.get(
            retention.obstacle,
            f"use a larger card, or keep records for less than {retention.days:g} days",
        )
        found.append(
            f"the disk of {snapshot.spool.path} will be full in about "
            f"{duration(full * DAY_S)}: {fix}"
        )
    return found


def _clock(snapshot: Snapshot) -> list[str]:
    if snapshot.synchronised:
        return []
    text = "the clock is not synchronised yet: is there a time server?"
    if snapshot.hold_s:
        text += (
            f" Until it is, each package waits {snapshot.hold_s:.0f} s for the hub: where there "
            f"is none, set hold_s = 0 under [clock], and packages go at once, marked as unsynced"
        )
    return [text]


def _spool(snapshot: Snapshot) -> list[str]:
    found: list[str] = []
    spool = snapshot.spool
    if spool.disk_free is not None and spool.disk_free < DISK_LOW_BYTES:
        found.append(
            f"the disk of {spool.path} is nearly full, {spool.disk_free // 2**20} MB are free: "
            f"delivered packages are deleted early to make room, and without any room packages are "
            f"lost: free space on it"
        )
    found += [
        f"a damaged spool was set aside: {path}: delete it when you have no use for it"
        for path in spool.set_aside
    ]
    if once := spool.heard_once:
        found.append(f"{_some(once)} sent one package only, which waits for a second: {_DOUBT}")
    return found
