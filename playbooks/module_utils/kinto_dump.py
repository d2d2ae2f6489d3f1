"""What a dump of Kinto's database holds, read off the dump itself."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any

COPY = re.compile(rb"COPY (?:public\.)?(\w+) \(([^)]*)\) FROM stdin;\n")
END_OF_COPY = b"\\.\n"
ESCAPES = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}


def content_of(lines: Iterable[bytes]) -> dict[str, dict[str, Any]]:
    """Of each kind of object how many there are, and a sum over all, as of the database itself.

    Args:
        lines: The SQL that pg_restore makes of the dump.
    """
    counts: dict[str, int] = {}
    sums: dict[str, int] = {}
    permissions = None
    rows = iter(lines)
    for line in rows:
        if (head := COPY.fullmatch(line)) is None:
            continue
        columns = [name.strip().decode() for name in head[2].split(b",")]
        copied = iter(lambda: next(rows, END_OF_COPY), END_OF_COPY)
        if head[1] == b"access_control_entries":
            permissions = sum(1 for _ in copied)
        elif head[1] == b"objects":
            for row in copied:
                values = dict(zip(columns, row.removesuffix(b"\n").split(b"\t"), strict=True))
                fields = [
                    values[n] for n in ("parent_id", "id", "last_modified", "deleted", "data")
                ]
                text = b"|".join(_plain(field) for field in fields if field != b"\\N")
                digest = hashlib.md5(text, usedforsecurity=False).hexdigest()
                kind = _plain(values["resource_name"]).decode()
                counts[kind] = counts.get(kind, 0) + (values["deleted"] == b"f")
                sums[kind] = sums.get(kind, 0) + int(digest[:8], 16)
    found: dict[str, dict[str, Any]] = {
        kind: {"count": count, "sum": str(sums[kind])} for kind, count in counts.items()
    }
    if permissions is not None:
        found["permission"] = {"count": permissions, "sum": ""}
    return found


def _plain(field: bytes) -> bytes:
    """A value of COPY's text format without its escapes."""
    if b"\\" not in field:
        return field
    return re.sub(rb"\\(.)", lambda found: ESCAPES.get(found[1], found[1]), field)
