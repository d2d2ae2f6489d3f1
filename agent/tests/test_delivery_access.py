"""Collections that are missing, and accounts that are refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rig.replies import CLOSE, PORTAL, Fault, Reply
from rig.scripted import ScriptedServer
from rig.way import BATCH, Way
from unisat_agent.delivery import courier as delivery
from unisat_agent.delivery.backoff import PAUSE_FIRST_S, PAUSE_MAX_S
from unisat_agent.delivery.standing import SinkState


class TestMissing:
    def test_collection_is_created(self, way: Way) -> None:
        way.server.kinto.create_missing = False
        way.server.kinto.tree = {"telemetry": {}}
        way.packages(3)
        assert way.step() == 0.0
        assert way.pending() == 3, "404 is no acknowledgement"
        way.deliver()
        (made,) = way.asked("PUT /v1/buckets/telemetry/collections/u01")
        assert (made.headers["if-none-match"], made.body) == ("*", {"data": {}})
        assert len(way.stored()) == 3

    def test_bucket_is_created_too(self, way: Way) -> None:
        way.server.then(Reply(404), on="PUT */records/*", times=3)
        way.server.then(Reply(403), on="PUT /v1/buckets/telemetry/collections/u01")
        way.packages(3)
        way.deliver()
        puts = [r.path for r in way.asked("PUT ")]
        assert puts == [
            "/v1/buckets/telemetry/collections/u01",
            "/v1/buckets/telemetry",
            "/v1/buckets/telemetry/collections/u01",
        ]

    def test_who_may_not_create_it_is_told_what_to_do(self, way: Way) -> None:
        way.server.then(Reply(404), on="PUT */records/*", times=2)
        way.server.then(Reply(403, {"code": 403, "message": "no"}), on="PUT /v1/*", times=2)
        way.packages(2)
        way.step()
        assert way.state is SinkState.PAUSED
        assert "may not write telemetry/u01" in way.said()
        assert "the operator of the server must create it" in way.said()
        way.deliver()
        assert (way.said(), way.state) == ("", SinkState.DELIVERING)

    @pytest.mark.parametrize("status", [201, 412])
    def test_missing_although_it_was_made_is_no_tight_loop(self, way: Way, status: int) -> None:
        way.server.then(Reply(404), on="PUT */records/*", times=None)
        way.server.then(Reply(status), on="PUT /v1/*", times=None)
        way.packages(1)
        assert way.step() == 0.0
        for _ in range(5):
            assert way.step() >= 1.0
        assert len(way.asked("PUT /v1/")) == 1
        assert way.dead() == {}

    @pytest.mark.parametrize("answer", [PORTAL, Reply(503)])
    def test_creation_that_fails_is_tried_again(self, way: Way, answer: Reply | Fault) -> None:
        way.server.then(Reply(404), on="PUT */records/*", times=2)
        way.server.then(answer, on="PUT /v1/buckets/*")
        way.packages(1)
        assert way.step() >= 1.0
        way.deliver()

    def test_deleted_collection_is_made_again(self, way: Way) -> None:
        way.server.kinto.create_missing = False
        way.server.kinto.tree = {"telemetry": {}}
        for _ in range(2):
            way.packages(1)
            way.deliver()
            del way.server.kinto.tree["telemetry"]["u01"]
        assert len(way.asked("PUT /v1/")) == 2


class TestDenied:
    @pytest.mark.parametrize(
        "refuses",
        [
            lambda server: server.then(Reply(401), on=BATCH),
            lambda server: server.then(Reply(403), on=BATCH),
            lambda server: server.then(Reply(401), on="PUT *", times=3),
        ],
        ids=["401", "403", "each 401"],
    )
    def test_pauses_the_sink_and_keeps_the_rows(
        self, way: Way, refuses: Callable[[ScriptedServer], None]
    ) -> None:
        way.packages(3)
        refuses(way.server)
        assert way.step() == PAUSE_FIRST_S
        assert (way.state, way.pending()) == (SinkState.PAUSED, 3)
        assert "refuses the account station: 40" in way.said()
        assert way.said().endswith("correct user or password")
        assert way.courier.step() == PAUSE_FIRST_S, "it rests"
        way.step()
        assert (way.said(), way.state) == ("", SinkState.DELIVERING)
        assert way.pending() == 0

    def test_asks_soon_and_then_ever_less_often_until_a_record_is_taken(self, way: Way) -> None:
        way.packages(1)
        way.server.then(Reply(401), on="GET /v1/", times=9)
        way.courier.standing.proven = False
        assert [way.step() for _ in range(9)] == [5, 10, 20, 40, 80, 160, 300, 300, PAUSE_MAX_S]
        way.deliver()
        way.packages(1)
        way.server.then(Reply(401), on=BATCH)
        assert way.step() == PAUSE_FIRST_S

    def test_one_collection_is_asked_for_ever_less_often(self, way: Way) -> None:
        way.packages(1)
        way.server.then(Reply(403), on="PUT */collections/u01/records/*", times=3)
        for pause_s in (5, 10, 20):
            asked = len(way.server.batches())
            assert way.courier.step() == 0.0
            way.clock.advance(pause_s - 1)
            way.courier.step()
            assert len(way.server.batches()) == asked + 1, "it rests"
            way.clock.advance(1)
        way.deliver()
        assert (way.said(), way.state) == ("", SinkState.DELIVERING)

    def test_wrong_password_is_found_before_a_batch_is_sent(self, way: Way) -> None:
        server = way.server
        server.then(Reply(200, {"settings": {}}), on="GET /v1/")
        way.courier.standing.proven = False
        way.packages(1)
        assert way.step() == PAUSE_FIRST_S
        assert server.batches() == []
        assert "refuses the account" in way.said()
        way.step()
        assert (way.said(), way.pending()) == ("", 0)

    def test_403_of_one_collection_leaves_the_others_alone(self, way: Way) -> None:
        way.packages(2, "u01")
        way.server.then(Reply(403), on="PUT */collections/u01/records/*", times=None)
        way.packages(2, "u02")
        while way.courier.step() == 0.0:
            pass
        assert (way.pending(), len(way.stored("u02"))) == (2, 2)
        assert way.state is SinkState.DELIVERING, "one device is refused, not the sink"
        assert "may not write telemetry/u01" in way.said()
        assert len(way.server.batches()) == 2, "it is not asked again at once"

    def test_health_turns_green_with_the_first_record_also_while_others_wait(
        self, way: Way
    ) -> None:
        way.packages(60)
        way.server.then(Reply(403), on="PUT *", times=25)
        way.step()
        assert way.state is SinkState.PAUSED
        assert way.step() == delivery.IDLE_S
        way.step()
        assert way.pending() > 0
        assert (way.state, way.said()) == (SinkState.DELIVERING, "")

    def test_is_away_and_then_denied(self, way: Way) -> None:
        way.packages(1)
        way.server.then(CLOSE, on=BATCH)
        way.server.then(Reply(401), on=BATCH)
        way.step()
        way.step()
        assert "refuses the account" in way.said()
        assert ";" not in way.said(), "it is there, so it is not away"
