"""Numbers in the sentences that people read."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """The number with its noun, as "1 record" or "2 records"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def duration(seconds: float) -> str:
    """Roughly how long, in the largest unit that fits, as "0.5 s", "40 s", "12 min" or "3 h"."""
    if seconds < 2:
        return f"{round(seconds, 1):g} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.0f} h"
    return f"{seconds / 86400:.0f} days"
