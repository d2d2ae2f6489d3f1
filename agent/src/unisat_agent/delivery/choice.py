"""What goes out next: live records of any device, a suspect, or a part of the backlog."""

from __future__ import annotations

from unisat_agent.delivery.backoff import Monotonic, Pauses
from unisat_agent.delivery.suspects import MAX_ROWS, Batch, Suspects
from unisat_agent.spool.queue import Hold, Spool, Waiting

# After so long a sink that took only small batches is offered large ones again.
LIMIT_S = 3600.0
# Every so many batches the devices' turns are kept, so that a device with a backlog alone is not
# forgotten where live records never cease.
_TURN_EVERY = 4
# So many batches of the queue may fail one after another before a suspect is tried.
_FRESH_IN_A_ROW = 3


class Choice:
    """Chooses the batches of one sink.

    Args:
        spool: Where the rows are.
        sink: The sink's name.
        suspects: The batches that are set aside.
        pauses: The devices that are not to be asked for.
        monotonic: Seconds that never jump.
    """

    def __init__(
        self, spool: Spool, sink: str, suspects: Suspects, pauses: Pauses, monotonic: Monotonic
    ) -> None:
        self._spool = spool
        self._sink = sink
        self._suspects = suspects
        self._pauses = pauses
        self._monotonic = monotonic
        self._limit: int | None = None
        self._limit_until = 0.0
        self._ceiling: int | None = None
        """How far a limit that came of time-outs rises again."""
        self._risen = False
        self._count = 0
        self._turn = 0
        self._accepted_then = 0
        self._fresh_in_a_row = 0

    def too_large(self, size: int) -> None:
        """The sink does not take so many rows at a time."""
        self._limit = max(1, size // 2)
        self._limit_until = self._monotonic() + LIMIT_S
        self._ceiling = None

    def late(self, batch: Batch) -> None:
        """No answer in time: when that happens again half of it goes out, or it would never end.

        The other half stays in the spool. What the sink has of both, it knows by the ids.
        """
        size = len(batch.waiting)
        if batch.single or not batch.attempts:
            return
        # A sink that hangs answers none, however few: only when it answers sizes say something.
        ceiling = None if self._risen else self._ceiling
        self.too_large(size)
        self._ceiling, self._risen = ceiling or self._limit, False
        batch.waiting, batch.attempts = batch.waiting[: size // 2], 0

    def in_time(self) -> None:
        """The sink took a batch: after time-outs the next one may be larger."""
        if self._limit and self._ceiling:
            self._risen = True
            self._limit = min(2 * self._limit, self._ceiling)

    def any_size(self) -> None:
        """It was not the size."""
        self._limit = None

    def next(self, most: int, hold: Hold | None) -> Batch | None:
        """The next batch of at most `most` rows; None when nothing is to be sent now.

        A suspect has its turn after each batch that was accepted. Where nothing is accepted the
        queue goes first, since its live records show best whether the sink takes any.
        """
        accepted = self._suspects.total_accepted
        if accepted > self._accepted_then or self._fresh_in_a_row >= _FRESH_IN_A_ROW:
            self._accepted_then, self._fresh_in_a_row = accepted, 0
            if (batch := self._suspect()) is not None:
                return batch
        self._fresh_in_a_row += 1
        return self._fresh(most, hold) or self._suspect()

    def _suspect(self) -> Batch | None:
        return self._suspects.take({name for name in self._pauses if self._pauses.rests(name)})

    def _fresh(self, most: int, hold: Hold | None) -> Batch | None:
        if self._limit_until <= self._monotonic():
            self._limit = None
        limit = min(most, self._limit or most)
        for dev_id in self._devices():
            if waiting := self._take(dev_id, limit, hold):
                return Batch(dev_id, waiting)
        return None

    def _devices(self) -> list[str]:
        """The devices that have rows, in the order in which they are to be served."""
        waiting = [
            dev_id
            for dev_id in self._spool.devices_waiting(self._sink)
            if not self._pauses.rests(dev_id)
        ]
        if not waiting:
            return []
        start = self._turn % len(waiting)
        turns = waiting[start:] + waiting[:start]
        self._count += 1
        if self._count % _TURN_EVERY == 0:
            self._turn += 1
            return turns
        live = [dev_id for dev_id in self._spool.devices_live(self._sink) if dev_id in turns]
        return live + [dev_id for dev_id in turns if dev_id not in live]

    def _take(self, dev_id: str, limit: int, hold: Hold | None) -> list[Waiting]:
        aside = self._suspects.rows(dev_id)
        if len(aside) >= MAX_ROWS:
            return []
        if aside and self._suspects.unproven(dev_id):
            # One record shows as well whether the device is accepted, and costs less.
            limit = 1
        found = self._spool.take(self._sink, dev_id, limit + len(aside), hold)
        ids = set()
        waiting = []
        for one in found:
            # The same record twice, as after a restored backup: one at a time.
            if one.row.seq not in aside and one.row.record_id not in ids:
                ids.add(one.row.record_id)
                waiting.append(one)
        # The youngest, and the oldest.
        young = -(-limit // 5)
        return waiting if len(waiting) <= limit else waiting[: limit - young] + waiting[-young:]
