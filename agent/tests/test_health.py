"""The health of a snapshot, without a thread: each trouble alone, and its sentence."""

from __future__ import annotations

from dataclasses import replace

import pytest

from unisat_agent.service.health import Health, Word, assess
from unisat_agent.service.snapshot import (
    IntakeSnapshot,
    Obstacle,
    PortSnapshot,
    ReconcileSnapshot,
    RetentionSnapshot,
    SinkSnapshot,
    Snapshot,
    SpoolSnapshot,
    WorkerSnapshot,
)

HEALTHY = Snapshot(
    station="almaty",
    ports=(PortSnapshot("/dev/ttyUSB0"),),
    sinks=(SinkSnapshot("local"), SinkSnapshot("hub")),
    workers=(WorkerSnapshot("store"), WorkerSnapshot("sync"), WorkerSnapshot("serial-0")),
)


def test_healthy() -> None:
    assert assess(HEALTHY) == Health(Word.OK, ())
    assert assess(Snapshot()) == Health(Word.OK, ())


@pytest.mark.parametrize(
    ("snapshot", "problem"),
    [
        (replace(HEALTHY, troubles=("the disk is full",)), "the disk is full"),
        (replace(HEALTHY, intake=IntakeSnapshot(troubles=("no room",))), "no room"),
        (
            replace(HEALTHY, workers=(WorkerSnapshot("sync", stalled=True),)),
            "the thread sync hangs",
        ),
        (
            replace(HEALTHY, workers=(WorkerSnapshot("sync", failure="RuntimeError: x"),)),
            "the thread sync fails: RuntimeError: x",
        ),
        (
            replace(HEALTHY, sinks=(SinkSnapshot("hub", state="paused", troubles=("refused",)),)),
            "refused",
        ),
    ],
)
def test_a_person_must_act(snapshot: Snapshot, problem: str) -> None:
    assert assess(snapshot) == Health(Word.FAILED, (problem,))


@pytest.mark.parametrize(
    ("snapshot", "problem"),
    [
        (
            replace(HEALTHY, sinks=(SinkSnapshot("hub", "backing_off", troubles=("away",)),)),
            "away",
        ),
        (
            replace(HEALTHY, sinks=(SinkSnapshot("hub", dead={"refused": 2, "conflict": 1}),)),
            "hub: 3 dead letters: unisat-agent dead list says why",
        ),
        (
            replace(HEALTHY, ports=(PortSnapshot("auto", "searching", detail="silent"),)),
            "port auto: silent",
        ),
        (replace(HEALTHY, ports=(PortSnapshot("auto", "waiting"),)), "port auto: waiting"),
        (
            replace(HEALTHY, reconcile=ReconcileSnapshot(failure="reconcile: no answer")),
            "reconcile: no answer",
        ),
        (
            replace(HEALTHY, reconcile=ReconcileSnapshot(report="…", problems=("u01: why",))),
            "reconcile: u01: why",
        ),
        (
            replace(HEALTHY, synchronised=False),
            "the clock is not synchronised yet: is there a time server?",
        ),
        (
            replace(HEALTHY, synchronised=False, hold_s=600.0),
            "the clock is not synchronised yet: is there a time server? Until it is, each package "
            "waits 600 s for the hub: where there is none, set hold_s = 0 under [clock], and "
            "packages go at once, marked as unsynced",
        ),
        (
            replace(HEALTHY, spool=SpoolSnapshot(set_aside=("/x/spool.db.corrupt-1",))),
            "a damaged spool was set aside: /x/spool.db.corrupt-1: delete it when you have no use "
            "for it",
        ),
        (
            replace(HEALTHY, spool=SpoolSnapshot("/x/spool.db", disk_free=12 * 2**20)),
            "the disk of /x/spool.db is nearly full, 12 MB are free: delivered packages are "
            "deleted early to make room, and without any room packages are lost: free space on it",
        ),
        (
            replace(
                HEALTHY,
                sinks=(SinkSnapshot("local", troubles=("local: x: nothing listens there",)),),
            ),
            "local: x: nothing listens there: sudo systemctl status unisat-kinto",
        ),
        (
            replace(HEALTHY, retention=RetentionSnapshot(problem="the hub lacks 2 records")),
            "the hub lacks 2 records",
        ),
        (
            replace(
                HEALTHY,
                spool=SpoolSnapshot("/x/spool.db"),
                retention=RetentionSnapshot(days=90.0, full_in_days=12.3),
            ),
            "the disk of /x/spool.db will be full in about 12 days: use a larger card, or keep "
            "records for less than 90 days",
        ),
        (
            replace(
                HEALTHY,
                spool=SpoolSnapshot("/x/spool.db"),
                retention=RetentionSnapshot(obstacle=Obstacle.NO_HUB, full_in_days=12.3),
            ),
            "the disk of /x/spool.db will be full in about 12 days: without a hub nothing is "
            "deleted. Use a larger card, or set delete_without_hub = true under [retention]: then "
            "the oldest records go, and nobody has them any more",
        ),
        (
            replace(
                HEALTHY,
                spool=SpoolSnapshot("/x/spool.db"),
                retention=RetentionSnapshot(obstacle=Obstacle.HUB_AWAY, full_in_days=12.3),
            ),
            "the disk of /x/spool.db will be full in about 12 days: records are deleted only once "
            "the hub has them: bring it in reach",
        ),
        (
            replace(
                HEALTHY,
                spool=SpoolSnapshot("/x/spool.db"),
                retention=RetentionSnapshot(obstacle=Obstacle.NO_PLUGIN, full_in_days=12.3),
            ),
            "the disk of /x/spool.db will be full in about 12 days: the local Kinto can't let old "
            "records go, since it runs without the plugin unisat_kinto",
        ),
        (replace(HEALTHY, notices=("the fan is broken",)), "the fan is broken"),
    ],
)
def test_something_needs_an_eye(snapshot: Snapshot, problem: str) -> None:
    assert assess(snapshot) == Health(Word.DEGRADED, (problem,))


def test_disk_that_will_do_for_long_is_no_problem() -> None:
    assert assess(replace(HEALTHY, retention=RetentionSnapshot(full_in_days=31.0))).problems == ()


def test_what_the_delivery_tells_is_not_told_by_reconcile_too() -> None:
    snapshot = replace(
        HEALTHY,
        sinks=(SinkSnapshot("hub", "backing_off", troubles=("hub: https://x/v1: no answer",)),),
        reconcile=ReconcileSnapshot(failure="reconcile: https://x/v1: no answer"),
    )
    assert assess(snapshot).problems == ("hub: https://x/v1: no answer",)


def test_what_a_person_must_do_comes_first() -> None:
    snapshot = replace(HEALTHY, synchronised=False, troubles=("the disk is full",))
    health = assess(snapshot)
    assert health.word is Word.FAILED
    assert health.problems[0] == "the disk is full"
    assert len(health.problems) == 2
