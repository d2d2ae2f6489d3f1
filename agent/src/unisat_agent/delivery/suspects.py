"""Batches that a sink refused, kept apart from the queue until it shows whose fault it is.

A refusal says nothing by itself: a full disk, a proxy or a maintenance page refuse everything. What
counts is a neighbour, another record of the same device that is accepted in between. So a batch is
halved down to the one record that is refused again and again while its neighbours pass. Without a
neighbour nothing is given up, ever; and no other record waits for a batch that is set aside.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from unisat_agent.delivery.backoff import BACKOFF_FIRST_S, BACKOFF_MAX_S, PAUSE_MAX_S, Monotonic
from unisat_agent.spool.queue import Waiting

# So often a single record has to be refused with a neighbour accepted in between.
PROOFS = 2
PROOFS_OF_SERVER_ERROR = 3
# A server error is asked for again so often before the batch is halved.
SERVER_ERRORS = 3
# Rows of one device that are set aside at most: there is never more than one batch and its halves,
# unless many records are refused each for its own sake.
MAX_ROWS = 2000
# Refusals in a row, with nothing accepted, that are not waited after: the depth of a search.
_QUICK = 12


@dataclass(slots=True)
class Batch:
    """Rows of one device that go out together."""

    dev_id: str
    waiting: list[Waiting]
    attempts: int = 0
    """How often its outcome was unknown."""
    suspect: bool = False
    refusals: int = 0
    proofs: int = 0
    """Refusals since which a neighbour was accepted, and that came again."""
    accepted_then: int = 0
    """How many rows of the device were accepted when it was refused last."""
    passed_then: int = 0
    """Likewise, of all devices."""
    due: float = 0.0
    server_error: bool = False

    @property
    def single(self) -> bool:
        """Whether it is one record."""
        return len(self.waiting) == 1

    def parts(self, size: int) -> list[Batch]:
        """The batch in parts of at most `size` rows, each with what is known of the whole."""
        return [
            Batch(
                self.dev_id,
                self.waiting[start : start + size],
                suspect=True,
                refusals=self.refusals,
                accepted_then=self.accepted_then,
                passed_then=self.passed_then,
                server_error=self.server_error,
            )
            for start in range(0, len(self.waiting), size)
        ]


class Suspects:
    """The batches that are set aside.

    Args:
        monotonic: Seconds that never jump.
    """

    def __init__(self, monotonic: Monotonic) -> None:
        self._monotonic = monotonic
        self._batches: list[Batch] = []
        self._accepted: Counter[str] = Counter()
        self._in_a_row = 0

    def accepted(self, dev_id: str, rows: int) -> None:
        """So many rows of the device were accepted: its suspects are worth another try."""
        self._accepted[dev_id] += rows
        self._in_a_row = 0
        for batch in self._batches:
            if batch.dev_id == dev_id and not batch.server_error:
                batch.due = 0.0

    def others_pass(self, batch: Batch) -> bool:
        """Whether the sink took any other record since it refused this batch."""
        return batch.suspect and self.total_accepted > batch.passed_then

    @property
    def total_accepted(self) -> int:
        """How many rows the sink took since the agent started."""
        return self._accepted.total()

    def rows(self, dev_id: str) -> set[int]:
        """The numbers of the device's rows that are set aside."""
        return {
            waiting.row.seq
            for batch in self._batches
            if batch.dev_id == dev_id
            for waiting in batch.waiting
        }

    def unproven(self, dev_id: str) -> bool:
        """Whether a batch of the device is set aside, and no neighbour was accepted since."""
        return any(
            batch.dev_id == dev_id and self._accepted[dev_id] == batch.accepted_then
            for batch in self._batches
        )

    def take(self, resting: set[str]) -> Batch | None:
        """The suspect that is due first, of devices that do not rest; it is no longer set aside."""
        now = self._monotonic()
        due = [b for b in self._batches if b.due <= now and b.dev_id not in resting]
        if not due:
            return None
        batch = min(due, key=lambda batch: (batch.due, len(batch.waiting)))
        self._batches.remove(batch)
        return batch

    def refused(self, batch: Batch, wait_s: float | None, *, server_error: bool) -> bool:
        """Sets a batch aside that was refused as a whole, in halves if it can be halved.

        Args:
            batch: What was refused.
            wait_s: How long the sink asked to wait.
            server_error: Whether it was a 5xx, or no answer at all.

        Returns:
            False where it is proven that this one record is the cause: it is not set aside.
        """
        accepted = self._accepted[batch.dev_id]
        if batch.suspect and accepted > batch.accepted_then:
            batch.proofs += 1
        batch.suspect = True
        batch.refusals += 1
        self._remember(batch)
        batch.server_error = server_error
        if batch.single and batch.proofs >= (PROOFS_OF_SERVER_ERROR if server_error else PROOFS):
            return False
        self._in_a_row += 1
        halved = not batch.single and (not server_error or batch.refusals >= SERVER_ERRORS)
        parts = batch.parts(-(-len(batch.waiting) // 2)) if halved else [batch]
        for part in parts:
            part.due = self._monotonic() + self._rest_s(part, wait_s, halved)
        self._batches += parts
        return True

    def set_aside(self, batch: Batch) -> None:
        """Sets a batch aside that is worth another try at once."""
        batch.suspect = True
        self._remember(batch)
        self._batches.append(batch)

    def _remember(self, batch: Batch) -> None:
        batch.accepted_then = self._accepted[batch.dev_id]
        batch.passed_then = self.total_accepted

    def _rest_s(self, batch: Batch, wait_s: float | None, halved: bool) -> float:
        if batch.server_error:
            if halved:
                return max(wait_s or 0.0, BACKOFF_FIRST_S)
            doubled = BACKOFF_FIRST_S * 2.0 ** min(batch.refusals - 1, 10)
            return max(wait_s or 0.0, min(doubled, BACKOFF_MAX_S))
        if halved and self._in_a_row <= _QUICK:
            return 0.0
        # With the next neighbour that is accepted it is tried at once.
        return float(min(2.0 ** min(batch.refusals, 10), PAUSE_MAX_S))
