"""A spool is copied beside its agent, and what was undelivered comes back exactly once."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from unisat_agent.clock import ClockState
from unisat_agent.errors import SpoolError
from unisat_agent.record import Row, Stamp
from unisat_agent.spool import tools as spool_tools
from unisat_agent.spool.backup import backup, restore
from unisat_agent.spool.queue import Spool
from unisat_agent.spool.schema import SINKS

BOOT = "5f1c1c5c-6a1e-4a52-9d0c-1b1f6f0c9f10"
MAX_BYTES = 4 * 1024 * 1024


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Spool]:
    with contextlib.closing(Spool(path, SINKS, BOOT, MAX_BYTES)) as spool:
        yield spool


def append(spool: Spool, count: int) -> list[Row]:
    stamp = Stamp(1_700_000_000_000, 5_000, BOOT, ClockState.SYNCED)
    return [spool.append("u01kz", f'{{"groups":{{}},"n":{n}}}', stamp, []) for n in range(count)]


def waiting(spool: Spool, sink: str) -> dict[str, Row]:
    rows = [waiting.row for waiting in spool.take(sink, "u01kz", 1000)]
    return {str(row.record_id): row for row in rows}


def ids(rows: Sequence[Row]) -> set[str]:
    return {str(row.record_id) for row in rows}


def test_a_copy_is_one_private_whole_file_with_every_row(tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    with opened(tmp_path / "spool.db") as spool:
        rows = append(spool, 50)
        backup(spool.path, copy)
        append(spool, 1)  # the agent goes on
    assert ids(list(spool_tools.rows(copy))) == ids(rows)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert {p.name for p in tmp_path.glob("copy*")} == {"copy.db"}


def test_a_copy_is_never_written_over(tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    copy.write_text("somebody else's")
    with opened(tmp_path / "spool.db") as spool, pytest.raises(SpoolError, match="File exists"):
        backup(spool.path, copy)
    assert copy.read_text() == "somebody else's"


def test_no_copy_is_left_of_a_spool_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SpoolError, match="no spool yet"):
        backup(tmp_path / "spool.db", tmp_path / "copy.db")
    assert not list(tmp_path.iterdir())


def test_a_lost_spool_comes_back_with_what_each_sink_lacked(tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    with opened(tmp_path / "spool.db") as spool:
        rows = append(spool, 10)
        spool.settle("local", rows)
        spool.settle("hub", rows[:4])
        spool.bury("hub", rows[4], "refused", "400")
        backup(spool.path, copy)
        old_epoch = spool.epoch

    with opened(tmp_path / "new.db") as spool:
        assert restore(spool, copy) == 6
        assert waiting(spool, "local") == {}
        found = waiting(spool, "hub")
        assert found.keys() == ids(rows[4:])
        assert {(row.epoch, row.record_seq) for row in found.values()} == {
            (old_epoch, row.seq) for row in rows[4:]
        }
        # Numbers after the copy may be on the hub already: the new spool has its own.
        (fresh,) = append(spool, 1)
        assert fresh.epoch != old_epoch


def test_restoring_twice_or_into_the_same_spool_doubles_nothing(tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    with opened(tmp_path / "spool.db") as spool:
        append(spool, 5)
        backup(spool.path, copy)
        assert restore(spool, copy) == 0
        assert spool.pending("hub") == 5
    with opened(tmp_path / "new.db") as spool:
        assert restore(spool, copy) == 5
        assert restore(spool, copy) == 0
        assert spool.pending("local") == 5
    with opened(tmp_path / "new.db") as spool:  # counted anew from the file
        assert spool.pending("local") == 5


def test_a_damaged_copy_is_refused(tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    with opened(tmp_path / "spool.db") as spool:
        append(spool, 200)
        backup(spool.path, copy)
        content = bytearray(copy.read_bytes())
        content[20_000:30_000] = bytes(10_000)
        copy.write_bytes(content)
        with pytest.raises(SpoolError, match="damaged"):
            restore(spool, copy)
