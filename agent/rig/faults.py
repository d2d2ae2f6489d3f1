"""What is done to a station: once or a few times in the tests, for hours in the soak.

Each function breaks one thing at a random moment, lets it heal, and returns; the satellite goes on
meanwhile. The judge comes later.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kinto_http import KintoException

from rig.kinto import Kinto
from rig.processes import MissingProgramError
from rig.satellite import SIGNAL_PLUG, SIGNAL_UNPLUG, Satellite
from rig.servers import Postgres
from rig.station import Station
from rig.valve import Mode
from rig.wait import wait_until

# Of these the first kills of the agent fall into its start, where it recovers and counts.
_EARLY_S = 0.6


def random_moment(rng: random.Random, longest_s: float = 1.5) -> None:
    """Lets a random time pass: faults must not come in step with anything."""
    time.sleep(rng.uniform(0.0, longest_s))


def kill_agent(station: Station, rng: random.Random) -> None:
    """Kill -9 of the agent, now and then once more while it starts."""
    random_moment(rng)
    station.kill_agent()
    if rng.random() < 0.3:
        station.start_agent(wait=False)
        random_moment(rng, _EARLY_S)
        station.kill_agent()
    station.start_agent()


def kill_kinto(station: Station, rng: random.Random, kinto: Kinto) -> None:
    """Kill -9 of a Kinto, which is away for a moment."""
    random_moment(rng)
    kinto.kill()
    random_moment(rng)
    kinto.launch()
    kinto.wait_ready()
    assert station.agent is not None
    assert station.agent.running()


def kill_postgres(station: Station, rng: random.Random) -> None:
    """Kill -9 of PostgreSQL, all its processes, under both Kintos."""
    clusters = set(station.kintos.clusters.values())
    random_moment(rng)
    for cluster in clusters:
        cluster.kill()
    random_moment(rng)
    for cluster in clusters:
        cluster.start()
    for kinto in (station.local, station.hub):
        wait_until(kinto.healthy, 60, f"Kinto {kinto.name} to have its database back")


def obstruct_hub(station: Station, rng: random.Random, mode: Mode) -> None:
    """The hub cut off, swallowing everything or behind a login page, until the agent noticed."""
    random_moment(rng)
    station.valve.set(mode)
    station.wait_status(
        lambda status: status["sinks"]["hub"]["state"] == "backing_off",
        f"the agent to notice that the hub is {mode.value}",
    )
    local_before = station.status()["sinks"]["local"]["acked"]
    station.wait_status(
        lambda status: (
            status["sinks"]["local"]["acked"] > local_before
            and status["sinks"]["hub"]["pending"] >= 3
        ),
        "the local Kinto to be served while the hub is away",
    )
    station.valve.set(Mode.OPEN)


def replug(station: Station, satellite: Satellite, rng: random.Random) -> float:
    """Pulls the cable and plugs it in again, where it gets another device number.

    Returns:
        The seconds from the name's return until the agent reads from it.
    """
    random_moment(rng)
    before = station.wait_status(
        lambda status: status["ports"][0]["state"] == "reading", "the agent to read"
    )
    device, reconnects = before["ports"][0]["device"], before["ports"][0]["reconnects"]
    satellite.signal(SIGNAL_UNPLUG)
    wait_until(lambda: not station.link.is_symlink(), 15, "the cable to be out")
    station.wait_status(
        lambda status: status["ports"][0]["state"] != "reading", "the agent to notice"
    )
    # Nobody has the old pty open any more. A new one gets the lowest free number: if that is the
    # old one's, this keeps it from the satellite.
    occupied: tuple[int, ...] = os.openpty()
    if os.ttyname(occupied[1]) != device:
        _close(occupied)
        occupied = ()
    try:
        random_moment(rng, 1.0)
        satellite.signal(SIGNAL_PLUG)
        wait_until(station.link.is_symlink, 15, "the cable to be in", 0.001)
        plugged = time.monotonic()
        station.wait_status(
            lambda status: (
                status["ports"][0]["state"] == "reading"
                and status["ports"][0]["reconnects"] > reconnects
            ),
            "the agent to read again",
            30,
            0.02,
        )
        return time.monotonic() - plugged
    finally:
        _close(occupied)


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def fill_disk(station: Station, rng: random.Random) -> None:
    """Fills the spool's disk until the agent can't commit any more, then frees it."""
    random_moment(rng)

    def is_full() -> bool:
        station.disk.fill()
        return bool(station.status()["spool"]["waiting_for_room"])

    wait_until(is_full, 60, "the agent to be out of room")
    committed = station.status()["spool"]["last_seq"]
    random_moment(rng)
    station.disk.fill().unlink()
    station.wait_status(
        lambda status: (
            status["spool"]["last_seq"] > committed and not status["spool"]["waiting_for_room"]
        ),
        "the agent to commit again",
    )


class FakeClock:
    """The wall clock of one agent, moved by libfaketime; the monotonic clocks stay true.

    Args:
        directory: Where the file is that says what time it is.
    """

    def __init__(self, directory: Path) -> None:
        libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
        if not libraries:
            raise MissingProgramError("libfaketime is not installed: sudo apt-get install faketime")
        self._file = directory / "wall-clock"
        self.environment = {
            "LD_PRELOAD": str(libraries[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }
        self.step(0)

    def step(self, seconds: int) -> None:
        """Sets the clock so many seconds off the right time."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{seconds:+d}")
        fresh.replace(self._file)


