"""Lets old records go from the local Kinto, so that the card never fills.

Only what the hub has goes: what both were compared for and found equal, and is counted on both
once more before each step. The oldest go first, a few hours at a time. The floor that the local
Kinto keeps (`retain_from`) is also reconcile's: what is below it is not missed and not sent back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from unisat_agent.delivery.side import ReconcileError, Side
from unisat_agent.text import counted

# The plugin deletes whole hours.
HOUR_S = 3600
STEP_S = 6 * HOUR_S
DAY_S = 86_400
# Of a record in PostgreSQL, with its indexes.
RECORD_BYTES = 1_120

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Kept:
    """What a look at the local Kinto found, and left.

    Attributes:
        records: How many it has, of all devices.
        deleted: How many were let go.
        problem: Why no more could go, in a sentence; empty where all that is too old went.
        able: Whether the local Kinto can let records go; one without the plugin can't.
    """

    records: int = 0
    deleted: int = 0
    problem: str = ""
    able: bool = True


class Retention:
    """Deletes what is older than it has to be kept.

    Args:
        local: The local Kinto.
        hub: The hub; None where records go without one having them.
        days: How long records are kept.
        max_records: How many are kept at most.
    """

    def __init__(self, local: Side, hub: Side | None, days: float, max_records: int) -> None:
        self._local = local
        self._hub = hub
        self._keep_s = round(days * DAY_S)
        self._max_records = max_records
        self._problem = ""

    def run(self, now_s: int, until_s: int, go_on: Callable[[], bool]) -> Kept:
        """Lets go what is too old, then what is too much.

        Args:
            now_s: Seconds since 1970.
            until_s: Nothing that is younger may go.
            go_on: Asked before each step.

        Raises:
            TransportError: A Kinto does not answer.
            ReconcileError: Its answer is no use.
        """
        self._problem = ""
        counts = self._local.counts()
        if counts is None:
            return Kept(able=False)
        total = sum(counts.values())
        deleted = 0
        for dev_id in counts:
            oldest = self._local.oldest(dev_id)
            while oldest is not None and go_on():
                gone = self._step(dev_id, oldest, min(until_s, now_s - self._keep_s))
                if gone is None:
                    break
                deleted += gone
                oldest = self._next(dev_id, oldest)
        oldest_of = {dev_id: self._local.oldest(dev_id) for dev_id in counts}
        while total - deleted > self._max_records and go_on():
            there = {dev_id: oldest for dev_id, oldest in oldest_of.items() if oldest is not None}
            if not there:
                self._problem = self._problem or (
                    f"the local Kinto has {counted(total - deleted, 'record')}, more than the "
                    f"{self._max_records} that it may keep, and none of them may go yet"
                )
                break
            dev_id = min(there, key=there.__getitem__)
            gone = self._step(dev_id, there[dev_id], until_s)
            deleted += gone or 0
            oldest_of[dev_id] = None if gone is None else self._next(dev_id, there[dev_id])
        if deleted:
            _log.info("retention: %s let go in the local Kinto", counted(deleted, "record"))
        return Kept(total - deleted, deleted, self._problem)

    def _next(self, dev_id: str, before: int) -> int | None:
        """The oldest record after a step; None where the step moved nothing."""
        oldest = self._local.oldest(dev_id)
        return None if oldest == before else oldest

    def _step(self, dev_id: str, oldest: int, target: int) -> int | None:
        """Lets a few hours go; returns how many records went, None where none may."""
        end = min(oldest + STEP_S, target) // HOUR_S * HOUR_S
        gone = 0
        try:
            if end <= oldest or not self._hub_has(dev_id, end):
                return None
            while True:
                deleted, complete = self._local.let_go(dev_id, end)
                gone += deleted
                if complete:
                    return gone
        except ReconcileError as error:
            self._problem = f"old records can't be deleted: {error}"
            return None

    def _hub_has(self, dev_id: str, end: int) -> bool:
        """Whether the hub has as many records before this time as would go, or let them go too."""
        if self._hub is None:
            return True
        floors = (self._local.floor(dev_id), self._hub.floor(dev_id))
        if floors[1] >= end:
            return True
        lacking = self._local.count_between(dev_id, max(floors), end) - self._hub.count_between(
            dev_id, max(floors), end
        )
        if lacking > 0:
            day = datetime.fromtimestamp(end, UTC)
            self._problem = (
                f"the hub lacks {counted(lacking, 'record')} of {dev_id} from before "
                f"{day:%Y-%m-%d %H:%M} UTC: they stay in the local Kinto until it has them"
            )
        return lacking <= 0
