"""The command that a hub's timer runs.

    KINTO_STORAGE_URL=postgresql://… python3 -m unisat_archive --folder DIR --days 365

Whole months (UTC) of each device that ended more than so many days ago go to the archive: one
Parquet file, one CSV file and a manifest each. What was written is read back, and only then do
the records leave the database. It can be stopped and run again at any time.
"""
# ruff: noqa: T201 - what it prints is for the journal

from __future__ import annotations

import argparse
import fcntl
import os
import sys
import time
from pathlib import Path

import psycopg2

from unisat_archive import files
from unisat_archive.archiving import DAY_S, Report, archive_device
from unisat_archive.database import ChangedError, Database


def say(sentence: str) -> None:
    """One line for the journal."""
    print(sentence, flush=True)


def run(database: Database, root: Path, before: int, report: Report) -> int:
    """Archives all devices; returns how many of them failed, each of which said why."""
    failed = 0
    files.recover(root)
    for device in database.devices():
        try:
            months, deleted = archive_device(database, root, device, before, report)
        except ChangedError:
            say(f"{device}: its records keep changing; the next run goes on with it")
        except (files.DamagedError, OSError) as error:
            failed += 1
            say(f"{device} is not archived: {error}")
        else:
            if months:
                say(f"{device}: {deleted} records of {months} months went to the archive")
    files.write_index(root)
    return failed


def main(report: Report = lambda _: None) -> int:
    """Reads the arguments and runs once."""
    parser = argparse.ArgumentParser(
        prog="unisat_archive", description=(__doc__ or "").split("\n", maxsplit=1)[0]
    )
    parser.add_argument("--folder", type=Path, required=True, help="where the archive is")
    parser.add_argument(
        "--days", type=int, required=True, help="how long the database keeps each record, at least"
    )
    parser.add_argument("--bucket", default="telemetry", help="whose collections (%(default)s)")
    arguments = parser.parse_args()
    url = os.environ.get("KINTO_STORAGE_URL", "")
    if not url:
        parser.error("the environment variable KINTO_STORAGE_URL has to name Kinto's database")
    if arguments.days < 1:
        parser.error("--days has to be at least 1")
    with (arguments.folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another run is at work")
            return 1
        before = int(time.time()) - arguments.days * DAY_S
        try:
            database = Database(url, arguments.bucket)
            try:
                return 1 if run(database, arguments.folder, before, report) else 0
            finally:
                database.close()
        except psycopg2.Error as error:
            say(f"the database does not answer: {str(error).strip()}; the next run goes on")
            return 1


if __name__ == "__main__":
    sys.exit(main())
