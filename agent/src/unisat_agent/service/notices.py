"""What others on the host report: the lines of the files in a folder."""

from __future__ import annotations

import contextlib
from pathlib import Path

LINES_MAX = 20
LINE_MAX_CHARACTERS = 300


def read_notices(folder: Path | None) -> tuple[str, ...]:
    """The lines of all files, as many and as long as are good to read; none without a folder."""
    lines: list[str] = []
    if folder is None:
        return ()
    with contextlib.suppress(OSError):
        for file in sorted(folder.iterdir()):
            # Hidden ones are being written. A file may go between two looks.
            if file.name.startswith(".") or not file.is_file():
                continue
            with contextlib.suppress(OSError), file.open(errors="replace") as text:
                # Read so far and no further, however long the file or a line is.
                while len(lines) < LINES_MAX and (line := text.readline(4096)):
                    if line := line.strip():
                        lines.append(line[:LINE_MAX_CHARACTERS])
    return tuple(lines)
