"""Dead letters of server errors go back by themselves: the server may be cured meanwhile."""

from __future__ import annotations

from unisat_agent.delivery.backoff import Monotonic
from unisat_agent.delivery.outcomes import SERVER_ERROR
from unisat_agent.spool.queue import Spool

# So often, so many at a time.
REVIVE_S = 3600.0
REVIVE_MAX = 25


class Revival:
    """Puts them back now and then.

    Args:
        spool: Where they are.
        sink: Whose.
        monotonic: Seconds that never jump.
    """

    def __init__(self, spool: Spool, sink: str, monotonic: Monotonic) -> None:
        self._spool = spool
        self._sink = sink
        self._monotonic = monotonic
        self._due_at = monotonic() + REVIVE_S
        self._last: int | None = None

    def turn(self) -> None:
        """Some of them wait for delivery again, where their time has come."""
        now = self._monotonic()
        if now < self._due_at:
            return
        self._due_at = now + REVIVE_S
        seqs = self._spool.revive(self._sink, SERVER_ERROR, self._last, REVIVE_MAX)
        # From the start again after the last one, so that each of them has its turn.
        self._last = seqs[-1] if len(seqs) == REVIVE_MAX else None
