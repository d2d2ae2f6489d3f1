"""Two real Kintos that drifted become equal again, and nothing is sent that should not be."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rig.drift import DEV, PASSWORD, Pair
from rig.kinto import Kinto
from rig.replies import CLOSE, Reply
from rig.scripted import ScriptedServer
from unisat_agent.config.model import SinkSettings
from unisat_agent.delivery import reconcile
from unisat_agent.delivery.kinto import KintoClient, TransportError
from unisat_agent.delivery.reconcile import Reconciler, Report
from unisat_agent.spool.schema import SINKS


@pytest.fixture(scope="module")
def kintos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Kinto]]:
    """The hub gives few records at a time, as an operator may have told it."""
    folder = tmp_path_factory.mktemp("kintos")
    pages = {"kinto.paginate_by": "7"}
    with Kinto(folder, "local") as local, Kinto(folder, "hub", settings=pages) as hub:
        for kinto in (local, hub):
            kinto.create_account("agent", PASSWORD)
        yield {"local": local, "hub": hub}


@pytest.fixture
def pair(kintos: dict[str, Kinto]) -> Iterator[Pair]:
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        made = Pair(kintos, Path(folder))
        yield made
        made.close()


def test_equal_databases_cost_a_count_each(pair: Pair) -> None:
    pair.delivered(30)
    report = pair.reconcile()
    assert (report.compared, dict(report.sent), report.problems) == (30, {}, [])
    assert report.gaps == {"local": 0, "hub": 0}
    assert len([line for line in pair.requests if "/records" in line]) == 4
    assert str(report) == (
        "30 records compared, 0 missing on the hub, 0 missing in the local Kinto, "
        "0 deleted on purpose"
    )


@pytest.mark.parametrize("side", SINKS)
def test_side_that_lost_some_gets_them_back(pair: Pair, side: str) -> None:
    rows = pair.delivered(40)
    pair.forget(side, rows[5:35])
    report = pair.reconcile()
    assert dict(report.sent) == {side: 30}
    assert report.gaps == {"local": 0, "hub": 0}, "what is sent now is no gap"
    assert pair.spool.pending(side) == 30
    pair.deliver()
    pair.assert_equal()
    assert len(pair.ids(side)) == 40
    assert dict(pair.reconcile().sent) == {}


@pytest.mark.parametrize("side", SINKS)
def test_also_when_the_spool_has_them_no_more(pair: Pair, side: str) -> None:
    rows = pair.delivered(20)
    assert pair.spool.tidy(10**15) == 20
    pair.forget(side, rows[:9])
    assert dict(pair.reconcile().sent) == {side: 9}
    pair.deliver()
    pair.assert_equal()
    assert pair.spool.last_seq == 20, "they take no new number"


def test_collection_that_is_gone_is_made_and_filled(pair: Pair) -> None:
    pair.delivered(12)
    pair.admin("hub").delete_collection(id=DEV, bucket=pair.bucket)
    assert dict(pair.reconcile().sent) == {"hub": 12}
    pair.deliver()
    pair.assert_equal()


def test_each_side_lost_as_many_others(pair: Pair) -> None:
    rows = pair.delivered(30)
    pair.forget("local", rows[3:6])
    pair.forget("hub", rows[20:23])
    report = pair.reconcile()
    assert dict(report.sent) == {"local": 3, "hub": 3}
    assert report.gaps == {"local": 0, "hub": 0}
    pair.deliver()
    pair.assert_equal()


def test_records_of_a_lost_spool_are_sent_too(pair: Pair) -> None:
    rows = pair.packages(15)
    pair.deliver("local")
    pair.new_spool()
    assert dict(pair.reconcile().sent) == {"hub": 15}
    pair.deliver()
    pair.assert_equal()
    assert pair.ids("hub") == {str(row.record_id) for row in rows}


def test_ranges_are_halved_until_they_can_be_listed(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "LIST_MAX", 4)
    rows = pair.delivered(64)
    pair.forget("hub", [rows[2], rows[50]])
    assert dict(pair.reconcile().sent) == {"hub": 2}
    counted = [line for line in pair.requests if "HEAD" in line]
    assert 10 < len(counted) < 40
    assert pair.beats > 10
    pair.deliver()
    pair.assert_equal()


def test_what_still_waits_is_not_compared(pair: Pair) -> None:
    pair.delivered(5)
    pair.packages(5)
    pair.deliver("local")
    report = pair.reconcile()
    assert (report.compared, dict(report.sent)) == (5, {})
    assert pair.spool.pending("hub") == 5


def test_what_was_deleted_on_purpose_is_not_brought_back(pair: Pair) -> None:
    rows = pair.delivered(30)
    pair.delete("hub", *rows[:20])
    report = pair.reconcile()
    assert (report.deleted, dict(report.sent)) == (20, {})
    assert report.gaps == {"local": 0, "hub": 20}
    pair.deliver()
    assert len(pair.ids("hub")) == 10


def test_dead_letters_stay_dead_and_are_no_gap(pair: Pair) -> None:
    rows = pair.packages(3)
    pair.spool.bury("hub", rows[1], "refused", "400")
    pair.deliver()
    report = pair.reconcile()
    assert dict(report.sent) == {}
    assert report.gaps == {"local": 0, "hub": 0}
    assert pair.spool.pending("hub") == 0


def test_loss_on_both_sides_is_a_gap_and_looked_for_once(pair: Pair) -> None:
    rows = pair.delivered(10)
    for side in SINKS:
        pair.forget(side, rows[4:6])
    report = pair.reconcile()
    assert report.gaps == {"local": 2, "hub": 2}
    listed = [line for line in pair.requests if "_fields=id" in line]
    assert listed
    assert pair.reconcile().gaps == report.gaps
    assert not [line for line in pair.requests if "_fields=id" in line]


def test_refused_device_does_not_keep_others_from_being_compared(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "IN_FLIGHT_MAX", 5)
    pair.delivered(1)
    pair.packages(2, "u09")
    rows = pair.packages(10)
    for side in SINKS:
        for waiting in pair.spool.take(side, DEV, 10):
            pair.put(side, waiting.row.record())
            pair.spool.settle(side, [waiting.row])
    pair.forget("hub", rows[2:5])
    assert dict(pair.reconcile().sent) == {"hub": 3}
    pair.deliver()
    pair.assert_equal()


@pytest.mark.parametrize("side", SINKS)
def test_what_a_side_let_go_is_not_brought_back(pair: Pair, side: str) -> None:
    rows = pair.delivered(10)
    pair.forget(side, rows[:4])
    now = rows[0].stamp.received_ms // 1000
    pair.admin(side).patch_collection(id=DEV, bucket=pair.bucket, data={"retain_from": now + 1})
    assert dict(pair.reconcile().sent) == {}
    pair.admin(side).patch_collection(id=DEV, bucket=pair.bucket, data={"retain_from": now})
    assert dict(pair.reconcile(afresh=True).sent) == {side: 4}


class TestVerified:
    """Databases that say which life they are in are compared from where the last one ended."""

    @pytest.fixture
    def timelines(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        found = ["a"]
        monkeypatch.setattr("unisat_agent.delivery.side.timeline_of", lambda _: found[0])
        return found

    def test_only_what_is_new_is_compared(self, pair: Pair, timelines: list[str]) -> None:
        pair.delivered(20)
        assert pair.reconcile().compared == 20
        rows = pair.delivered(5)
        pair.forget("hub", rows[:2])
        report = pair.reconcile()
        assert (report.compared, dict(report.sent)) == (5, {"hub": 2})
        assert not [line for line in pair.requests if "gt_epoch" in line], "nor other epochs"
        assert report.gaps == {"local": 0, "hub": 0}
        pair.deliver()
        pair.assert_equal()
        assert pair.reconcile().compared == 0

    def test_everything_when_asked_or_when_the_timeline_changed(
        self, pair: Pair, timelines: list[str]
    ) -> None:
        rows = pair.delivered(20)
        pair.reconcile()
        pair.forget("hub", rows[:2])
        assert dict(pair.reconcile().sent) == {}
        timelines[0] = "b"
        assert dict(pair.reconcile().sent) == {"hub": 2}
        pair.deliver()
        pair.forget("local", rows[4:6])
        assert dict(pair.reconcile(afresh=True).sent) == {"local": 2}
        pair.deliver()
        pair.assert_equal()

    def test_gap_is_kept_and_not_looked_for_again(self, pair: Pair, timelines: list[str]) -> None:
        rows = pair.delivered(10)
        for side in SINKS:
            pair.forget(side, rows[4:6])
        assert pair.reconcile().gaps == {"local": 2, "hub": 2}
        pair.delivered(3)
        assert pair.reconcile().gaps == {"local": 2, "hub": 2}
        assert not [line for line in pair.requests if "_fields=id" in line]
        assert pair.reconcile(afresh=True).gaps == {"local": 2, "hub": 2}
        assert not [line for line in pair.requests if "_fields=id" in line]

    def test_what_was_compared_before_a_side_went_away_is_not_compared_again(
        self, pair: Pair, timelines: list[str]
    ) -> None:
        pair.delivered(5, "u01")
        pair.delivered(5, "u02")
        ask = pair.clients["hub"].request

        def breaking(method: str, path: str, *rest: Any) -> Any:
            if "u02/records?" in path:
                raise TransportError("gone")
            return ask(method, path, *rest)

        pair.clients["hub"].request = breaking  # type: ignore[method-assign, assignment]
        with pytest.raises(TransportError):
            pair.reconcile_as_it_is()
        pair.clients["hub"].request = ask  # type: ignore[method-assign]
        assert pair.reconcile().compared == 5
        assert pair.reconcile().compared == 0

    def test_problem_is_compared_again(self, pair: Pair, timelines: list[str]) -> None:
        pair.packages(3)
        pair.deliver("local")
        for waiting in pair.spool.take("hub", DEV, 3):
            pair.spool.settle("hub", [waiting.row])
        pair.admin("hub").create_collection(id=DEV, bucket=pair.bucket)
        assert pair.reconcile().problems
        pair.admin("hub").delete_collection(id=DEV, bucket=pair.bucket)
        assert dict(pair.reconcile().sent) == {"hub": 3}


def test_several_devices_and_epochs(pair: Pair) -> None:
    first = pair.packages(4, "u01") + pair.packages(4, "u02")
    pair.deliver("local")
    pair.new_spool()
    second = pair.packages(3, "u02")
    pair.deliver("local")
    pair.deliver("hub")
    assert dict(pair.reconcile().sent) == {"hub": 8}
    pair.deliver()
    for dev_id in ("u01", "u02"):
        pair.assert_equal(dev_id)
    assert len(pair.ids("hub", "u02")) == 7
    assert len(first + second) == 11


class TestStrangers:
    def test_record_that_only_looks_like_an_agent_s_is_left_alone(self, pair: Pair) -> None:
        rows = pair.delivered(3)
        own = str(pair.spool.epoch)
        other = rows[0].record() | {"id": str(uuid.uuid4()), "devID": "u09"}
        pair.put("local", other, {"id": str(uuid.uuid4()), "epoch": own, "seq": 2})
        report = pair.reconcile()
        assert (report.foreign, dict(report.sent), report.problems) == (2, {}, [])
        assert "2 not made by an agent" in str(report)

    @pytest.mark.parametrize("epoch", [5, None, True, ["x"], "zzz", "1e5"])
    def test_epoch_of_another_kind_is_passed_over(self, pair: Pair, epoch: Any) -> None:
        pair.packages(3)
        pair.deliver("local")
        pair.new_spool()
        pair.put("local", {"id": "x", "epoch": epoch, "seq": 1}, {"id": "y", "seq": "text"})
        report = pair.reconcile()
        assert (dict(report.sent), report.problems) == ({"hub": 3}, [])

    def test_number_of_another_kind_is_passed_over(self, pair: Pair) -> None:
        strange = str(uuid.uuid4())
        pair.delivered(1)
        pair.put("local", {"id": "x", "epoch": strange, "seq": "text"})
        report = pair.reconcile()
        assert (dict(report.sent), report.problems) == ({}, [])


class TestFailures:
    def test_device_that_may_not_be_read_is_named_and_the_others_go_on(self, pair: Pair) -> None:
        pair.packages(3, "u01")
        pair.packages(3, "u02")
        pair.deliver("local")
        pair.new_spool()
        admin = pair.admin("hub")
        admin.create_collection(id="u01", bucket=pair.bucket)
        report = pair.reconcile()
        assert report.problems == ["hub: the account agent may not read u01"]
        assert "may not read u01" in str(report)
        assert dict(report.sent) == {"hub": 3}
        assert report.gaps == {}, "nobody knows"

    def against(self, pair: Pair, server: ScriptedServer) -> Report:
        settings = SinkSettings("hub", server.url, "agent", PASSWORD, pair.bucket)
        with KintoClient(settings) as hub:
            return Reconciler(pair.spool, pair.clients["local"], hub, pair.beat).run()

    @pytest.mark.parametrize(
        ("answer", "said"),
        [
            (Reply(503), "hub: can't count u01: 503"),
            (Reply(200, ""), "hub: says no total for u01"),
            (Reply(200, "", {"Total-Objects": "x"}), "hub: says no total for u01"),
        ],
    )
    def test_odd_answer_is_told(self, pair: Pair, answer: Reply, said: str) -> None:
        pair.packages(1)
        pair.deliver("local")
        pair.spool.bury("hub", pair.spool.take("hub", DEV, 1)[0].row, "refused", "400")
        with ScriptedServer() as server:
            server.then(answer, on="HEAD *")
            assert self.against(pair, server).problems == [said]

    def test_sink_that_goes_away_ends_it(self, pair: Pair) -> None:
        pair.delivered(1)
        with ScriptedServer() as server:
            server.then(CLOSE, times=None)
            with pytest.raises(TransportError):
                self.against(pair, server)
