"""How a sink stands: delivering, backing off or paused, and what the operator is told of it."""

from __future__ import annotations

import logging
import random
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from unisat_agent.config.model import SinkSettings
from unisat_agent.delivery.backoff import Backoff, Monotonic, Pauses
from unisat_agent.troubles import Troubles

# The whole account, beside single devices.
_ACCOUNT = ""

_log = logging.getLogger(__name__)


class SinkState(StrEnum):
    """What a sink is doing, for the operator."""

    STARTING = "starting"
    DELIVERING = "delivering"
    BACKING_OFF = "backing_off"
    PAUSED = "paused"


@dataclass(slots=True)
class Figures:
    """What a courier has done since it started, for metrics and status."""

    acked: int = 0
    retries: int = 0
    batches: int = 0
    last_ack: float | None = None
    """Monotonic seconds."""


class Standing:
    """What the answers of one sink add up to.

    Args:
        settings: The sink.
        monotonic: Seconds that never jump.
        rng: For the jitter of the back-off.
    """

    def __init__(self, settings: SinkSettings, monotonic: Monotonic, rng: random.Random) -> None:
        self.name = settings.name
        self.figures = Figures()
        self.notices = Troubles(_log, monotonic)
        self.state = SinkState.STARTING
        self.proven = False
        """Whether the account was accepted, and nothing failed since."""
        self.backoff = Backoff(monotonic, rng)
        self.pauses = Pauses(monotonic)
        # What happened before the agent started is not known either.
        self.was_away = True
        """Whether it was out of reach, or refused the account, since this was last set to False."""
        self._settings = settings
        self._monotonic = monotonic
        self._taken: set[str] = set()
        """The devices that the sink took a record of."""

    def accept_account(self) -> None:
        """The sink knows the account."""
        self.proven = True
        self.notices.over("all", f"{self.name}: the account is accepted")

    def answered(self) -> None:
        """The sink is there and speaks Kinto."""
        self.notices.over("away", f"{self.name}: is back")
        if self.backoff.succeed():
            self.was_away = True
        if self.state is not SinkState.PAUSED:
            self.state = SinkState.DELIVERING

    def accepted(self, dev_id: str, count: int, waiting: Collection[str]) -> None:
        """The sink took records of this device; others may still be refused.

        Args:
            dev_id: The device.
            count: How many records.
            waiting: The devices of which records wait, where any device is paused.
        """
        self.figures.acked += count
        self.figures.last_ack = self._monotonic()
        self._taken.add(dev_id)
        self.pauses.end(_ACCOUNT)
        self.notices.over(f"refused {dev_id}", f"{self.name}: takes records of {dev_id}")
        # Those that have no rows any more were accepted, or evicted, too.
        for name in {dev_id, *(name for name in self.pauses if name not in waiting)}:
            if self.pauses.end(name):
                self.notices.over(name, f"{self.name}: {name} is accepted")
        self._show_pauses()

    def fail(self, reason: str, wait_s: float | None = None) -> float:
        """Back-off: exponential with full jitter, or as long as the server asked for."""
        self.proven = False
        self.figures.retries += 1
        self.state = SinkState.BACKING_OFF
        self.notices.trouble("away", f"{self.name}: {reason}")
        return self.backoff.fail(wait_s)

    def pause(self, dev_id: str, reason: str) -> float:
        """One collection is refused: its rows stay, the others go on."""
        self.pauses.pause(dev_id)
        self.notices.trouble(dev_id, f"{self.name}: {reason}")
        self._show_pauses()
        return 0.0

    def deny(self, dev_id: str, reason: str) -> float:
        """403 for one collection."""
        return self.pause(
            dev_id, f"the account may not write {self._settings.bucket}/{dev_id}: {reason}"
        )

    def deny_account(self, reason: str) -> float:
        """401, or 403 for everything: the sink rests, the rows stay."""
        self.answered()
        self.proven = False
        self.state = SinkState.PAUSED
        self.was_away = True
        self.notices.trouble(
            "all",
            f"{self.name}: {self._settings.url} refuses the account "
            f"{self._settings.user}: {reason}: correct user or password",
        )
        return self.backoff.wait(self.pauses.pause(_ACCOUNT))

    def _show_pauses(self) -> None:
        """Paused is a sink that takes nothing; with one device refused of many it delivers."""
        paused = set(self.pauses)
        nothing_taken = self._taken <= paused
        self.state = SinkState.PAUSED if paused and nothing_taken else SinkState.DELIVERING
