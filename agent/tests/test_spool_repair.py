"""A damaged spool is set aside, and what can be read of it is saved."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from rig.spools import BOOTS, MAX_BYTES, beside, damage, fill, ids, reopened
from unisat_agent.clock import ClockState
from unisat_agent.errors import SpoolBusyError
from unisat_agent.spool.files import set_aside_copies, unsalvaged_copies
from unisat_agent.spool.queue import Spool
from unisat_agent.spool.repair import mark_suspect
from unisat_agent.spool.schema import PAGE_BYTES, SINKS, RowState


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
        (aside,) = set_aside_copies(path)
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
        assert (ids(spool), len(set_aside_copies(path))) == (saved, 1)
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
        spool.close()
        with beside(path) as db:
            ((page,),) = db.execute(
                "SELECT pageno FROM dbstat WHERE name = 'package' AND pagetype = 'leaf' "
                "ORDER BY path LIMIT 1"
            ).fetchall()
        damage(path, (page - 1) * PAGE_BYTES)
        mark_suspect(path)
        spool = reopened(path)
        assert len(ids(spool)) > 290
        spool.close()

    def test_bits_that_only_the_id_can_tell(self, path: Path) -> None:
        spool = reopened(path)
        first, second = fill(spool, 2)
        with beside(spool.path) as db:
            db.execute("UPDATE package SET payload = replace(payload, '0.5', '9.5')")
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
        spool = Spool(path, SINKS, BOOTS[0], MAX_BYTES)
        states = dict.fromkeys(SINKS, RowState.PENDING)
        spool.adoption.take_over([(row, states) for row in rows[:4]])
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
        assert [source.name for source in unsalvaged_copies(path)] == ["spool.db.damaged-1"]
        delivered = [w.row for w in spool.take("hub", "u01", 10_000)]
        for sink in SINKS:
            spool.settle(sink, delivered)
        spool.close()
        spool = reopened(path)
        assert ids(spool) == {row.record_id for row in rows} - first
        assert [aside.name for aside in set_aside_copies(path)] == ["spool.db.corrupt-1"]
        spool.close()

    def test_each_damaged_spool_keeps_a_name_of_its_own(self, path: Path) -> None:
        for _ in range(11):
            path.write_bytes(b"no database" * 100)
            reopened(path).close()
        names = {aside.name for aside in set_aside_copies(path)}
        assert names == {f"spool.db.corrupt-{number}" for number in (9, 10, 11)}, "not for ever"

    def test_is_not_set_aside_under_a_running_agent(self, spool: Spool) -> None:
        fill(spool, 1)
        mark_suspect(spool.path)
        with pytest.raises(SpoolBusyError):
            reopened(spool.path)
        assert set_aside_copies(spool.path) + unsalvaged_copies(spool.path) == []

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
