"""How often each device usually sends: learned, and kept in the spool over a restart.

A board that sends once an hour would else count as missing for an hour after each start.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from unisat_agent.delivery.backoff import Monotonic
from unisat_agent.errors import SpoolCorruptError, SpoolError
from unisat_agent.serial.devices import MAX_DEVICES
from unisat_agent.serial.status import DeviceHeard
from unisat_agent.spool.queue import Spool

NOTE: Final = "device.intervals"
# The card is spared: it is written so often at most, and only for a change by so much.
SAVE_S: Final = 60.0
CHANGE: Final = 0.2


class Intervals:
    """What was learned; one thread learns, any thread may ask.

    Args:
        spool: Where it is kept.
        monotonic: Seconds that never jump.

    Raises:
        SpoolError: It can't be read.
    """

    def __init__(self, spool: Spool, monotonic: Monotonic) -> None:
        self._spool = spool
        self._monotonic = monotonic
        self._save_at = monotonic()
        self._saved = _read(spool.note(NOTE))
        self._known = dict(self._saved)

    def usual(self) -> Mapping[str, float]:
        """The seconds between a device's packages, by devID."""
        return dict(self._known)

    def filled(self, devices: Iterable[DeviceHeard]) -> tuple[DeviceHeard, ...]:
        """The devices, with what was known before the start where it is not learned anew yet."""
        return tuple(
            replace(device, interval_s=device.interval_s or self._known.get(device.dev_id))
            for device in devices
        )

    def learn(self, devices: Iterable[DeviceHeard]) -> None:
        """Takes what the ports tell, and writes it down where it changed.

        Raises:
            SpoolCorruptError: The spool is damaged.
        """
        for device in devices:
            if device.interval_s:
                # The latest to the end: of too many, the first is forgotten.
                self._known.pop(device.dev_id, None)
                self._known[device.dev_id] = round(device.interval_s, 1)
        while len(self._known) > MAX_DEVICES:
            del self._known[next(iter(self._known))]
        if self._monotonic() >= self._save_at and self._changed():
            self._save_at = self._monotonic() + SAVE_S
            self._save()

    def _changed(self) -> bool:
        return self._known.keys() != self._saved.keys() or any(
            abs(interval_s - self._saved[dev_id]) > CHANGE * self._saved[dev_id]
            for dev_id, interval_s in self._known.items()
        )

    def _save(self) -> None:
        try:
            self._spool.set_note(NOTE, json.dumps(self._known))
        except SpoolCorruptError:
            raise
        except SpoolError:
            # Such as a full disk, which others tell; it is tried again.
            return
        self._saved = dict(self._known)


def _read(text: str | None) -> dict[str, float]:
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        found = json.loads(text or "{}")
        return {str(dev_id): float(interval_s) for dev_id, interval_s in found.items()}
    return {}
