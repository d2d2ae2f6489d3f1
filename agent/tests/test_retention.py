"""The local Kinto lets old records go: only those that the hub has, and none of them comes back."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rig.clock import FakeClock
from rig.drift import BOOT, DEV, PASSWORD, Pair
from rig.kinto import Kinto
from rig.servers import Memcached, Postgres
from rig.wait import wait_until
from unisat_agent.clock import ClockState
from unisat_agent.config.model import Config, SinkSettings
from unisat_agent.delivery.reconciling import Reconciling
from unisat_agent.delivery.retaining import Retaining
from unisat_agent.delivery.retention import DAY_S, HOUR_S, Kept, Retention
from unisat_agent.delivery.side import Side
from unisat_agent.record import Row, Stamp
from unisat_agent.service.forecast import full_in_days
from unisat_agent.troubles import Troubles

PLUGIN = {"kinto.includes": "kinto.plugins.accounts unisat_kinto"}
# A full hour.
START = 1_700_000_000 // HOUR_S * HOUR_S
EVERYTHING = 10**9


@pytest.fixture(scope="module")
def kintos(
    tmp_path_factory: pytest.TempPathFactory, postgres: Postgres, memcached: Memcached
) -> Iterator[dict[str, Kinto]]:
    folder = tmp_path_factory.mktemp("kintos")
    databases = [postgres.new_database() for _ in range(2)]
    local, hub = (
        Kinto(
            folder,
            name,
            storage_url=postgres.url(database),
            memcached=memcached.address,
            settings=PLUGIN,
        )
        for name, database in zip(("local", "hub"), databases, strict=True)
    )
    with local, hub:
        for kinto in (local, hub):
            kinto.create_account("agent", PASSWORD)
        yield {"local": local, "hub": hub}
    for database in databases:
        postgres.drop_database(database)


@pytest.fixture
def pair(kintos: dict[str, Kinto], tmp_path: Path) -> Iterator[Pair]:
    made = Pair(kintos, tmp_path)
    yield made
    made.close()


def packages(
    pair: Pair, hours: int, dev_id: str = DEV, clock: ClockState = ClockState.SYNCED
) -> list[Row]:
    """One package an hour from START on."""
    return [
        pair.spool.append(
            dev_id,
            json.dumps({"groups": {}, "n": hour + 0.5}),
            Stamp((START + hour * HOUR_S) * 1000 + 500, 5_000, BOOT, clock),
            [],
        )
        for hour in range(hours)
    ]


def keep(
    pair: Pair,
    *,
    hours: int = EVERYTHING,
    records: int = EVERYTHING,
    now: int = START + 48 * HOUR_S,
    until: int | None = None,
    hub: bool = True,
) -> Kept:
    sides = {name: Side(client, pair.beat) for name, client in pair.clients.items()}
    retention = Retention(
        sides["local"], sides["hub"] if hub else None, hours * HOUR_S / DAY_S, records
    )
    return retention.run(now, now if until is None else until, lambda: True)


def hours_left(pair: Pair, dev_id: str = DEV) -> list[int]:
    found = sorted(record["timestamp"] for record in pair.records("local", dev_id))
    return [(timestamp - START) // HOUR_S for timestamp in found]


def test_before_the_first_package_nothing_is_wrong(pair: Pair) -> None:
    assert keep(pair) == Kept()


def test_what_is_too_old_goes_and_does_not_come_back(pair: Pair) -> None:
    packages(pair, 48)
    packages(pair, 48, "u02")
    pair.deliver()
    assert keep(pair, hours=20) == Kept(records=40, deleted=56)
    assert hours_left(pair) == hours_left(pair, "u02") == list(range(28, 48))
    assert len(pair.ids("hub")) == 48
    report = pair.reconcile(afresh=True)
    assert (dict(report.sent), report.deleted, report.problems) == ({}, 0, [])
    assert keep(pair, hours=20).deleted == 0


def test_what_is_too_much_goes_oldest_first(pair: Pair) -> None:
    packages(pair, 40)
    packages(pair, 10, "u02")
    pair.deliver()
    kept = keep(pair, records=30)
    assert kept.records <= 30
    assert kept.problem == ""
    assert min(hours_left(pair)) - min([*hours_left(pair, "u02"), 10]) <= 6, "in turns"


def test_what_the_hub_lacks_stays(pair: Pair) -> None:
    rows = packages(pair, 24)
    pair.deliver()
    pair.forget("hub", rows[8:10])
    kept = keep(pair, hours=1)
    assert hours_left(pair) == list(range(6, 24))
    assert kept.problem.startswith(f"the hub lacks 2 records of {DEV} from before 2023-11-1")
    assert dict(pair.reconcile(afresh=True).sent) == {"hub": 2}
    pair.deliver()
    assert keep(pair, hours=24).problem == ""
    assert hours_left(pair) == []


def test_what_is_not_compared_yet_stays(pair: Pair) -> None:
    packages(pair, 24)
    pair.deliver()
    assert keep(pair, hours=1, until=0).deleted == 0
    assert keep(pair, hours=1, until=START + 12 * HOUR_S).deleted == 12
    kept = keep(pair, records=5, until=START + 12 * HOUR_S)
    assert (kept.records, kept.deleted) == (12, 0)
    assert "12 records, more than the 5 that it may keep" in kept.problem


def test_what_the_hub_let_go_may_go(pair: Pair) -> None:
    packages(pair, 24)
    pair.deliver()
    Side(pair.clients["hub"], pair.beat).let_go(DEV, START + 12 * HOUR_S)
    assert keep(pair, hours=36).deleted == 12


def test_records_of_unknown_time_stay(pair: Pair) -> None:
    packages(pair, 4, clock=ClockState.UNSYNCED)
    packages(pair, 4)
    pair.deliver()
    assert keep(pair, hours=1).deleted == 4
    assert {record["clock"] for record in pair.records("local")} == {"unsynced"}


def test_without_a_hub(pair: Pair) -> None:
    packages(pair, 24)
    pair.deliver("local")
    assert keep(pair, hours=36, hub=False).deleted == 12


def test_collection_that_may_not_be_changed_is_told_and_others_go_on(pair: Pair) -> None:
    # As an operator's, or one that an older station left.
    rights = {right: ["account:agent"] for right in ("read", "record:create")}
    pair.admin("local").create_collection(id=DEV, bucket=pair.bucket, permissions=rights)
    packages(pair, 4)
    packages(pair, 4, "u02")
    pair.deliver()
    kept = keep(pair, hours=1)
    assert kept.deleted == 4
    assert f"local: keeps what is old of {DEV}: 403" in kept.problem


class TestRetaining:
    def config(self, pair: Pair, **settings: object) -> Config:
        sinks = {
            name: SinkSettings(name, client.settings.url, "agent", PASSWORD, pair.bucket)
            for name, client in pair.clients.items()
        }
        made = Config(Path("agent.toml"), local=sinks["local"], hub=sinks["hub"], keep_days=1.0)
        return replace(made, **settings)  # type: ignore[arg-type]

    def test_only_after_a_comparison_that_found_nothing(self, pair: Pair) -> None:
        clock, stop = FakeClock(wall=(START + 48 * HOUR_S) * 1000, running=True), threading.Event()
        config = self.config(pair)
        assert config.hub is not None
        rows = packages(pair, 36)
        pair.deliver()
        pair.forget("hub", rows[30:32])
        notices = Troubles(logging.getLogger(__name__), clock.monotonic)
        reconciling = Reconciling(pair.spool, config.local, config.hub, clock, stop, notices)
        retaining = Retaining(config, 0, reconciling, clock, stop)
        thread = threading.Thread(target=reconciling.run, args=(lambda: None,), daemon=True)
        thread.start()
        retaining.turn()
        assert retaining.deleted == 0, "nothing was compared"
        reconciling.hurry()
        wait_until(lambda: reconciling.last, 30, "the comparison")
        retaining.turn()
        assert retaining.deleted == 0, "it found something"
        pair.deliver()
        reconciling.last = None
        reconciling.hurry()
        wait_until(lambda: reconciling.last, 30, "the comparison")
        clock.right = False
        retaining.turn()
        assert retaining.deleted == 0, "nobody knows what time it is"
        clock.right = True
        retaining.turn()
        assert retaining.deleted == 24
        assert retaining.kept == Kept(records=12, deleted=24)
        stop.set()
        thread.join(30)

    def test_it_looks_again_soon_after_a_refusal(self, pair: Pair) -> None:
        clock, stop = FakeClock(wall=(START + 48 * HOUR_S) * 1000, running=True), threading.Event()
        packages(pair, 36)
        pair.deliver("local")
        # The station's account is made too late.
        pair.admin("local").patch_bucket(id=pair.bucket, permissions={"write": ["account:late"]})
        config = self.config(pair, hub=None, delete_without_hub=True)
        config = replace(config, local=replace(config.local, user="late"))
        retaining = Retaining(config, 0, None, clock, stop)
        thread = threading.Thread(target=retaining.run, args=(lambda: None,), daemon=True)
        thread.start()
        clock.advance(60)
        wait_until(lambda: retaining.kept and retaining.kept.problem, 30, "the refusal")
        pair.kintos["local"].create_account("late", PASSWORD)
        clock.advance(900)
        wait_until(lambda: retaining.deleted, 30, "what may go")
        stop.set()
        thread.join(30)
        assert retaining.kept == Kept(records=12, deleted=24)

    def test_without_a_hub_only_where_the_operator_says_so(self, pair: Pair) -> None:
        clock = FakeClock(wall=(START + 48 * HOUR_S) * 1000, running=True)
        packages(pair, 36)
        pair.deliver("local")
        for delete, deleted in ((False, 0), (True, 24)):
            config = self.config(pair, hub=None, delete_without_hub=delete)
            retaining = Retaining(config, 0, None, clock, threading.Event())
            retaining.turn()
            assert (retaining.may_delete, retaining.deleted) == (delete, deleted)


class TestForecast:
    GIGABYTE = 10**9

    def test_nothing_arrives(self) -> None:
        assert full_in_days(self.GIGABYTE, 0, [], None, EVERYTHING) is None

    def test_nothing_may_go(self) -> None:
        found = full_in_days(4 * self.GIGABYTE, 0, [3.0], None, EVERYTHING)
        assert found is not None
        assert 120 < found < 130, "four months of one device"

    def test_what_arrives_is_as_much_as_what_goes(self) -> None:
        assert full_in_days(4 * self.GIGABYTE, 0, [3.0], 90.0, EVERYTHING) is None
        assert full_in_days(1, 90 * 28_800, [3.0], 90.0, EVERYTHING) is None
        assert full_in_days(1, 1000, [3.0], 90.0, 1000) is None

    def test_the_disk_is_too_small_for_so_many_days(self) -> None:
        assert full_in_days(self.GIGABYTE, 0, [3.0, 3.0], 90.0, EVERYTHING) is not None
