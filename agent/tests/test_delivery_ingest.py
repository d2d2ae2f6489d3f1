"""Delivery by `records:ingest`: each outcome, each answer that is no outcome, and falling back."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest

from rig.replies import HANG, PORTAL, RESET, Fault, Reply, Request
from rig.scripted import ScriptedServer
from rig.way import MakeWay, Way, ids
from unisat_agent.delivery.choice import LIMIT_S
from unisat_agent.delivery.courier import CAPABILITIES_S
from unisat_agent.delivery.standing import SinkState
from unisat_agent.record import Row

INGEST_PATH = "records:ingest"
INGEST = f"POST *{INGEST_PATH}"


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer(ingest=100) as made:
        yield made


@pytest.fixture
def way(make_way: MakeWay) -> Way:
    made: Way = make_way()
    # It asks first what the sink offers.
    made.courier.standing.proven = False
    return made


def sent(request: Request) -> list[str]:
    raw = request.raw
    if request.headers.get("content-encoding") == "gzip":
        raw = gzip.decompress(raw)
    return [json.loads(line)["id"] for line in raw.splitlines()]


def requests(way: Way) -> list[list[str]]:
    return [sent(r) for r in way.server.requests if r.path.endswith(INGEST_PATH)]


def outcome(created: int, **outcomes: list[Any]) -> Reply:
    return Reply(200, {"data": {"created": created, "newest": 1, **outcomes}})


def learn_the_wire(way: Way) -> list[Row]:
    """Delivers one record, after which it is known how many a request may hold."""
    rows = way.packages(1)
    way.deliver()
    return rows


class TestTaken:
    def test_one_record_when_live_and_many_in_catch_up(self, way: Way) -> None:
        (row,) = way.packages(1)
        way.deliver()
        rows = way.packages(250)
        way.deliver()
        assert requests(way)[0] == ids([row])
        assert [len(batch) for batch in requests(way)] == [1, 100, 100, 50]
        assert set(way.stored()) == set(ids([row, *rows]))
        assert way.server.batches() == []
        assert way.courier.standing.figures.acked == 251

    def test_catch_up_is_packed_and_a_live_record_is_not(self, way: Way) -> None:
        way.packages(1)
        way.deliver()
        way.packages(100)
        way.deliver()
        encodings = [r.headers.get("content-encoding") for r in way.asked("POST /v1/buckets")]
        assert encodings == [None, "gzip"]

    @pytest.mark.parametrize("key", ["identical", "corrected", "deleted"])
    def test_what_the_hub_has_or_let_go_is_acknowledged(self, way: Way, key: str) -> None:
        rows = way.packages(3)
        way.server.then(outcome(2, **{key: [ids(rows)[1]]}), on=INGEST)
        way.step()
        assert (way.pending(), way.dead()) == (0, {})

    def test_different_is_compared_by_the_agent_itself(self, way: Way) -> None:
        rows = way.packages(3)
        theirs = {str(rows[0].record_id): rows[0].record() | {"n": 99}}
        # PostgreSQL may write a number in another way.
        theirs[str(rows[1].record_id)] = rows[1].record() | {"last_modified": 5, "n": 1.0}
        way.server.kinto.tree = {"telemetry": {"u01": theirs}}
        way.deliver()
        assert set(way.dead()) == {str(rows[0].record_id)}
        assert way.spool.dead_by_reason("hub") == {"conflict": 1}

    def test_invalid_is_a_dead_letter_while_others_are_taken(self, way: Way) -> None:
        rows = way.packages(3)
        invalid = [{"index": 1, "id": ids(rows)[1], "reason": "it is too large"}]
        way.server.then(outcome(2, invalid=invalid), on=INGEST)
        way.step()
        assert way.dead() == {ids(rows)[1]: "400 it is too large"}

    def test_all_invalid_kills_nothing(self, way: Way) -> None:
        rows = way.packages(3)
        invalid = [{"id": name, "reason": "?"} for name in ids(rows)]
        way.server.then(outcome(0, invalid=invalid), on=INGEST)
        way.step()
        assert (way.dead(), way.pending()) == ({}, 3)
        way.deliver()
        assert set(way.stored()) == set(ids(rows))
        assert way.dead() == {}


NOT_BELIEVED: dict[str, Reply | Fault] = {
    "one too few": outcome(2),
    "one too many": outcome(4),
    "of a stranger": outcome(2, identical=["stranger"]),
    "twice": outcome(1, identical=["X"], deleted=["X"]),
    "no list": outcome(2, identical="X"),  # type: ignore[arg-type]
    "no number": Reply(200, {"data": {"created": "3"}}),
    "no data": Reply(200, {}),
    "list": Reply(200, "[]", {"Content-Type": "application/json"}),
    "log-in page": PORTAL,
    "no answer": HANG,
    "reset": RESET,
    "cut off": Reply(200, {"data": {"created": 3}}, content_length=999),
    "500": Reply(500),
    "503": Reply(503),
    "409": Reply(409),
    "429": Reply(429),
}


class TestNotBelieved:
    @pytest.mark.parametrize("name", NOT_BELIEVED)
    @pytest.mark.parametrize("stored", [True, False])
    def test_nothing_is_acknowledged_and_nothing_dies(
        self, way: Way, name: str, stored: bool
    ) -> None:
        rows = way.packages(3)
        answer = NOT_BELIEVED[name]
        # On a kept connection the first time is no outage.
        times = 2 if isinstance(answer, Fault) else 1
        way.server.then(answer, on=INGEST, stored=stored, times=times)
        assert way.step() > 0
        assert (way.pending(), way.courier.standing.figures.acked) == (3, 0)
        way.deliver()
        assert (set(way.stored()), way.dead()) == (set(ids(rows)), {})

    @pytest.mark.parametrize(
        "reply", [Reply(400), Reply(413), Reply(403, "<html>"), Reply(503), Reply(500)]
    )
    def test_sick_for_everyone(self, way: Way, reply: Reply) -> None:
        rows = way.packages(150)
        way.server.then(reply, on=INGEST, times=None)
        for _ in range(150):
            way.step()
        assert (way.pending(), way.dead()) == (150, {})
        way.server.forget_scripts()
        way.deliver(400)
        assert (set(way.stored()), way.dead()) == (set(ids(rows)), {})

    def test_413_is_halved(self, way: Way) -> None:
        rows = way.packages(100)
        way.server.then(Reply(413, "<html>too large</html>"), on=INGEST, times=2)
        way.deliver()
        assert set(way.stored()) == set(ids(rows))
        assert max(len(batch) for batch in requests(way)[3:]) <= 50


class TestSlow:
    """A hub that takes longer than the read time-out for a large batch, or that hangs."""

    def test_batch_that_is_too_slow_is_halved_until_it_is_answered(self, way: Way) -> None:
        rows = learn_the_wire(way) + way.packages(200)
        way.server.intercept(lambda r: INGEST_PATH in r.path and len(sent(r)) > 40, lambda _: HANG)
        way.deliver()
        assert set(way.stored()) == set(ids(rows))
        assert way.dead() == {}
        sizes = [len(batch) for batch in requests(way)]
        assert sizes[1] == 100
        # Tried once more when it rose again, and not any more after that.
        assert sizes[-5:] == [25, 25, 25, 25, 25]

    def test_after_a_hub_that_hung_batches_are_large_again(self, way: Way) -> None:
        rows = learn_the_wire(way) + way.packages(200)
        way.server.then(HANG, on=INGEST, times=6)
        way.deliver()
        assert set(way.stored()) == set(ids(rows))
        assert way.dead() == {}
        assert len(requests(way)[7]) == 25
        assert max(len(batch) for batch in requests(way)[8:]) == 50
        way.clock.advance(LIMIT_S)
        way.packages(100)
        way.deliver()
        assert len(requests(way)[-1]) == 100


class TestChoice:
    def test_collection_that_is_missing_is_created(self, way: Way) -> None:
        way.server.kinto.create_missing = False
        way.server.kinto.tree = {"telemetry": {}}
        way.packages(3)
        way.deliver()
        assert len(way.asked("PUT /v1/buckets/telemetry/collections/u01")) == 1
        assert len(way.stored()) == 3

    def test_403_of_one_collection_leaves_the_others_alone(self, way: Way) -> None:
        way.server.then(Reply(403), on="POST *u01/records:ingest", times=None)
        way.packages(3)
        way.packages(3, "u02")
        for _ in range(8):
            way.step()
        assert (len(way.stored("u02")), way.pending()) == (3, 3)
        assert way.state is SinkState.DELIVERING
        assert "may not write telemetry/u01" in way.said()

    @pytest.mark.parametrize("status", [404, 405])
    def test_falls_back_when_the_capability_goes_away(self, way: Way, status: int) -> None:
        """A hub that was rolled back to a stock Kinto."""
        way.packages(1)
        way.deliver()
        way.server.kinto.ingest = None
        if status != 404:
            way.server.then(Reply(status), on=INGEST, times=None)
        rows = way.packages(60)
        way.deliver()
        assert set(ids(rows)) <= set(way.stored())
        assert way.dead() == {}
        assert max(len(batch) for batch in way.server.batches()) == 25

    def test_takes_it_up_again_when_it_comes_back(self, way: Way) -> None:
        way.server.kinto.ingest = None
        way.packages(1)
        way.deliver()
        way.server.kinto.ingest = 100
        way.clock.advance(CAPABILITIES_S)
        way.packages(60)
        way.deliver()
        assert sum(len(batch) for batch in requests(way)) == 60
        assert len(way.server.batches()) == 1

    @pytest.mark.parametrize(
        "limits", [None, 5, {}, {"max_records": 0, "max_bytes": 1}, {"max_records": "x"}]
    )
    def test_limits_that_are_none_mean_the_stock_way(self, way: Way, limits: Any) -> None:
        body = {"user": {"id": "x"}, "capabilities": {"unisat": {"ingest": limits}}}
        way.server.then(Reply(200, body), on="GET /v1/", times=None)
        way.packages(3)
        way.deliver()
        assert len(way.server.batches()) == 1
