"""One run: month after month of each device into the archive, and only then out of the database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from unisat_archive import files
from unisat_archive.database import ChangedError, Database, Seen
from unisat_archive.tables import Record, bounds, kind_of, merged, month_of

DAY_S = 86400
# Stations go on sending; a month that never stands still is left for the next run.
ATTEMPTS = 5

Report = Callable[[str], None]


class Days:
    """Counts the records that pass, by the day of their `timestamp`."""

    def __init__(self) -> None:
        self.seen: dict[int, Seen] = {}

    def counted(self, records: Iterator[Record]) -> Iterator[Record]:
        """The records themselves."""
        for record in records:
            end = (int(record["timestamp"]) // DAY_S + 1) * DAY_S
            count, newest = self.seen.get(end, (0, 0))
            self.seen[end] = count + 1, max(newest or 0, record["last_modified"])
            yield record


def archive_device(
    database: Database, root: Path, device: str, before: int, report: Report
) -> tuple[int, int]:
    """Archives the whole months of a device that ended by `before`, and lets them go.

    Args:
        database: Where the records are.
        root: The archive's folder; nothing in it is half done (`files.recover`).
        device: The collection.
        before: Seconds UTC.
        report: Called with a sentence after each step that a power cut could follow.

    Returns:
        How many months, and how many records were deleted.

    Raises:
        ChangedError: Records of one month kept coming.
        files.DamagedError: A file of the archive is not what it was.
        OSError: There is no room for another file.
    """
    months: set[str] = set()
    deleted, attempts = 0, 0
    while (oldest := database.oldest(device, 0, before)) is not None:
        floor = database.floor(device)
        if oldest < floor:
            # Somebody put records back: whatever is below the floor goes at once.
            written, marks = _write_below(database, root, device, floor, report)
        else:
            first, end = bounds(month_of(oldest))
            if end > before:
                break
            days = _write(database, root, device, (first, end), report)
            written = {month_of(first)}
            # With the last day the floor rises to the end of the month.
            marks = {end if day == max(days) else day: seen for day, seen in days.items()}
        try:
            for mark, seen in sorted(marks.items()):
                deleted += database.let_go(device, mark, seen)
                report(f"{device}: let go up to {mark}")
        except ChangedError:
            attempts += 1
            if attempts == ATTEMPTS:
                raise
        else:
            months |= written
            attempts = 0
    return len(months), deleted


def _write_below(
    database: Database, root: Path, device: str, floor: int, report: Report
) -> tuple[set[str], dict[int, Seen]]:
    """Adds all that is stored below the floor to the archive; returns which months, and what."""
    written: set[str] = set()
    records, newest, start = 0, 0, 0
    while (oldest := database.oldest(device, start, floor)) is not None:
        first, start = bounds(month_of(oldest))
        days = _write(database, root, device, (first, min(start, floor)), report)
        written.add(month_of(first))
        records += sum(count for count, _ in days.values())
        newest = max([newest, *(modified or 0 for _, modified in days.values())])
    return written, {floor: (records, newest)}


def _write(
    database: Database, root: Path, device: str, within: tuple[int, int], report: Report
) -> dict[int, Seen]:
    """Adds what is stored of a month to the archive; returns what that was, by the end of a day."""
    month, days = month_of(within[0]), Days()
    archived = files.manifest(root, device, month)
    with database.reading(device, *within) as (kinds, stored):
        for name, kind in (archived or {"columns": {}})["columns"].items():
            kinds[name] = kind_of({kind, kinds.get(name, kind)})
        rows = merged(files.records(root, device, month), days.counted(stored))
        made = files.write(root, device, month, kinds, rows)
    report(f"{device} {month}: {made['records']} records written and read back")
    files.put_in_place(root, device, month)
    report(f"{device} {month}: in its place")
    return days.seen
