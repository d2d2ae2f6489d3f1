"""Each row of the answer table: what the courier does with what a Kinto may answer."""

from __future__ import annotations

import contextlib
import json
import logging
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rig.scripted import CLOSE, HANG, PORTAL, RESET, Fault, Reply, Request, ScriptedServer, redirect
from rig.wait import wait_until
from unisat_agent import delivery, spool_tools
from unisat_agent.clock import ClockState
from unisat_agent.config import SinkSettings
from unisat_agent.delivery import BACKOFF_MAX_S, PAUSE_FIRST_S, PAUSE_MAX_S, Courier, SinkState
from unisat_agent.errors import SpoolCorruptError
from unisat_agent.kinto import MAX_WAIT_S, KintoClient
from unisat_agent.record import Record, Row, Stamp
from unisat_agent.spool import Spool
from unisat_agent.spool_file import SINKS

BOOT = "boot-a"
BATCH = "POST /v1/batch"


class FullJitter(random.Random):
    """Always the longest wait that the jitter allows."""

    def uniform(self, a: float, b: float) -> float:
        return b


class FakeClock:
    boot_id = BOOT
    uptime = 100_000

    def wall_ms(self) -> int:
        return 1_700_000_000_000

    def uptime_ms(self) -> int:
        return self.uptime

    def synchronised(self) -> bool:
        return True


class Way:
    """A spool, a courier for the hub, and a server that answers as told."""

    def __init__(self, spool: Spool, server: ScriptedServer, **settings: Any) -> None:
        self.spool = spool
        self.server = server
        self.stop = threading.Event()
        self.clock = FakeClock()
        self.idle: list[bool] = []
        self.beats: list[None] = []
        given = {"read_timeout_s": 0.3, "connect_timeout_s": 5.0, **settings}
        self.settings = SinkSettings("hub", server.url, "station", "secret", **given)
        self.courier = Courier(
            spool,
            KintoClient(self.settings),
            self.clock,
            self.stop,
            hold_s=10.0,
            on_idle=self.idle.append,
            rng=FullJitter(),
        )
        # So that the first request is the batch, on a new connection.
        self.courier._proven = True

    def packages(self, count: int = 3, dev_id: str = "u01", at: Stamp | None = None) -> list[Row]:
        stamp = at or Stamp(1_700_000_000_000, 5_000, BOOT, ClockState.SYNCED)
        first = self.spool.last_seq
        return [
            self.spool.append(dev_id, json.dumps({"n": first + n}), stamp, []) for n in range(count)
        ]

    def step(self) -> float:
        """One step, as if the wait before it were over."""
        self.courier._retry.not_before = 0.0
        for dev_id in self.courier._retry.denied_until:
            self.courier._retry.denied_until[dev_id] = 0.0
        return self.courier.step()

    def deliver(self, most: int = 100) -> None:
        """Until nothing waits."""
        for _ in range(most):
            if not self.pending():
                return
            self.step()
        raise AssertionError(f"{self.pending()} rows still wait: {self.courier.notices.current()}")

    def pending(self) -> int:
        return self.spool.pending("hub")

    def stored(self, dev_id: str = "u01") -> dict[str, Record]:
        return self.server.records(dev_id)

    def dead(self) -> dict[str, str]:
        return {str(x.row.record_id): x.detail for x in spool_tools.dead_letters(self.spool.path)}

    def asked(self, line: str) -> list[Request]:
        """The requests whose `METHOD /path` begins with this."""
        return [r for r in self.server.requests if f"{r.method} {r.path}".startswith(line)]

    def said(self) -> str:
        return "; ".join(self.courier.notices.current())


MakeWay = Callable[..., Way]


def ids(rows: list[Row]) -> list[str]:
    return [str(row.record_id) for row in rows]


@pytest.fixture
def spool() -> Iterator[Spool]:
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        made = Spool(Path(folder) / "spool.db", SINKS, BOOT, 64 * 1024 * 1024)
        yield made
        made.close()


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as made:
        yield made


@pytest.fixture
def make_way(spool: Spool, server: ScriptedServer) -> Iterator[MakeWay]:
    with contextlib.ExitStack() as stack:

        def make(**settings: Any) -> Way:
            made = Way(spool, server, **settings)
            stack.callback(made.courier._client.close)
            return made

        yield make


@pytest.fixture
def way(make_way: MakeWay) -> Way:
    return make_way()


