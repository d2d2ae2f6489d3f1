"""A device's records as a file: fetched page by page, resumable, with an account at the end.

What is fetched goes, a record a line, to FILE.part, and to the disk with each page. A download that
was cut off goes on behind the last whole line. The file that was asked for is made when all is
there, under its name at once.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from unisat_data.hub import Hub, HubError, Record

FORMATS = ("csv", "jsonl", "parquet")
# A silence counts as a gap from so many usual intervals on.
GAP_INTERVALS = 3
# First in a table, in this order; all measurements follow by name.
_FIRST = ("time", "timestamp", "devID")
_LAST = ("clock", "received_at", "epoch", "seq", "id", "last_modified")
_LEFT_OUT = frozenset({"groups", "missing", "boot_id", "uptime", "schema"})


@dataclass(slots=True)
class Account:
    """What a file holds."""

    records: int = 0
    first: int | None = None
    last: int | None = None
    gaps: int = 0
    longest_gap_s: int = 0
    duplicates: int = 0
    sha256: str = ""
    fields: set[str] = field(default_factory=set)

    def __str__(self) -> str:
        if not self.records:
            return "0 records: nothing was received in that time"
        gaps = "no gaps"
        if self.gaps:
            count = "1 gap of" if self.gaps == 1 else f"{self.gaps} gaps, the longest of"
            gaps = f"{count} {self.longest_gap_s} s"
        twice = f", {self.duplicates} duplicates left out" if self.duplicates else ""
        return (
            f"{self.records} records from {_iso(self.first)} to {_iso(self.last)}, "
            f"{gaps}{twice}, sha256 {self.sha256}"
        )


def download(
    hub: Hub,
    device: str,
    file: Path,
    kind: str,
    low: int | None,
    high: int | None,
    progress: Callable[[int], None],
) -> Account:
    """Fetches what is not there yet, and writes the file.

    Args:
        hub: Where from.
        device: Its devID.
        file: What to write; FILE.part beside it is what was fetched so far.
        kind: One of FORMATS.
        low: The lowest `timestamp`, seconds UTC, or None.
        high: The `timestamp` before which to end, or None.
        progress: Called with the number of records after each page.

    Raises:
        HubError: The hub refuses, or does not answer; the same command goes on later.
        OSError: The file can't be written.
    """
    part = file.with_name(file.name + ".part")
    wanted = json.dumps({"url": hub.url, "device": device, "from": low, "to": high})
    count, since = _resume(part, wanted)
    with part.open("a", encoding="utf-8") as text:
        if not count and not part.stat().st_size:
            text.write(wanted + "\n")
        for page in hub.records(device, since, low, high):
            for record in page:
                text.write(json.dumps(record, separators=(",", ":")) + "\n")
            text.flush()
            os.fsync(text.fileno())
            count += len(page)
            progress(count)
    account = _account(part)
    made = file.with_name(file.name + ".new")
    _WRITERS[kind](part, made, columns(account.fields))
    with made.open("rb") as content:
        account.sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    made.replace(file)
    part.unlink()
    return account


def _resume(part: Path, wanted: str) -> tuple[int, int]:
    """How many records are there, and the last one's `last_modified`; half a line is cut off."""
    if not part.exists():
        return 0, 0
    count, since, whole = 0, 0, 0
    with part.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                break
            if not whole:
                if line.decode().rstrip("\n") != wanted:
                    raise HubError(
                        f"{part} is the beginning of another download: finish that one, remove the "
                        f"file, or choose another name with --out"
                    )
            else:
                count, since = count + 1, int(json.loads(line)["last_modified"])
            whole += len(line)
    with part.open("r+b") as text:
        text.truncate(whole)
    return count, since


def _records(part: Path) -> Iterator[Record]:
    """Each record once, as it was last."""
    newest: dict[str, int] = {}
    for record in _lines(part):
        newest[record["id"]] = record["last_modified"]
    for record in _lines(part):
        if newest[record["id"]] == record["last_modified"]:
            yield record


def _lines(part: Path) -> Iterator[Record]:
    with part.open(encoding="utf-8") as lines:
        next(lines, None)
        for line in lines:
            yield json.loads(line)


def _account(part: Path) -> Account:
    account = Account()
    times: list[int] = []
    for record in _records(part):
        account.records += 1
        account.fields.update(record)
        if isinstance(record.get("timestamp"), int):
            times.append(record["timestamp"])
    account.duplicates = sum(1 for _ in _lines(part)) - account.records
    times.sort()
    if times:
        account.first, account.last = times[0], times[-1]
    steps = [later - earlier for earlier, later in itertools.pairwise(times)]
    if steps:
        ((usual, _),) = Counter(step for step in steps if step).most_common(1) or [(1, 0)]
        gaps = [step for step in steps if step > GAP_INTERVALS * usual]
        account.gaps, account.longest_gap_s = len(gaps), max(gaps, default=0)
    return account


def columns(fields: set[str]) -> list[str]:
    """The columns of a table, in their order."""
    known = {*_FIRST, *_LAST} | _LEFT_OUT
    measured = sorted(name for name in fields if name not in known)
    return [*_FIRST, *measured, *(name for name in _LAST if name in fields)]


def _row(record: Record, names: list[str]) -> list[Any]:
    stamped = record | {"time": _iso(record.get("timestamp"))}
    return [stamped.get(name) for name in names]


def _write_jsonl(part: Path, file: Path, _names: list[str]) -> None:
    with file.open("w", encoding="utf-8") as text:
        for record in _records(part):
            text.write(json.dumps(record) + "\n")
        _to_disk(text)


def _write_csv(part: Path, file: Path, names: list[str]) -> None:
    with file.open("w", encoding="utf-8", newline="") as text:
        table = csv.writer(text)
        table.writerow(names)
        table.writerows(_row(record, names) for record in _records(part))
        _to_disk(text)


def _write_parquet(part: Path, file: Path, names: list[str]) -> None:
    try:
        import pyarrow  # noqa: PLC0415 - large, and asked for by few
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError as error:
        raise HubError(
            "Parquet needs pyarrow: pip install pyarrow, or choose --format csv; "
            "what was fetched is kept"
        ) from error
    rows = (dict(zip(names, _row(record, names), strict=True)) for record in _records(part))
    parquet.write_table(pyarrow.Table.from_pylist(list(rows)), file)


def _to_disk(text: TextIO) -> None:
    text.flush()
    os.fsync(text.fileno())


def _iso(timestamp: object) -> str:
    if not isinstance(timestamp, int):
        return ""
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


_WRITERS: dict[str, Callable[[Path, Path, list[str]], None]] = {
    "csv": _write_csv,
    "jsonl": _write_jsonl,
    "parquet": _write_parquet,
}
