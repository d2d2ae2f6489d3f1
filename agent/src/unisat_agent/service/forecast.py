"""For how long the disk will do: a pure function of what arrives and of what may be let go."""

from __future__ import annotations

from collections.abc import Iterable

from unisat_agent.delivery.retention import DAY_S, RECORD_BYTES

WARN_DAYS = 30.0


def full_in_days(
    free_bytes: int, records: int, intervals_s: Iterable[float], days: float | None, most: int
) -> float | None:
    """Days until the disk is full.

    Args:
        free_bytes: On the disk.
        records: That the local Kinto has already.
        intervals_s: How often each device sends.
        days: How long records are kept; None where none may go.
        most: How many records are kept at most.

    Returns:
        None where the disk will do, or nothing arrives.
    """
    daily = sum(DAY_S / interval_s for interval_s in intervals_s if interval_s > 0)
    if not daily:
        return None
    if days is not None:
        growth = min(daily * days, float(most)) - records
        if growth * RECORD_BYTES <= free_bytes:
            return None
    return free_bytes / (daily * RECORD_BYTES)
