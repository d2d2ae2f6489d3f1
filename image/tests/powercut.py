"""What a card holds after the power went: everything flushed, and a part of what was not.

QEMU never writes to the card file. While the machine runs, its writes go to a throw-away overlay
and, in their order and with the guest's flushes, to a log (QEMU's blklogwrites, the format of
Linux's dm-log-writes). When the power goes, `apply` brings to the card what was written before the
last flush, each later write that asked for FUA, and of the others a random half: what a card's
cache may or may not have kept. So a commit that trusts the page cache, or a file renamed without
fsync, shows here; it would not with a plain `kill -9` of QEMU, which keeps every write.

Not modelled: a write that is torn inside, and cards that lie about a flush.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_SUPER = struct.Struct("<QQQI")
_ENTRY = struct.Struct("<QQQQ")
_FLUSH, _FUA, _DISCARD = 1, 2, 4


class TornLogError(Exception):
    """The log has a hole with entries behind it: what was flushed can't be told."""


@dataclass(frozen=True, slots=True)
class Write:
    """One entry of the log; offsets and lengths in bytes.

    Attributes:
        data_at: Where the log has the data; a discard has none.
    """

    offset: int
    length: int
    flags: int
    data_at: int


@dataclass(frozen=True, slots=True)
class Applied:
    """What a power cut kept.

    Attributes:
        kept: Writes that are on the card.
        dropped: Writes that never got there.
        written_bytes: All that the guest wrote.
    """

    kept: int
    dropped: int
    written_bytes: int


def entries(log: Path) -> Iterator[Write]:
    """The log's entries; a last one that is not whole is left out.

    Raises:
        TornLogError: When an entry was not written and a later one was.
    """
    size = log.stat().st_size
    with log.open("rb") as file:
        head = file.read(_SUPER.size)
        if len(head) < _SUPER.size:
            return
        # Before the first flush the head is not written yet.
        sector = _SUPER.unpack(head)[3] or 512
        at = sector
        while at + sector <= size:
            file.seek(at)
            number, count, flags, _ = _ENTRY.unpack(file.read(_ENTRY.size))
            if not (count or flags):
                file.seek(at)
                if any(file.read()):
                    raise TornLogError(f"{log}: a hole at {at} of {size}")
                return
            data_at = at + sector
            at = data_at + (0 if flags & _DISCARD else count * sector)
            if at > size:
                return
            yield Write(number * sector, count * sector, flags, data_at)


def apply(log: Path, card: Path, chance: random.Random | None) -> Applied:
    """Brings a log's writes to the card.

    Args:
        log: Of one time of power.
        card: Raw, as it was when that time began.
        chance: Decides about what was not flushed; None keeps all, as after an orderly end.

    Raises:
        TornLogError: Before the card is changed.
    """
    writes = list(entries(log))
    flushed = max((at for at, write in enumerate(writes) if write.flags & _FLUSH), default=-1)
    kept = dropped = written = 0
    with log.open("rb") as source, card.open("r+b") as target:
        for at, write in enumerate(writes):
            if not write.length:
                continue
            discard = write.flags & _DISCARD
            written += 0 if discard else write.length
            safe = chance is None or at < flushed or write.flags & _FUA
            if not safe and chance is not None and chance.random() < 0.5:
                dropped += 1
                continue
            kept += 1
            if discard:
                continue  # what a discarded sector holds is not defined
            source.seek(write.data_at)
            target.seek(write.offset)
            target.write(source.read(write.length))
    return Applied(kept, dropped, written)
