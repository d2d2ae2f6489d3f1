"""What operators do with a spool, and what becomes of a damaged one."""

from __future__ import annotations

import csv
import io
import json
import uuid
from pathlib import Path

import pytest

from rig.spools import BOOTS, beside, damage, fill, ids, reopened
from unisat_agent.clock import ClockState
from unisat_agent.errors import SpoolError
from unisat_agent.protocols.events import Package
from unisat_agent.protocols.psott import Decoder
from unisat_agent.record import Stamp, payload_of
from unisat_agent.spool import tools as spool_tools
from unisat_agent.spool.dead import dead_letters, retry_dead
from unisat_agent.spool.quarantine import Quarantined
from unisat_agent.spool.queue import Spool
from unisat_agent.spool.schema import PAGE_BYTES


class TestLooking:
    def test_a_whole_spool(self, spool: Spool) -> None:
        rows = fill(spool, 3)
        spool.settle("local", rows[:2])
        spool.bury("hub", rows[0], "refused", "400")
        spool.quarantine(1, [Quarantined("tty", "bad_value", b"x")])
        assert spool_tools.check(spool.path) == []
        assert spool_tools.count(spool.path) == {
            "packages": 3,
            "waiting for local": 1,
            "waiting for hub": 2,
            "dead letters": 1,
            "quarantined lines": 1,
        }

    def test_is_possible_while_no_agent_runs(self, path: Path) -> None:
        spool = reopened(path)
        fill(spool, 3)
        spool.close()
        assert spool_tools.check(path) == []
        assert spool_tools.count(path)["packages"] == 3

    def test_a_damaged_page_is_named(self, path: Path) -> None:
        spool = reopened(path)
        fill(spool, 100)
        spool.close()
        damage(path, 20 * PAGE_BYTES)
        assert spool_tools.check(path)

    def test_a_row_of_no_boot(self, spool: Spool) -> None:
        fill(spool, 1)
        with beside(spool.path) as db:
            db.execute("UPDATE package SET boot = 99")
        assert spool_tools.check(spool.path) == ["1 rows belong to no known boot"]

    def test_no_spool_yet(self, path: Path) -> None:
        for look in (spool_tools.check, spool_tools.count, lambda path: list(dead_letters(path))):
            with pytest.raises(SpoolError, match="there is no spool yet"):
                look(path)
        assert not path.exists()

    def test_no_database(self, path: Path) -> None:
        path.write_text("no database" * 100)
        assert spool_tools.check(path) == ["file is not a database"]


class TestExport:
    def export(self, spool: Spool, form: str) -> tuple[str, list[tuple[int, int]]]:
        out = io.StringIO()
        told: list[tuple[int, int]] = []
        written = spool_tools.export(spool.path, out, form, lambda *now: told.append(now))
        assert written == told[-1][0] == told[-1][1]
        return out.getvalue(), told

    def test_json_lines_are_the_records(self, spool: Spool) -> None:
        rows = fill(spool, 3)
        text, _ = self.export(spool, "jsonl")
        assert [json.loads(line) for line in text.splitlines()] == [row.record() for row in rows]

    def test_csv_has_a_column_for_each_field(self, spool: Spool) -> None:
        fill(spool, 2)
        other = b"devID=u01\npm25=4\n\n"
        (event,) = Decoder().feed(other)
        assert isinstance(event, Package)
        spool.append("u01", payload_of(event), Stamp(0, 0, BOOTS[0], ClockState.UNSYNCED), [])
        text, _ = self.export(spool, "csv")
        lines = list(csv.DictReader(io.StringIO(text, newline="")))
        assert [line["temperature"] for line in lines] == ["0.5", "1.5", ""]
        assert [line["pm25"] for line in lines] == ["", "", "4.0"]
        assert [line["battery"] for line in lines] == ["True", "True", ""]
        assert json.loads(lines[0]["groups"]) == {"meteo": ["temperature", "humidity", "battery"]}
        assert lines[2]["received_at"] == "1970-01-01T00:00:00.000Z"

    def test_tells_its_progress(self, spool: Spool) -> None:
        fill(spool, 1)
        with beside(spool.path) as db:
            db.execute(
                "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < 2500) "
                "INSERT INTO package SELECT i, randomblob(16), dev_id, received_ms, uptime_ms, "
                "boot, clock, 0, payload, 0, 0, NULL, NULL FROM n, package"
            )
        _, told = self.export(spool, "jsonl")
        assert told == [(1000, 2500), (2000, 2500), (2500, 2500)]

    def test_an_empty_spool(self, spool: Spool) -> None:
        assert self.export(spool, "jsonl")[0] == ""


class TestDeadLetters:
    def test_are_listed_with_their_reason(self, spool: Spool) -> None:
        first, second = fill(spool, 2)
        spool.bury("hub", second, "refused", "400 why")
        spool.bury("local", second, "conflict", "other content")
        letters = list(dead_letters(spool.path))
        assert [(x.row, x.sink, x.reason, x.detail) for x in letters] == [
            (second, "hub", "refused", "400 why"),
            (second, "local", "conflict", "other content"),
        ]
        assert ids(spool) == {first.record_id}

    def test_are_retried_by_id_or_all(self, spool: Spool) -> None:
        rows = fill(spool, 3)
        for row in rows:
            spool.bury("hub", row, "refused", "400")
        assert retry_dead(spool.path, [uuid.uuid4()]) == 0
        assert retry_dead(spool.path, [rows[1].record_id]) == 1
        spool.news["hub"].clear()
        assert spool.refresh()
        assert spool.news["hub"].is_set()
        assert ids(spool) == {rows[1].record_id}
        assert retry_dead(spool.path) == 2
        assert spool.refresh()
        assert ids(spool) == {row.record_id for row in rows}
        assert not spool.refresh(), "nothing changed since"

    def test_retried_while_the_courier_is_busy_are_not_forgotten(self, spool: Spool) -> None:
        (dead, *rest) = fill(spool, 50)
        spool.bury("hub", dead, "refused", "400")
        spool.settle("hub", rest)
        spool.settle("local", [dead, *rest])
        spool.tidy(None)
        retry_dead(spool.path)
        spool.tidy(None)  # comes before the courier, which waits for an answer, looks again
        spool.refresh()
        assert ids(spool) == {dead.record_id}


class TestAsking:
    def test_no_answer(self, spool: Spool) -> None:
        assert spool_tools.ask(spool.path, "asked", "answer", 0.0) is None
        assert spool.note("asked")

    def test_an_answer_to_an_earlier_question_is_none(self, spool: Spool) -> None:
        spool.set_note("answer", f"{'0' * 32} old")
        assert spool_tools.ask(spool.path, "asked", "answer", 0.3) is None