class TestTaken:
    def test_each_201_is_acknowledged(self, way: Way) -> None:
        rows = way.packages(3)
        assert way.step() == 0.0
        assert way.pending() == 0
        assert way.server.batches() == [ids(rows)]
        assert list(way.stored()) == ids(rows)
        assert way.courier.figures.acked == 3
        assert way.courier.state is SinkState.DELIVERING

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
        assert [len(batch) for batch in way.server.batches()] == [10, 3, 2]
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
        way.server.tree = {"telemetry": {"u01": {str(row.record_id): row.record()}}}
        self.answer(way, None, extra=details)
        way.step()
        assert way.pending() == 0
        assert len(way.asked("GET /v1/buckets/telemetry/collections/u01/records/")) == 1

    @pytest.mark.parametrize("answer", [Reply(503), PORTAL, Reply(200, {}), Reply(404)])
    def test_unreadable_is_asked_for_again_later(self, way: Way, answer: Reply | Fault) -> None:
        (row, _) = way.packages(2)
        way.server.tree = {"telemetry": {"u01": {str(row.record_id): row.record()}}}
        self.answer(way, None)
        way.server.then(answer, on="GET */records/*")
        assert way.step() >= 1.0
        assert way.pending() == 1
        way.deliver()
        assert way.dead() == {}

    def test_corrected_time_overwrites_the_wrong_one(self, way: Way) -> None:
        unsynced = Stamp(5_000, 5_000, BOOT, ClockState.UNSYNCED)
        (row,) = way.packages(1, at=unsynced)
        way.server.tree = {"telemetry": {"u01": {str(row.record_id): row.record()}}}
        way.spool.correct(BOOT, 1_700_000_000_000)
        way.deliver()
        (stored,) = way.stored().values()
        assert (stored["clock"], stored["timestamp"]) == ("corrected", 1_700_000_005)
        headers = [r.body["requests"][0]["headers"] for r in way.asked(BATCH)]
        assert headers == [{"If-None-Match": "*"}, {}]

    def test_their_corrected_time_is_not_overwritten_by_a_wrong_one(self, way: Way) -> None:
        (row,) = way.packages(1, at=Stamp(5_000, 5_000, "boot-z", ClockState.UNSYNCED))
        theirs = row.record() | {"clock": "corrected", "timestamp": 9, "received_at": "x"}
        way.server.tree = {"telemetry": {"u01": {str(row.record_id): theirs}}}
        way.deliver()
        assert way.stored()[str(row.record_id)]["clock"] == "corrected"

    def test_412_to_a_request_that_asked_for_none_is_no_tight_loop(self, way: Way) -> None:
        (row,) = way.packages(1, at=Stamp(5_000, 5_000, BOOT, ClockState.UNSYNCED))
        way.spool.correct(BOOT, 10**12)
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
        assert way.courier.state is SinkState.BACKING_OFF
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
        (row,) = way.packages(1)
        way.server.then(Reply(400), on="PUT *")
        way.step()
        assert way.dead()
        spool_tools.retry_dead(way.spool.path)
        way.step()  # idle: looks whether there is something new
        way.deliver()
        assert way.dead() == {}
        assert list(way.stored()) == [str(row.record_id)]

    def test_413_batch_is_halved_and_a_single_one_dies(self, way: Way) -> None:
        rows = way.packages(8)
        huge = str(rows[5].record_id)
        refuse(way.server, Reply(413), lambda names: len(names) > 3 or huge in names)
        way.deliver()
        assert set(way.dead()) == {huge}
        assert set(way.stored()) == set(ids(rows)) - {huge}

    def test_smaller_batches_are_kept_for_a_while(
        self, way: Way, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        refuse(way.server, Reply(413), lambda names: len(names) > 10)
        way.packages(100)
        way.deliver()
        sizes = [len(batch) for batch in way.server.batches()]
        assert sizes == [25, 12, 6, 6, 13, 6, 7, *[6] * 12, 3]
        way.courier._limit_until = 0.0
        way.packages(30)
        way.step()
        assert len(way.server.batches()[-1]) == 25

    def test_400_for_the_whole_is_bisected_to_the_poison(self, way: Way) -> None:
        rows = way.packages(25)
        poison = {ids(rows)[3], ids(rows)[17]}
        refuse(way.server, Reply(400), lambda names: bool(poison & set(names)))
        way.deliver()
        assert set(way.dead()) == poison
        assert set(way.stored()) == set(ids(rows)) - poison
        way.packages(25)
        way.step()
        assert len(way.server.batches()[-1]) == 25, "the size was not the cause"

    def test_a_refusal_is_an_answer(self, way: Way) -> None:
        way.packages(1)
        way.server.then(CLOSE, on=BATCH)
        way.server.then(Reply(400), on=BATCH)
        way.step()
        assert way.said()
        way.step()
        assert way.said() == "", "the sink is back"
        assert way.courier.state is SinkState.DELIVERING


class TestPoison:
    def test_5xx_with_a_good_heartbeat_is_bisected_after_three(self, way: Way) -> None:
        rows = way.packages(9)
        poison = ids(rows)[4]
        way.server.then(Reply(503), on=f"PUT */{poison}", times=None)
        for _ in range(2):
            assert way.step() >= 1.0
        assert way.server.batches() == [ids(rows)] * 2
        way.deliver()
        assert set(way.dead()) == {poison}
        assert set(way.stored()) == set(ids(rows)) - {poison}

    def test_bad_heartbeat_says_that_it_is_the_server(self, way: Way) -> None:
        rows = way.packages(4)
        way.server.then(Reply(503), on=BATCH, times=None)
        way.server.then(Reply(503), on="GET /v1/__heartbeat__", times=None)
        for _ in range(20):
            assert way.step() >= 1.0
        assert set(map(tuple, way.server.batches())) == {tuple(ids(rows))}
        assert way.dead() == {}

    def test_server_that_recovers_in_time_kills_nothing(self, way: Way) -> None:
        way.packages(1)
        way.server.then(Reply(503), on=BATCH, times=2)
        way.deliver()
        assert way.dead() == {}


class TestMissing:
    def test_collection_is_created(self, way: Way) -> None:
        way.server.create_missing = False
        way.server.tree = {"telemetry": {}}
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
        assert way.courier.state is SinkState.PAUSED
        assert "may not write telemetry/u01" in way.said()
        assert "the operator of the server must create it" in way.said()
        way.deliver()
        assert (way.said(), way.courier.state) == ("", SinkState.DELIVERING)

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
        way.server.create_missing = False
        way.server.tree = {"telemetry": {}}
        for _ in range(2):
            way.packages(1)
            way.deliver()
            del way.server.tree["telemetry"]["u01"]
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
        assert (way.courier.state, way.pending()) == (SinkState.PAUSED, 3)
        assert "refuses the account station: 40" in way.said()
        assert way.said().endswith("correct user or password")
        assert way.courier.step() > PAUSE_FIRST_S - 2, "it rests"
        way.step()
        assert (way.said(), way.courier.state) == ("", SinkState.DELIVERING)
        assert way.pending() == 0

    def test_asks_soon_and_then_ever_less_often_until_a_record_is_taken(self, way: Way) -> None:
        way.packages(1)
        way.server.then(Reply(401), on="GET /v1/", times=9)
        way.courier._proven = False
        assert [way.step() for _ in range(9)] == [5, 10, 20, 40, 80, 160, 300, 300, PAUSE_MAX_S]
        way.deliver()
        way.packages(1)
        way.server.then(Reply(401), on=BATCH)
        assert way.step() == PAUSE_FIRST_S

    def test_one_collection_is_asked_for_ever_less_often(self, way: Way) -> None:
        way.packages(1)
        way.server.then(Reply(403), on="PUT */collections/u01/records/*", times=3)
        rests = []
        for _ in range(3):
            way.step()
            rests.append(way.courier._retry.denied_until.pop("u01") - time.monotonic())
        assert rests == [pytest.approx(rest, abs=2) for rest in (5, 10, 20)]
        way.deliver()
        assert way.courier._retry.denials == {}

    def test_wrong_password_is_found_before_a_batch_is_sent(self, way: Way) -> None:
        server = way.server
        server.then(Reply(200, {"settings": {}}), on="GET /v1/")
        way.courier._proven = False
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
        assert way.courier.state is SinkState.PAUSED
        assert "may not write telemetry/u01" in way.said()
        assert len(way.server.batches()) == 2, "it is not asked again at once"

    def test_health_turns_green_with_the_first_record_also_while_others_wait(
        self, way: Way
    ) -> None:
        way.packages(60)
        way.server.then(Reply(403), on="PUT *", times=25)
        way.step()
        assert way.courier.state is SinkState.PAUSED
        way.step()
        assert way.pending() > 0
        assert (way.courier.state, way.said()) == (SinkState.DELIVERING, "")

    def test_is_away_and_then_denied(self, way: Way) -> None:
        way.packages(1)
        way.server.then(CLOSE, on=BATCH)
        way.server.then(Reply(401), on=BATCH)
        way.step()
        way.step()
        assert "refuses the account" in way.said()
        assert ";" not in way.said(), "it is there, so it is not away"


class TestWaiting:
    @pytest.mark.parametrize("status", [429, 503])
    def test_as_long_as_the_server_asks(self, way: Way, status: int) -> None:
        way.packages(1)
        way.server.then(Reply(status, headers={"Retry-After": "17"}), on=BATCH)
        assert way.step() == 17.0
        assert 16 < way.courier.step() <= 17.0
        assert way.courier.state is SinkState.BACKING_OFF
        way.deliver()
        assert way.said() == ""

    def test_at_most_300_s(self, way: Way) -> None:
        way.packages(1)
        way.server.then(Reply(503, headers={"Retry-After": "86400"}), on=BATCH)
        assert way.step() == MAX_WAIT_S

    @pytest.mark.parametrize("status", [429, 503])
    def test_retry_after_nothing_is_no_tight_loop(self, way: Way, status: int) -> None:
        way.packages(1)
        way.server.then(Reply(status, headers={"Retry-After": "0"}), on=BATCH)
        assert way.step() >= 1.0

    def test_backoff_beside_a_good_answer(self, way: Way) -> None:
        way.packages(30)
        items: dict[str, Any] = {}

        def answer(request: Request) -> Reply | Fault:
            reply = way.server._default(request)
            assert isinstance(reply, Reply)
            return Reply(reply.status, reply.body, {"Backoff": "9"})

        intercept(way.server, lambda request: request.path == "/v1/batch", answer)
        assert way.step() == 9.0
        assert (way.pending(), way.said(), items) == (5, "", {})

    def test_item_429_waits_and_keeps_the_others(self, way: Way) -> None:
        rows = way.packages(3)
        reply = Reply(429, headers={"Retry-After": "7"})
        way.server.then(reply, on=f"PUT */{rows[1].record_id}")
        assert way.step() == 7.0
        assert way.pending() == 1
        way.deliver()
        assert len(way.stored()) == 3

    def test_doubles_up_to_a_minute(self, way: Way) -> None:
        way.packages(1)
        way.server.then(CLOSE, times=None)
        waits = [way.step() for _ in range(9)]
        assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
        assert BACKOFF_MAX_S == 60
        assert way.courier.figures.retries == 9

    def test_jitter_is_full(self, way: Way) -> None:
        drawn: list[tuple[float, float]] = []

        class Spy(random.Random):
            def uniform(self, a: float, b: float) -> float:
                drawn.append((a, b))
                return a

        way.courier._rng = Spy()
        way.packages(1)
        way.server.then(PORTAL, on=BATCH, times=2)
        way.deliver()
        assert drawn == [(0.0, 1.0), (0.0, 2.0)]

    def test_after_five_failures_only_the_heartbeat_is_asked(self, way: Way) -> None:
        way.packages(1)
        way.server.then(PORTAL, on=BATCH, times=5)
        for _ in range(5):
            way.step()
        way.server.requests.clear()
        way.server.then(Reply(503), on="GET /v1/__heartbeat__", times=3)
        for _ in range(3):
            way.step()
        assert {request.path for request in way.server.requests} == {"/v1/__heartbeat__"}
        assert "the heartbeat does not answer" in way.said()
        way.step()
        assert (way.pending(), way.said()) == (0, "")


class TestIdle:
    def test_says_whether_the_sink_was_away(self, way: Way) -> None:
        assert way.step() == delivery.IDLE_S
        assert way.idle == [True], "what was before the start is not known"
        way.step()
        assert way.idle == [True, False]
        way.packages(1)
        way.server.then(CLOSE, on=BATCH)
        way.deliver()
        way.step()
        assert way.idle == [True, False, True]

    def test_is_not_said_while_the_sink_is_away(self, way: Way) -> None:
        way.packages(1)
        way.server.then(CLOSE, on=BATCH)
        way.step()
        way.courier.step()
        assert way.idle == []


class TestBetween:
    """While the thread compares the databases, live records are not stuck behind that."""

    def test_a_batch_goes_out(self, way: Way) -> None:
        way.packages(30)
        way.courier.step_between()
        assert (way.pending(), way.idle) == (5, [])
        way.courier.step_between()
        way.courier.step_between()
        assert (way.pending(), way.idle) == (0, [])

    def test_not_while_the_sink_wants_to_be_left_alone(self, way: Way) -> None:
        way.packages(1)
        way.server.then(Reply(503, headers={"Retry-After": "60"}), on=BATCH)
        way.courier.step_between()
        way.courier.step_between()
        assert len(way.server.batches()) == 1


class TestHold:
    def test_rows_without_a_time_wait_a_bounded_while(self, way: Way) -> None:
        at = Stamp(5_000, way.clock.uptime, BOOT, ClockState.UNSYNCED)
        way.packages(1, at=at)
        assert way.step() == delivery.IDLE_S
        way.clock.uptime += 9_999
        assert way.step() == delivery.IDLE_S
        way.clock.uptime += 1
        way.deliver()
        (stored,) = way.stored().values()
        assert stored["clock"] == "unsynced"

    def test_corrected_rows_go_at_once(self, way: Way) -> None:
        way.packages(1, at=Stamp(5_000, way.clock.uptime, BOOT, ClockState.UNSYNCED))
        way.spool.correct(BOOT, 1_700_000_000_000)
        way.deliver()
        (stored,) = way.stored().values()
        assert stored["clock"] == "corrected"


class TestThread:
    def start(self, way: Way) -> threading.Thread:
        thread = threading.Thread(
            target=way.courier.run, args=(lambda: way.beats.append(None),), daemon=True
        )
        thread.start()
        return thread

    def end(self, way: Way, thread: threading.Thread) -> None:
        way.stop.set()
        way.spool.news["hub"].set()
        while thread.is_alive():
            way.courier.abort()
            thread.join(0.01)

    def test_package_wakes_it(self, way: Way) -> None:
        thread = self.start(way)
        wait_until(lambda: way.idle, 10, "the courier to be idle")
        for _ in range(3):
            way.packages(1)
            wait_until(lambda: not way.pending(), 10, "the package to be delivered", 0.01)
        self.end(way, thread)
        assert way.beats

    def test_stops_in_the_middle_of_a_request(self, make_way: MakeWay) -> None:
        way = make_way(read_timeout_s=60.0)
        server = way.server
        way.packages(1)
        server.then(HANG, on=BATCH, times=None)
        thread = self.start(way)
        wait_until(server.batches, 10, "the batch to be on its way", 0.01)
        self.end(way, thread)
        assert way.pending() == 1
        assert len(server.batches()) == 1, "it is not sent again"

    def test_shows_that_it_lives_before_each_request(self, way: Way) -> None:
        rows = way.packages(3)
        way.server.tree = {"telemetry": {"u01": {str(r.record_id): r.record() for r in rows}}}
        way.server.then(Reply(412, {"code": 412}), on="PUT *", times=3)
        way.courier._proven = False
        thread = self.start(way)
        wait_until(lambda: not way.pending(), 10, "the comparison", 0.01)
        self.end(way, thread)
        # A step, the root, the batch, and one for each record that was looked at
        assert len(way.beats) >= 6


def test_row_that_can_not_be_sent_is_damage(way: Way) -> None:
    way.packages(1)
    for content in ('{"n": NaN}', "{", "[1]"):
        way.spool._db.execute("UPDATE package SET payload = ?", (content,))
        with pytest.raises(SpoolCorruptError, match="the spool is damaged: row 1"):
            way.step()


def intercept(
    server: ScriptedServer,
    matches: Callable[[Request], bool],
    answer: Callable[[Request], Reply | Fault],
) -> None:
    """Answers some requests by a function."""
    respond = server.respond

    def responding(request: Request) -> Reply | Fault:
        if not matches(request):
            return respond(request)
        server.requests.append(request)
        return answer(request)

    server.respond = responding  # type: ignore[method-assign]


def refuse(server: ScriptedServer, reply: Reply, refused: Callable[[list[str]], bool]) -> None:
    """Answers a batch of such record ids with the reply."""

    def matches(request: Request) -> bool:
        if not request.path.endswith("/batch"):
            return False
        return refused([item["path"].rpartition("/")[2] for item in request.body["requests"]])

    intercept(server, matches, lambda _: reply)
