"""The files of a spool: its lock, its connection, its reserve, its set-aside copies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from unisat_agent.errors import SpoolBusyError, SpoolCorruptError, SpoolError, SpoolFullError

BUSY_TIMEOUT_S = 10.0
# The log goes first: a new spool must never be opened with the log of the old one.
PARTS = ("-wal", "-shm", "")
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
# What a worn-out SD card gives: the page can't be read, and never will be.
_UNREADABLE = {sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_CORRUPTFS}


# What the rows of one chunk of a long task may take, and below how many rows a commit costs more
# than they do.
_CHUNK_S = 0.02
_CHUNK_ROWS_MIN = 20


class Pace:
    """How many rows the next chunk of a long task has, by what the last ones took.

    Args:
        most: At most so many, on a fast machine.
        least: At least so many, and so many at first.
        monotonic: What time it is, in seconds.
    """

    def __init__(
        self,
        most: int,
        least: int = _CHUNK_ROWS_MIN,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._monotonic = monotonic
        self._most = most
        self._least = min(most, least)
        self.rows = self._least

    @contextlib.contextmanager
    def measured(self) -> Iterator[None]:
        """Around what is done with the rows of one chunk."""
        began = self._monotonic()
        yield
        took_s = max(self._monotonic() - began, 0.001)
        fitting = round(self.rows * _CHUNK_S / took_s)
        self.rows = max(min(fitting, 2 * self.rows, self._most), self._least)


class Reserve:
    """A file beside the spool that only takes up room, to be given up when the disk is full."""

    def __init__(self, spool: Path, size: int) -> None:
        self._path = spool.with_name(spool.name + ".reserve")
        self._size = size

    @property
    def size(self) -> int:
        """The room that it takes up now, in bytes."""
        return _size(self._path)

    def take(self) -> None:
        """Takes the room, or half or a quarter of it, as far as it is there."""
        have = self.size
        for size in (self._size, self._size // 2, self._size // 4):
            if have >= size:
                return
            with contextlib.suppress(OSError), self._path.open("ab") as file:
                try:
                    os.posix_fallocate(file.fileno(), 0, size)
                except OSError:
                    # What a file system may have allocated before it found too little.
                    file.truncate(have)
                    continue
                return
        if not self.size:
            self.give_up()

    def give_up(self) -> bool:
        """Lets the room go; returns whether there was any."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True


def set_aside_copies(path: Path) -> list[Path]:
    """The damaged spools beside this one that are salvaged and done with, the oldest first."""
    return _copies(path, "corrupt")


def unsalvaged_copies(path: Path) -> list[Path]:
    """The damaged spools beside this one that are still to be read, the oldest first."""
    return _copies(path, "damaged")


def _copies(path: Path, word: str) -> list[Path]:
    return sorted(
        (
            found
            for found in path.parent.glob(f"{path.name}.{word}-*")
            if not found.name.endswith(PARTS[:2])
        ),
        key=copy_number,
    )


def copy_number(copy: Path) -> int:
    """The number in the name of a set-aside spool; the highest is the latest."""
    digits = copy.name.rpartition("-")[2]
    return int(digits) if digits.isdigit() else 0


def copy_bytes(copy: Path) -> int:
    """The room that a set-aside spool takes up, its log included."""
    return sum(_size(copy.with_name(copy.name + part)) for part in PARTS)


def delete_copy(copy: Path) -> None:
    """Deletes a set-aside spool and what SQLite kept beside it."""
    for part in PARTS:
        copy.with_name(copy.name + part).unlink(missing_ok=True)


def wal_bytes(path: Path) -> int:
    """The size of the write-ahead log."""
    return _size(path.with_name(path.name + "-wal"))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def lock(path: Path) -> int:
    """Takes the spool for this process, until the descriptor that is returned is closed.

    Raises:
        SpoolBusyError: Another agent has it.
        SpoolError: The folder can't be used.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(
            path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640
        )
    except OSError as error:
        raise SpoolError(
            f"{path.parent}: the spool's folder can't be used: {error.strerror}: "
            f"make it writable for the agent's user"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise SpoolBusyError(
            f"{path}: another agent has this spool: stop it first (systemctl stop unisat-agent)"
        ) from None
    return descriptor


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection to the file.

    Raises:
        SpoolError: It can't be opened.
    """
    try:
        db = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}",
            uri=True,
            timeout=BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
        )
        # Never a file in /var/tmp, which may be full when the spool's disk is.
        db.execute("PRAGMA temp_store = MEMORY")
    except sqlite3.Error as error:
        raise SpoolError(f"{path}: the spool can't be opened: {error}") from error
    return db


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turns SQLite's errors into the spool's own."""
    try:
        yield
    except sqlite3.Error as error:
        extended = getattr(error, "sqlite_errorcode", 0)
        code = extended & 0xFF
        if code == sqlite3.SQLITE_FULL or extended == sqlite3.SQLITE_IOERR_SHMSIZE:
            raise SpoolFullError(
                f"{path}: there is no room for another package: free space on the disk, or raise "
                f"[spool] max_mb"
            ) from error
        if code in _DAMAGE or extended in _UNREADABLE:
            raise SpoolCorruptError(f"{path}: the spool is damaged: {error}") from error
        raise SpoolError(f"{path}: the spool can't be used: {error}") from error
