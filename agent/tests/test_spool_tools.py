"""What operators do with a spool, and what becomes of a damaged one."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sqlite3
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from unisat_agent import spool_tools
from unisat_agent.clock import ClockState
from unisat_agent.errors import SpoolBusyError, SpoolError
from unisat_agent.psott import Decoder, Package
from unisat_agent.record import Row, Stamp, payload_of
from unisat_agent.spool import Quarantined, Spool
from unisat_agent.spool_file import PAGE_BYTES, SINKS, RowState
from unisat_agent.spool_repair import mark_suspect, open_spool, set_aside

BOOT = "boot-a"
MAX_BYTES = 16 * 1024 * 1024


def package(number: int) -> str:
    text = b"devID=u01\nsubID=meteo\ntemperature=%d.5\nhumidity=20\nbattery=true\n\n" % number
    (event,) = Decoder().feed(text)
    assert isinstance(event, Package)
    return payload_of(event)


def fill(spool: Spool, count: int, clock: ClockState = ClockState.SYNCED) -> list[Row]:
    stamp = Stamp(1_661_000_000_123, 5_000, BOOT, clock)
    return [spool.append("u01", package(number), stamp, []) for number in range(count)]


@pytest.fixture
def path() -> Iterator[Path]:
    # In memory, where there is such a place: thousands of commits would wait for the disk.
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder) / "spool.db"


@pytest.fixture
def spool(path: Path) -> Iterator[Spool]:
    made = reopened(path)
    yield made
    made.close()


def reopened(path: Path, size: int = MAX_BYTES, sinks: tuple[str, ...] = SINKS) -> Spool:
    return open_spool(path, sinks, BOOT, size)


def ids(spool: Spool, sink: str = "hub") -> set[uuid.UUID]:
    return {waiting.row.record_id for waiting in spool.take(sink, "u01", 100_000)}


def killed(spool: Spool) -> None:
    """Leaves the files as a power cut does: with the write-ahead log beside the database."""
    copies = {}
    for suffix in ("", "-wal"):
        file = spool.path.with_name(spool.path.name + suffix)
        if file.exists():
            copies[file] = file.read_bytes()
    spool.close()
    for file, content in copies.items():
        file.write_bytes(content)


def damage(path: Path, at: int, size: int = PAGE_BYTES) -> None:
    content = bytearray(path.read_bytes())
    content[at : at + size] = b"\xa5" * size
    path.write_bytes(content)


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
        spool._db.execute("UPDATE package SET boot = 99")
        assert spool_tools.check(spool.path) == ["1 rows belong to no known boot"]

    def test_no_spool_yet(self, path: Path) -> None:
        for look in (spool_tools.check, spool_tools.count, spool_tools.dead_letters):
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
        spool.append("u01", payload_of(event), Stamp(0, 0, BOOT, ClockState.UNSYNCED), [])
        text, _ = self.export(spool, "csv")
        lines = list(csv.DictReader(io.StringIO(text, newline="")))
        assert [line["temperature"] for line in lines] == ["0.5", "1.5", ""]
        assert [line["pm25"] for line in lines] == ["", "", "4.0"]
        assert [line["battery"] for line in lines] == ["True", "True", ""]
        assert json.loads(lines[0]["groups"]) == {"meteo": ["temperature", "humidity", "battery"]}
        assert lines[2]["received_at"] == "1970-01-01T00:00:00.000Z"

    def test_tells_its_progress(self, spool: Spool) -> None:
        fill(spool, 1)
        spool._db.execute(
            "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < 2500) "
            "INSERT INTO package SELECT i, randomblob(16), dev_id, received_ms, uptime_ms, boot, "
            "clock, 0, payload, 0, 0, NULL, NULL FROM n, package"
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
        letters = spool_tools.dead_letters(spool.path)
        assert [(x.row, x.sink, x.reason, x.detail) for x in letters] == [
            (second, "hub", "refused", "400 why"),
            (second, "local", "conflict", "other content"),
        ]
        assert ids(spool) == {first.record_id}

    def test_are_retried_by_id_or_all(self, spool: Spool) -> None:
        rows = fill(spool, 3)
        for row in rows:
            spool.bury("hub", row, "refused", "400")
        assert spool_tools.retry_dead(spool.path, [uuid.uuid4()]) == 0
        assert spool_tools.retry_dead(spool.path, [rows[1].record_id]) == 1
        spool.news["hub"].clear()
        assert spool.refresh()
        assert spool.news["hub"].is_set()
        assert ids(spool) == {rows[1].record_id}
        assert spool_tools.retry_dead(spool.path) == 2
        assert spool.refresh()
        assert ids(spool) == {row.record_id for row in rows}
        assert not spool.refresh(), "nothing changed since"

    def test_retried_while_the_courier_is_busy_are_not_forgotten(self, spool: Spool) -> None:
        (dead, *rest) = fill(spool, 50)
        spool.bury("hub", dead, "refused", "400")
        spool.settle("hub", rest)
        spool.settle("local", [dead, *rest])
        spool.tidy(None)
        spool_tools.retry_dead(spool.path)
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


class TestDamage:
    def test_a_lost_header_costs_the_rows_but_no_start(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        spool = reopened(path)
        fill(spool, 10)
        spool.close()
        damage(path, 0, 100)
        content = path.read_bytes()
        spool = reopened(path)
        (aside,) = set_aside(path)
        assert aside.name == "spool.db.corrupt-1"
        assert aside.read_bytes() == content
        assert "set aside as" in caplog.text
        assert "0 packages" in caplog.text
        fill(spool, 1)
        spool.close()

    def test_a_lost_page_costs_its_own_rows(self, path: Path) -> None:
        spool = reopened(path)
        rows = fill(spool, 400)
        spool.settle("local", rows)
        spool.settle("hub", rows[:50])
        spool.close()
        damage(path, 60 * PAGE_BYTES)
        mark_suspect(path)
        spool = reopened(path)
        saved = ids(spool)
        assert saved <= {row.record_id for row in rows[50:]}
        assert len(saved) > 350 - 8
        assert ids(spool, "local") == set(), "the local Kinto has them all"
        assert spool.devices_waiting("hub") == ["u01"]
        spool.close()
        spool = reopened(path)
        assert (ids(spool), len(set_aside(path))) == (saved, 1)
        spool.close()

    def test_damage_anywhere_never_stops_a_start_nor_makes_up_a_row(self, path: Path) -> None:
        spool = reopened(path)
        rows = {row.record_id: row for row in fill(spool, 60)}
        spool.close()
        whole = path.read_bytes()
        for page in range(len(whole) // PAGE_BYTES):
            for place in (path, *path.parent.glob("spool.db*")):
                place.unlink(missing_ok=True)
            path.write_bytes(whole)
            damage(path, page * PAGE_BYTES, 300)
            mark_suspect(path)
            spool = reopened(path)
            for waiting in spool.take("hub", "u01", 1000):
                row = rows[waiting.row.record_id]
                assert waiting.row.record() == row.record()
            spool.close()

    def test_a_damaged_first_page_of_rows_does_not_hide_the_others(self, path: Path) -> None:
        spool = reopened(path)
        fill(spool, 300)
        ((page,),) = spool._db.execute(
            "SELECT pageno FROM dbstat WHERE name = 'package' AND pagetype = 'leaf' "
            "ORDER BY path LIMIT 1"
        ).fetchall()
        spool.close()
        damage(path, (page - 1) * PAGE_BYTES)
        mark_suspect(path)
        spool = reopened(path)
        assert len(ids(spool)) > 290
        spool.close()

    def test_bits_that_only_the_id_can_tell(self, path: Path) -> None:
        spool = reopened(path)
        first, second = fill(spool, 2)
        spool._db.execute("UPDATE package SET payload = replace(payload, '0.5', '9.5')")
        spool.close()
        mark_suspect(path)
        spool = reopened(path)
        assert ids(spool) == {second.record_id}
        assert first.record_id not in ids(spool)
        spool.close()

    def test_dead_letters_are_saved_and_tried_again(self, path: Path) -> None:
        spool = reopened(path)
        (row,) = fill(spool, 1)
        spool.settle("local", [row])
        spool.bury("hub", row, "refused", "400")
        spool.close()
        mark_suspect(path)
        spool = reopened(path)
        assert ids(spool) == {row.record_id}
        assert spool.dead_by_reason("hub") == {}
        spool.close()

    def test_what_is_only_in_the_log_is_saved_too(self, path: Path) -> None:
        spool = reopened(path)
        rows = fill(spool, 5)
        killed(spool)
        mark_suspect(path)
        spool = reopened(path)
        assert ids(spool) == {row.record_id for row in rows}
        spool.close()

    def test_record_keeps_its_identity(self, path: Path) -> None:
        spool = reopened(path)
        (row,) = fill(spool, 1, ClockState.UNSYNCED)
        spool.close()
        mark_suspect(path)
        spool = reopened(path)
        (waiting,) = spool.take("hub", "u01", 9)
        assert waiting.row.record() == row.record()
        assert spool.epoch != row.epoch
        spool.close()

    def test_hub_that_came_meanwhile_gets_them_too(self, path: Path) -> None:
        spool = reopened(path, sinks=("local",))
        (row,) = fill(spool, 1)
        spool.close()
        mark_suspect(path)
        spool = reopened(path)
        assert ids(spool) == {row.record_id}
        spool.close()

    def test_salvage_that_was_cut_off_goes_on(self, path: Path) -> None:
        spool = reopened(path)
        rows = fill(spool, 10)
        spool.close()
        # As after a power cut: the old one is set aside, the new one has some of its rows.
        damaged = path.with_name("spool.db.damaged-1")
        shutil.move(path, damaged)
        spool = Spool(path, SINKS, BOOT, MAX_BYTES)
        states = dict.fromkeys(SINKS, RowState.PENDING)
        spool.salvage([(row, states) for row in rows[:4]])
        spool.close()
        spool = reopened(path)
        assert ids(spool) == {row.record_id for row in rows}
        assert spool.pending("hub") == 10
        assert not damaged.exists()
        spool.close()

    def test_no_room_for_all_of_it_is_no_crash_loop(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        spool = reopened(path)
        rows = fill(spool, 2000)
        spool.close()
        mark_suspect(path)
        small = 300 * PAGE_BYTES
        spool = reopened(path, small)
        first = ids(spool)
        assert 0 < len(first) < 2000
        assert "the next start goes on" in caplog.text
        assert [aside.name for aside in set_aside(path)] == ["spool.db.damaged-1"]
        delivered = [w.row for w in spool.take("hub", "u01", 10_000)]
        for sink in SINKS:
            spool.settle(sink, delivered)
        spool.close()
        spool = reopened(path)
        assert ids(spool) == {row.record_id for row in rows} - first
        assert [aside.name for aside in set_aside(path)] == ["spool.db.corrupt-1"]
        spool.close()

    def test_each_damaged_spool_keeps_a_name_of_its_own(self, path: Path) -> None:
        for _ in range(11):
            path.write_bytes(b"no database" * 100)
            reopened(path).close()
        names = {aside.name for aside in set_aside(path)}
        assert names == {f"spool.db.corrupt-{number}" for number in range(1, 12)}

    def test_is_not_set_aside_under_a_running_agent(self, spool: Spool) -> None:
        fill(spool, 1)
        mark_suspect(spool.path)
        with pytest.raises(SpoolBusyError):
            reopened(spool.path)
        assert set_aside(spool.path) == []

    def test_unreadable_epoch_saves_nothing_but_starts(self, path: Path) -> None:
        spool = reopened(path)
        fill(spool, 3)
        spool.close()
        with sqlite3.connect(path) as db:
            db.execute("DELETE FROM meta")
        db.close()
        spool = reopened(path)
        assert ids(spool) == set()
        spool.close()
