"""One demo at a time, and none whose processes an older one left behind."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rig.demo.ending import RefusedError


def lock_path() -> Path:
    """Where a running demo of this user leaves its mark."""
    return Path(tempfile.gettempdir()) / f"unisat-demo-{os.getuid()}.lock"


@contextlib.contextmanager
def only_demo(path: Path) -> Iterator[Callable[[Path, Sequence[int]], None]]:
    """Holds the lock file while the demo runs; yields a function that notes its processes there.

    Raises:
        RefusedError: When another demo runs, left processes behind, or the file can't be written.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise RefusedError(
            f"cannot write {path}: {error.strerror}; set TMPDIR to a folder that you can write"
        ) from error
    with os.fdopen(descriptor, "r+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = _noted(file.read())["pid"]
            raise RefusedError(
                f"another demo is running (process {pid}): end it with Ctrl-C or 'kill {pid}'"
            ) from None
        if left := _left_behind(_noted(file.read())):
            pids = " ".join(map(str, left))
            raise RefusedError(
                f"an old demo left processes behind ({path}): end them with 'kill {pids}'"
            )

        def note(directory: Path, pids: Sequence[int]) -> None:
            file.seek(0)
            file.truncate()
            json.dump({"pid": os.getpid(), "directory": str(directory), "children": pids}, file)
            file.flush()

        note(path, [])
        try:
            yield note
        finally:
            file.truncate(0)


def _noted(text: str) -> dict[str, Any]:
    with suppress(ValueError):
        noted = json.loads(text)
        if isinstance(noted, dict) and noted.keys() >= {"pid", "directory", "children"}:
            return noted
    return {"pid": "?", "directory": "", "children": []}


def _left_behind(noted: dict[str, Any]) -> list[int]:
    """Those processes of an earlier demo that still run, told by their command lines."""
    left = []
    for pid in noted["children"]:
        with suppress(OSError):
            if noted["directory"].encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                left.append(pid)
    return left
