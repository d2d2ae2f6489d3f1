"""When the courier sends what: live first, waits, idle, held rows, and its thread."""

from __future__ import annotations

import contextlib
import sqlite3
import threading

import pytest

from rig.replies import CLOSE, HANG, PORTAL, Fault, Reply, Request
from rig.wait import wait_until
from rig.way import BATCH, BOOT, MakeWay, Way, ids
from unisat_agent.clock import ClockState
from unisat_agent.delivery import courier as delivery
from unisat_agent.delivery.backoff import BACKOFF_MAX_S
from unisat_agent.delivery.kinto import MAX_WAIT_S
from unisat_agent.delivery.standing import SinkState
from unisat_agent.record import Stamp


class TestLive:
    def test_newest_goes_first_over_all_devices(self, way: Way) -> None:
        """Ten devices with a backlog each: a live record waits for the batch in flight alone."""
        devices = [f"u{number:02}" for number in range(10)]
        for dev_id in devices:
            way.packages(60, dev_id)
        waited = []
        for number in range(40):
            way.courier.step()
            dev_id = devices[number * 7 % 10]
            (live,) = way.packages(1, dev_id)
            for steps in range(1, 20):
                way.courier.step()
                if str(live.record_id) in way.stored(dev_id):
                    waited.append(steps)
                    break
        assert len(waited) == 40
        assert sorted(waited)[35] == 1
        assert max(waited) <= 2

    def test_backlog_of_a_silent_device_is_not_forgotten(self, way: Way) -> None:
        way.packages(50, "u02")
        for _ in range(20):
            way.packages(1)
            way.step()
        assert len(way.stored("u02")) == 50


class TestWaiting:
    @pytest.mark.parametrize("status", [429, 502, 503, 504])
    @pytest.mark.parametrize("body", [None, "<html>busy</html>"], ids=["JSON", "page"])
    def test_as_long_as_the_server_asks(self, way: Way, status: int, body: str | None) -> None:
        way.packages(1)
        way.server.then(Reply(status, body, {"Retry-After": "17"}), on=BATCH)
        assert way.step() == 17.0
        assert way.courier.step() == 17.0
        assert way.state is SinkState.BACKING_OFF
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

        def answer(request: Request) -> Reply | Fault:
            reply = way.server.kinto.answer(request)
            assert isinstance(reply, Reply)
            return Reply(reply.status, reply.body, {"Backoff": "9"})

        way.server.intercept(lambda request: request.path == "/v1/batch", answer)
        assert way.step() == 9.0
        assert (way.pending(), way.said()) == (5, "")

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
        assert way.courier.standing.figures.retries == 9

    def test_jitter_is_full(self, way: Way) -> None:
        way.packages(1)
        way.server.then(PORTAL, on=BATCH, times=2)
        way.deliver()
        assert way.rng.drawn == [(0.0, 1.0), (0.0, 2.0)]

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
        assert "the hub's Kinto says that it is not well (503" in way.said()
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


class TestHold:
    def test_rows_without_a_time_wait_a_bounded_while(self, way: Way) -> None:
        at = Stamp(5_000, way.clock.uptime, BOOT, ClockState.UNSYNCED)
        way.packages(1, at=at)
        assert way.courier.step() == delivery.IDLE_S
        way.clock.uptime += 9_999
        assert way.courier.step() == delivery.IDLE_S
        way.clock.uptime += 1
        way.deliver()
        (stored,) = way.stored().values()
        assert stored["clock"] == "unsynced"

    def test_corrected_rows_go_at_once(self, way: Way) -> None:
        way.packages(1, at=Stamp(5_000, way.clock.uptime, BOOT, ClockState.UNSYNCED))
        way.spool.correction.correct(BOOT, 1_700_000_000_000)
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
        way.server.kinto.tree = {"telemetry": {"u01": {str(r.record_id): r.record() for r in rows}}}
        way.server.then(Reply(412, {"code": 412}), on="PUT *", times=3)
        way.courier.standing.proven = False
        thread = self.start(way)
        wait_until(lambda: not way.pending(), 10, "the comparison", 0.01)
        self.end(way, thread)
        # A step, the root, the batch, and one for each record that was looked at
        assert len(way.beats) >= 6


def test_row_that_can_not_be_sent_is_quarantined_alone(way: Way) -> None:
    rows = way.packages(4)
    with contextlib.closing(sqlite3.connect(way.spool.path)) as db, db:
        for row, content in zip(rows, ('{"n": NaN}', "{", "[1]"), strict=False):
            db.execute("UPDATE package SET payload = ? WHERE seq = ?", (content, row.seq))
    way.deliver()
    assert list(way.stored()) == [ids(rows)[3]]
    assert way.spool.quarantined() == 3
