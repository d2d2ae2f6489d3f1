"""When old records are let go: four times a day, in a thread of its own."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable

from unisat_agent.clock import Clock
from unisat_agent.config.model import Config
from unisat_agent.delivery.kinto import KintoClient, TransportError
from unisat_agent.delivery.reconciling import Reconciling, rest
from unisat_agent.delivery.retention import RECORD_BYTES, STEP_S, Kept, Retention
from unisat_agent.delivery.side import ReconcileError, Side

FIRST_S = 60.0
EVERY_S = float(STEP_S)
# After a Kinto refused: somebody may mend it soon, and health tells of it until the next look.
AGAIN_S = 900.0
POLL_S = 1.0

_log = logging.getLogger(__name__)


class Retaining:
    """Looks after the size of the local Kinto; `run` is the body of its thread.

    Args:
        config: What is to be kept.
        disk_bytes: The size of the disk that the records are on; 0 where it is not known.
        reconciling: Says what the hub has; None without a hub.
        clock: For the age of records, and for all waiting.
        stop: Set when the agent is to end.
    """

    def __init__(
        self,
        config: Config,
        disk_bytes: int,
        reconciling: Reconciling | None,
        clock: Clock,
        stop: threading.Event,
    ) -> None:
        self.kept: Kept | None = None
        """None before the first look."""
        self.deleted = 0
        """Since the start."""
        share = round(disk_bytes * config.keep_disk_percent / 100 / RECORD_BYTES)
        self.max_records = share or sys.maxsize
        self._config = config
        self._reconciling = reconciling
        self._clock = clock
        self._stop = stop
        self._due_at = clock.monotonic() + FIRST_S
        self._rested_at = 0.0
        self._beat: Callable[[], None] = lambda: None
        self._clients = [KintoClient(sink, clock.monotonic) for sink in config.sinks]

    @property
    def may_delete(self) -> bool:
        """Whether anything may go: what a hub has, or without one where the operator said so."""
        return self._config.hub is not None or self._config.delete_without_hub

    def run(self, beat: Callable[[], None]) -> None:
        """Works until the agent ends."""
        self._beat = beat
        while not self._stop.wait(POLL_S):
            beat()
            if self._clock.monotonic() >= self._due_at:
                wait_s = EVERY_S if self.turn() else AGAIN_S
                self._due_at = self._clock.monotonic() + wait_s

    def turn(self) -> bool:
        """Lets go what may go now; returns whether nothing was in the way."""
        sides = [Side(client, self._rest) for client in self._clients]
        hub = sides[1] if len(sides) > 1 else None
        retention = Retention(sides[0], hub, self._config.keep_days, self.max_records)
        self._rested_at = self._clock.monotonic()
        try:
            self.kept = retention.run(self._now_s(), self._until_s(), self._go_on)
            self.deleted += self.kept.deleted
        except TransportError as error:
            _log.debug("retention: %s", error)
        except ReconcileError as error:
            self.kept = Kept(problem=f"old records can't be deleted: {error}")
        else:
            return not self.kept.problem
        finally:
            for client in self._clients:
                client.close()
        return False

    def abort(self) -> None:
        """Ends a request in flight; called by another thread when the agent ends."""
        for client in self._clients:
            client.abort()

    def _until_s(self) -> int:
        """What is younger may not go; 0 while nothing may."""
        if not self.may_delete or not self._clock.synchronised():
            return 0
        if self._reconciling is None:
            return self._now_s()
        return self._reconciling.verified_until_s

    def _now_s(self) -> int:
        return self._clock.wall_ms() // 1000

    def _go_on(self) -> bool:
        return not self._stop.is_set()

    def _rest(self) -> None:
        """Between two requests.

        Raises:
            TransportError: The agent ends.
        """
        self._beat()
        self._rested_at = rest(self._clock, self._stop, self._rested_at)
