"""Each row of the answer table that is about records: taken, there already, unknown, refused."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from rig.replies import CLOSE, HANG, PORTAL, RESET, Fault, Reply, redirect
from rig.scripted import ScriptedServer
from rig.way import BATCH, BOOT, MakeWay, Way, ids, refuse
from unisat_agent.clock import ClockState
from unisat_agent.delivery.choice import LIMIT_S
from unisat_agent.delivery.standing import SinkState
from unisat_agent.record import Record, Stamp
from unisat_agent.spool.dead import retry_dead
from unisat_agent.spool.queue import Spool


class TestTaken:
    def test_each_201_is_acknowledged(self, way: Way) -> None:
        rows = way.packages(3)
        assert way.step() == 0.0
        assert way.pending() == 0
        assert way.server.batches() == [ids(rows)]
        assert list(way.stored()) == ids(rows)
        assert way.courier.standing.figures.acked == 3
        assert way.state is SinkState.DELIVERING

    def test_requests_are_puts_that_overwrite_nothing(self, way: Way) -> None:
        (row,) = way.packages(1)
        way.step()
        (request,) = way.asked(BATCH)
        assert request.user == "station"
        assert request.body == {
            "defaults": {"method": "PUT"},
            "requests": [
                {
                    "path": f"/v1/buckets/telemetry/collections/u01/records/{row.record_id}",
                    "headers": {"If-None-Match": "*"},
                    "body": {"data": row.record()},
                }
            ],
        }
        assert b"last_modified" not in request.raw

    def test_batches_are_as_large_as_allowed_and_of_one_collection(self, make_way: MakeWay) -> None:
        way = make_way(batch_max=10)
        rows = way.packages(12) + way.packages(3, "u02")
        way.deliver()
        assert sorted(len(batch) for batch in way.server.batches()) == [2, 3, 10]
        assert set(way.stored()) == set(ids(rows[:12]))
        assert set(way.stored("u02")) == set(ids(rows[12:]))

    def test_live_records_come_with_the_first_batch_of_a_backlog(self, way: Way) -> None:
        rows = way.packages(100)
        way.step()
        assert ids(rows)[-1] in way.server.batches()[0]
        assert ids(rows)[0] in way.server.batches()[0]

    def test_200_is_an_acknowledgement_too(self, way: Way) -> None:
        way.packages(1)
        way.server.then(Reply(200), on="PUT *", stored=True)
        way.step()
        assert way.pending() == 0


class TestExists:
    def answer(self, way: Way, existing: Record | None, extra: bool = True) -> None:
        body: dict[str, Any] = {"code": 412, "errno": 114}
        if extra:
            body["details"] = {"existing": existing}
        way.server.then(Reply(412, body), on="PUT *")

    def test_equal_is_acknowledged(self, way: Way) -> None:
        (row, _) = way.packages(2)
        self.answer(way, row.record() | {"last_modified": 5})
        way.step()
        assert way.pending() == 0
        assert way.dead() == {}

    def test_different_is_a_dead_letter_and_an_alarm(
        self, way: Way, caplog: pytest.LogCaptureFixture
    ) -> None:
        (row, other) = way.packages(2)
        self.answer(way, row.record() | {"n": 99})
        way.step()
        assert way.dead() == {
            str(row.record_id): f"record {row.record_id} exists with other content"
        }
        assert way.spool.dead_by_reason("hub") == {"conflict": 1}
        assert list(way.stored()) == [str(other.record_id)]
        assert any(r.levelno == logging.ERROR for r in caplog.records)

    @pytest.mark.parametrize("details", [True, False])
    def test_the_record_is_read_where_the_answer_lacks_it(self, way: Way, details: bool) -> None:
        (row,) = way.packages(1)
        way.server.kinto.tree = {"telemetry": {"u01": {str(row.record_id): row.record()}}}
        self.answer(way, None, extra=details)
        way.step()
        assert way.pending() == 0
        assert len(way.asked("GET /v1/buckets/telemetry/collections/u01/records/")) == 1

    @pytest.mark.parametrize("answer", [Reply(503), PORTAL, Reply(200, {}), Reply(404)])
    def test_unreadable_is_asked_for_again_later(self, way: Way, answer: Reply | Fault) -> None:
        (row, _) = way.packages(2)
        way.server.kinto.tree = {"telemetry": {"u01": {str(row.record_id): row.record()}}}
        self.answer(way, None)
        way.server.then(answer, on="GET */records/*")
        assert way.step() >= 1.0
        assert way.pending() == 1
        way.deliver()
        assert way.dead() == {}

    def test_corrected_time_overwrites_the_wrong_one(self, way: Way) -> None:
        unsynced = Stamp(5_000, 5_000, BOOT, ClockState.UNSYNCED)
        (row,) = way.packages(1, at=unsynced)
        way.server.kinto.tree = {"telemetry": {"u01": {str(row.record_id): row.record()}}}
        way.spool.correction.correct(BOOT, 1_700_000_000_000)
        way.deliver()
        (stored,) = way.stored().values()
        assert (stored["clock"], stored["timestamp"]) == ("corrected", 1_700_000_005)
        headers = [r.body["requests"][0]["headers"] for r in way.asked(BATCH)]
        assert headers == [{"If-None-Match": "*"}, {}]

    def test_their_corrected_time_is_not_overwritten_by_a_wrong_one(self, way: Way) -> None:
        (row,) = way.packages(1, at=Stamp(5_000, 5_000, "boot-z", ClockState.UNSYNCED))
        theirs = row.record() | {"clock": "corrected", "timestamp": 9, "received_at": "x"}
        way.server.kinto.tree = {"telemetry": {"u01": {str(row.record_id): theirs}}}
        way.deliver()
        assert way.stored()[str(row.record_id)]["clock"] == "corrected"

    def test_412_to_a_request_that_asked_for_none_is_no_tight_loop(self, way: Way) -> None:
        (row,) = way.packages(1, at=Stamp(5_000, 5_000, BOOT, ClockState.UNSYNCED))
        way.spool.correction.correct(BOOT, 10**12)
        way.spool.mark_stale("hub", row)
        self.answer(way, row.record())
        assert way.step() >= 1.0


class TestNothingIsBelieved:
    def test_409_inside_makes_every_201_of_the_batch_a_lie(self, way: Way) -> None:
        rows = way.packages(4)
        way.server.then(Reply(409), on=f"PUT */{rows[2].record_id}")
        assert way.step() >= 1.0
        assert way.pending() == 4
        assert ids(rows)[0] not in way.stored()
        way.deliver()
        assert way.server.batches() == [ids(rows)] * 2, "the same batch, the same ids"
        assert set(way.stored()) == set(ids(rows))

    @pytest.mark.parametrize("status", [500, 502, 503, 504, 507])
    def test_5xx_inside(self, way: Way, status: int) -> None:
        rows = way.packages(2)
        items = [
            {"status": 201, "path": f"/v1/buckets/b/records/{rows[0].record_id}", "body": {}},
            {"status": status, "path": f"/v1/buckets/b/records/{rows[1].record_id}", "body": {}},
        ]
        way.server.then(Reply(200, {"responses": items}), on=BATCH)
        assert way.step() >= 1.0
        assert way.pending() == 2
        way.deliver()
        assert way.server.batches() == [ids(rows)] * 2

    @pytest.mark.parametrize("status", [405, 406, 410, 415, 302])
    def test_status_that_is_no_record_s_fault_never_kills_one(self, way: Way, status: int) -> None:
        """Such as 405, which a Kinto says that is read-only for an hour."""
        way.packages(2)
        way.server.then(Reply(status), on="PUT *", times=None)
        for _ in range(20):
            assert way.step() >= 1.0
        assert way.pending() == 2
        assert way.dead() == {}
        way.server.forget_scripts()
        way.deliver()


class Lying:
    """Answers of the batch that do not fit it."""

    @staticmethod
    def swapped(ids: list[str]) -> list[dict[str, Any]]:
        return [{"status": 201, "path": f"/records/{name}", "body": {}} for name in reversed(ids)]

    @staticmethod
    def one_too_few(ids: list[str]) -> list[dict[str, Any]]:
        return Lying.swapped(ids[::-1])[:-1]

    @staticmethod
    def one_too_many(ids: list[str]) -> list[dict[str, Any]]:
        return Lying.swapped([*ids[::-1], "x"])

    @staticmethod
    def without_status(ids: list[str]) -> list[dict[str, Any]]:
        return [{"path": f"/records/{name}"} for name in ids]

    @staticmethod
    def no_objects(ids: list[str]) -> list[Any]:
        return list(ids)


UNKNOWN: dict[str, Reply | Fault] = {
    "no answer": HANG,
    "reset": RESET,
    "closed": CLOSE,
    "login page": PORTAL,
    "redirect": redirect("http://login.example/"),
    "redirect that keeps the method": redirect("http://login.example/", 307),
    "shorter than announced": Reply(201, {"responses": []}, content_length=4000),
    "longer than announced": Reply(200, {"responses": []}, content_length=5),
    "dripping": Reply(200, {"responses": []}, drip_s=0.2),
    "empty": Reply(200, ""),
    "no JSON": Reply(200, "{", {"Content-Type": "application/json"}),
    "JSON of another kind": Reply(200, "[]", {"Content-Type": "application/json"}),
    "no responses": Reply(200, {}),
    "no list": Reply(200, {"responses": {}}),
    "not found": Reply(404),
    "gone": Reply(410, {"code": 410, "message": "this service is closed"}),
    "accepted": Reply(202, {"responses": []}),
    "bytes": Reply(200, b"\xff\x00"),
}


class TestUnknown:
    @pytest.mark.parametrize("name", UNKNOWN)
    @pytest.mark.parametrize("stored", [True, False])
    def test_outcome_is_asked_for_with_the_same_batch(
        self, way: Way, name: str, stored: bool
    ) -> None:
        rows = way.packages(3)
        way.server.then(UNKNOWN[name], on=BATCH, stored=stored)
        assert way.step() >= 1.0
        assert way.pending() == 3
        assert way.state is SinkState.BACKING_OFF
        assert way.said().startswith("hub: ")
        way.packages(1)
        way.step()
        assert way.server.batches()[:2] == [ids(rows)] * 2
        assert way.pending() == 1
        assert way.said() == ""
        way.deliver()
        assert len(way.stored()) == 4
        assert way.dead() == {}

    @pytest.mark.parametrize("name", [n for n in vars(Lying) if not n.startswith("_")])
    def test_answer_that_does_not_fit_the_batch(self, way: Way, name: str) -> None:
        rows = way.packages(3)
        items = getattr(Lying, name)(ids(rows))
        way.server.then(Reply(200, {"responses": items}), on=BATCH)
        assert way.step() >= 1.0
        assert way.pending() == 3
        way.deliver()
        assert way.dead() == {}

    def test_nobody_listens(self, spool: Spool) -> None:
        with ScriptedServer() as server:
            way = Way(spool, server)
        way.packages(1)
        assert way.step() >= 1.0
        assert "nothing listens there" in way.said()


class TestRefused:
    def test_item_400_is_a_dead_letter_with_its_reason(self, way: Way) -> None:
        rows = way.packages(3)
        body = {"code": 400, "message": "invalid record"}
        way.server.then(Reply(400, body), on=f"PUT */{rows[1].record_id}", times=None)
        way.step()
        assert way.pending() == 0
        assert way.dead() == {str(rows[1].record_id): "400 invalid record"}
        assert set(way.stored()) == {ids(rows)[0], ids(rows)[2]}

    def test_dead_letter_can_be_retried(self, way: Way) -> None:
        (row, _) = way.packages(2)
        way.server.then(Reply(400), on=f"PUT */{row.record_id}")
        way.step()
        assert way.dead()
        retry_dead(way.spool.path)
        way.step()  # idle: looks whether there is something new
        way.deliver()
        assert way.dead() == {}
        assert str(row.record_id) in way.stored()

    def test_413_batch_is_halved_and_a_single_one_dies(self, way: Way) -> None:
        rows = way.packages(8)
        huge = ids(rows)[5]
        refuse(way, Reply(413), lambda names: len(names) > 3 or huge in names)
        way.settle()
        assert set(way.dead()) == {huge}
        assert set(ids(rows)) - set(way.stored()) == {huge}

    def test_413_of_a_proxy_is_halved_too(self, way: Way) -> None:
        """Its page is no JSON; 26 records waited for ever behind it."""
        rows = way.packages(26)
        page = Reply(413, "<html>413 Request Entity Too Large</html>")
        refuse(way, page, lambda names: len(names) > 7)
        way.deliver()
        assert set(way.stored()) == set(ids(rows))
        assert way.dead() == {}

    def test_smaller_batches_are_kept_for_a_while(self, way: Way) -> None:
        refuse(way, Reply(413), lambda names: len(names) > 10)
        way.packages(100)
        way.deliver()
        sizes = [len(batch) for batch in way.server.batches()]
        assert sizes[0] == 25
        assert len([size for size in sizes if size > 10]) < 6
        way.clock.advance(LIMIT_S)
        way.packages(30)
        way.step()
        assert len(way.server.batches()[-1]) == 25

    def test_400_for_the_whole_is_bisected_to_the_poison(self, way: Way) -> None:
        rows = way.packages(25)
        poison = {ids(rows)[3], ids(rows)[17]}
        refuse(way, Reply(400), lambda names: bool(poison & set(names)))
        way.settle()
        assert set(way.dead()) == poison
        assert set(ids(rows)) - set(way.stored()) == poison
        way.packages(25)
        way.step()
        assert len(way.server.batches()[-1]) == 25, "the size was not the cause"

    @pytest.mark.parametrize("status", [400, 403, 406, 413, 422, 451])
    @pytest.mark.parametrize("body", [None, "<html>blocked</html>"], ids=["JSON", "page"])
    def test_body_that_a_firewall_does_not_like_holds_nobody_up(
        self, way: Way, status: int, body: str | None
    ) -> None:
        if status == 403 and body is None:
            body = ""  # with Kinto's own JSON it is the account
        (poison, *_) = way.packages(25)
        refuse(way, Reply(status, body), lambda names: str(poison.record_id) in names)
        way.settle()
        assert set(way.dead()) == {str(poison.record_id)}
        assert way.said() == ""

    def test_a_refusal_is_an_answer(self, way: Way) -> None:
        way.packages(1)
        way.server.then(CLOSE, on=BATCH)
        way.server.then(Reply(400), on=BATCH)
        way.step()
        assert "Remote end closed" in way.said()
        way.step()
        assert "Remote end closed" not in way.said(), "the sink is back"
        way.deliver()
        assert way.dead() == {}