def step_clock(station: Station, clock: FakeClock, rng: random.Random) -> None:
    """Steps the wall clock by years, forth and back, then sets it right."""
    for years in (rng.uniform(1, 10), -rng.uniform(1, 10), 0.0):
        random_moment(rng)
        steps = station.metric("unisat_agent_clock_steps_total")
        clock.step(round(years * 365.25 * 86400))
        wait_until(
            lambda before=steps: station.metric("unisat_agent_clock_steps_total") > before,  # type: ignore[misc]
            30,
            "the agent to notice the step",
        )


def contend(station: Station, satellite: Satellite) -> None:
    """A second writer makes the hub's Kinto answer a batch with 201s that are lies.

    The hub is cut until there is a batch to lie about; see `second_writer` and
    tests/test_kinto_facts.py for what Kinto does then.
    """
    device = satellite.devices[0]
    hub = station.client(station.hub)
    station.valve.set(Mode.CUT)
    ahead_ms = time.time_ns() // 1_000_000 + 3_600_000
    hub.create_record(id="ahead", collection=device, data={"last_modified": ahead_ms}, safe=False)
    station.wait_status(
        lambda status: status["sinks"]["hub"]["pending"] >= 5 * len(satellite.devices),
        "a batch to pile up",
    )
    collection = f"/buckets/{station.bucket}/collections/{device}"
    cluster, database = station.kintos.clusters["hub"], station.kintos.databases["hub"]
    # The third record of the batch meets it.
    # A name of its own: Kinto keeps the tombstones of the writers before.
    name = f"second-writer-{ahead_ms}"
    with second_writer(cluster, database, collection, ahead_ms + 3, name) as commit:
        station.valve.set(Mode.OPEN)
        commit()
    station.drain_backlog()
    for gone in ("ahead", name):
        wait_until(lambda gone=gone: _deleted(hub, device, gone), 30, f"{gone} to be deleted")  # type: ignore[misc]


def _deleted(hub: Any, collection: str, name: str) -> bool:
    try:
        hub.delete_record(id=name, collection=collection)
    except KintoException as error:
        # The agent's writes are in the way, as this one is in theirs.
        if error.response.status_code == 409:
            return False
        raise
    return True


@contextmanager
def second_writer(
    postgres: Postgres, database: str, collection: str, at_ms: int, name: str = "second-writer"
) -> Iterator[Callable[[], None]]:
    """Another writer, in the middle of storing a record in the same collection.

    Kinto gives a record the millisecond after the newest that it can see. This one is stored under
    `at_ms` and is not visible yet, so whoever reaches that number waits for it, and gets a 409 once
    this writer has committed.

    Args:
        postgres: The cluster.
        database: The Kinto's database.
        collection: The collection's URI, as "/buckets/b/collections/c".
        at_ms: The number that it takes.
        name: Its record's id.

    Yields:
        A function that waits until somebody waits for this writer, then commits.
    """
    with postgres.connection(database) as connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO objects (id, parent_id, resource_name, last_modified, data, deleted) "
            "VALUES (%s, %s, 'record', from_epoch(%s), '{}', false)",
            (name, collection, at_ms),
        )

        def commit() -> None:
            wait_until(lambda: _blocked(postgres, database), 90, "a writer to be blocked", 0.01)
            connection.commit()

        yield commit


def _blocked(postgres: Postgres, database: str) -> bool:
    with postgres.connection("postgres") as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = %s",
            (database,),
        )
        ((count,),) = cursor.fetchall()
        return bool(count)
