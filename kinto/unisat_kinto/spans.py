"""Ranges of time cut into buckets: pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

DAY_S = 86400
# Widths that a person reads easily. From 60 s on the roll-ups of minutes serve them, from 3600 s
# those of hours.
STEPS_S = (
    *(1, 2, 5, 10, 15, 20, 30),
    *(60, 120, 300, 600, 900, 1200, 1800),
    *(3600, 2 * 3600, 3 * 3600, 6 * 3600, 12 * 3600, DAY_S),
)


@dataclass(frozen=True)
class Span:
    """From start to before end, in buckets of step; seconds UTC, all multiples of step."""

    start: int
    end: int
    step: int


def span(start: int, end: int, points: int) -> Span:
    """The span that holds start to end in at most `points` buckets, but for one cut in two."""
    wanted = (end - start) / points
    step = next((step for step in STEPS_S if step >= wanted), math.ceil(wanted / DAY_S) * DAY_S)
    return Span(start // step * step, -(-end // step) * step, step)


def columns(
    rows: Iterable[tuple[int, str, int, float, float, float]], fields: Iterable[str]
) -> dict[str, Any]:
    """Rows of bucket, field, count, minimum, maximum, sum as one list a column.

    The field '' counts the records of a bucket. A bucket without records is in no list; one without
    a field has None there.
    """
    buckets: dict[int, dict[str, tuple[int, float, float, float]]] = {}
    for bucket, name, *numbers in rows:
        buckets.setdefault(bucket, {})[name] = tuple(numbers)  # type: ignore[assignment]
    times = sorted(buckets)
    found: dict[str, Any] = {
        "time": times,
        "records": [buckets[time].get("", (0, 0.0, 0.0, 0.0))[0] for time in times],
        "fields": {},
    }
    for name in fields:
        cells = [buckets[time].get(name) for time in times]
        found["fields"][name] = {
            "count": [cell[0] if cell else 0 for cell in cells],
            "min": [cell[1] if cell else None for cell in cells],
            "mean": [cell[3] / cell[0] if cell else None for cell in cells],
            "max": [cell[2] if cell else None for cell in cells],
        }
    return found
