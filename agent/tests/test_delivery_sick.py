"""A sink that refuses everyone kills no record; one that refuses a single record finds it."""

from __future__ import annotations

import pytest

from rig.replies import PORTAL, RESET, Fault, Reply, redirect
from rig.way import BATCH, Way, ids, refuse
from unisat_agent.delivery.revival import REVIVE_S
from unisat_agent.delivery.standing import SinkState

EVERYTHING: dict[str, tuple[Reply | Fault, str]] = {
    "400": (Reply(400), BATCH),
    "403 of a firewall": (Reply(403, "<html>blocked</html>"), BATCH),
    "413": (Reply(413), BATCH),
    "413 of a proxy": (Reply(413, "<html>too large</html>"), BATCH),
    "422": (Reply(422), BATCH),
    "each 400": (Reply(400), "PUT *"),
    "each 413": (Reply(413), "PUT *"),
    "each 503": (Reply(503), "PUT *"),
    "429": (Reply(429), BATCH),
    "500": (Reply(500), BATCH),
    "502 of a proxy": (Reply(502, "<html>bad gateway</html>"), BATCH),
    "503": (Reply(503, headers={"Retry-After": "3"}), BATCH),
    "504": (Reply(504, "<html>time-out</html>"), BATCH),
    "507": (Reply(507), BATCH),
    "401": (Reply(401), BATCH),
    "404": (Reply(404), BATCH),
    "405": (Reply(405), BATCH),
    "log-in page": (PORTAL, BATCH),
    "redirect": (redirect("http://login.example/"), BATCH),
    "reset": (RESET, BATCH),
}


class TestSickForEveryone:
    """A full disk, a maintenance page, a wrong schema: no record is to blame, and none is lost."""

    @pytest.mark.parametrize("name", EVERYTHING)
    def test_nothing_dies_and_nothing_is_acknowledged(self, way: Way, name: str) -> None:
        answer, on = EVERYTHING[name]
        rows = way.packages(60) + way.packages(3, "u02")
        way.server.then(answer, on=on, times=None)
        for _ in range(100):
            way.step()
            if len(rows) < 90:
                rows += way.packages(1)
        assert way.dead() == {}
        assert way.pending() == len(rows)
        assert way.said(), "it is told"
        way.server.forget_scripts()
        way.deliver(300)
        assert way.dead() == {}
        assert set(way.stored()) | set(way.stored("u02")) == set(ids(rows))

    @pytest.mark.parametrize("name", ["400", "422", "each 400", "413"])
    def test_it_is_not_hammered(self, way: Way, name: str) -> None:
        answer, on = EVERYTHING[name]
        way.packages(1000)
        way.server.then(answer, on=on, times=None)
        for _ in range(300):
            if way.courier.step():
                way.clock.advance(1.0)
        assert len(way.server.batches()) < 150
        assert way.state is SinkState.PAUSED
        assert "refuses every record of u01" in way.said()

    def test_flapping_kills_nothing_for_good(self, way: Way) -> None:
        """Each second request is refused: what dies of that comes back by itself."""
        rows = way.packages(40)
        turn = iter(range(10_000))
        way.server.intercept(
            lambda request: request.path == "/v1/batch" and next(turn) % 2 == 0,
            lambda _: Reply(503),
        )
        for _ in range(300):
            way.step()
        way.clock.advance(REVIVE_S)
        way.courier.step()
        for _ in range(50):
            way.step()
        assert set(way.stored()) == set(ids(rows))
        assert way.dead() == {}


class TestPoison:
    @pytest.mark.parametrize(
        "answer", [Reply(503, headers={"Retry-After": "3"}), Reply(500), RESET]
    )
    def test_that_makes_the_server_fail_is_found_while_others_pass(
        self, way: Way, answer: Reply | Fault
    ) -> None:
        rows = way.packages(9)
        poison = ids(rows)[4]
        way.server.intercept(
            lambda request: request.path == "/v1/batch" and poison.encode() in request.raw,
            lambda _: answer,
        )
        way.settle()
        assert set(way.dead()) == {poison}
        assert set(ids(rows)) - set(way.stored()) == {poison}
        assert way.spool.dead_by_reason("hub") == {"server_error": 1}

    def test_live_records_do_not_wait_for_it(self, way: Way) -> None:
        (poison, *_) = way.packages(25)
        refuse(way, Reply(503), lambda names: str(poison.record_id) in names)
        assert way.courier.step() > 0
        for _ in range(20):
            (live,) = way.packages(1)
            way.clock.advance(3.0)
            while not way.courier.step():
                pass
            assert str(live.record_id) in way.stored()

    def test_other_devices_do_not_wait_for_it(self, way: Way) -> None:
        (poison,) = way.packages(1)
        refuse(way, Reply(400), lambda names: str(poison.record_id) in names)
        for _ in range(50):
            way.packages(1, "u02")
            way.step()
        assert len(way.stored("u02")) == 50
        assert way.dead() == {}, "no neighbour of its own was accepted"
        assert "until another one of u01 is accepted" in way.said()
        way.settle()
        assert set(way.dead()) == {str(poison.record_id)}

    def test_dead_letters_of_server_errors_go_back_by_themselves(self, way: Way) -> None:
        rows = way.packages(2)
        poison = ids(rows)[0]
        way.server.then(Reply(503), on=f"PUT */{poison}", times=None)
        way.settle()
        assert set(way.dead()) == {poison}
        way.server.forget_scripts()
        way.step()
        assert way.dead(), "not at once"
        way.clock.advance(REVIVE_S)
        way.courier.step()
        way.deliver()
        assert way.dead() == {}
        assert poison in way.stored()

    def test_bad_heartbeat_says_that_it_is_the_server(self, way: Way) -> None:
        way.packages(4)
        way.server.then(Reply(503), on=BATCH, times=None)
        way.server.then(Reply(503), on="GET /v1/__heartbeat__", times=None)
        for _ in range(20):
            assert way.step() >= 1.0
        assert len(way.server.batches()) == 5
        assert way.dead() == {}

    def test_server_that_recovers_in_time_kills_nothing(self, way: Way) -> None:
        way.packages(1)
        way.server.then(Reply(503), on=BATCH, times=2)
        way.deliver()
        assert way.dead() == {}
