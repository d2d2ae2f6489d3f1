"""Which devices a port carries, and how often each of them sends."""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from unisat_agent.serial.status import DeviceHeard

# Noise on the line may make up a devID now and then, for years.
MAX_DEVICES: Final = 64
_GAPS: Final = 9
_GAPS_MIN: Final = 2


@dataclass(slots=True)
class _Device:
    last_at: float
    packages: int = 0
    gaps: deque[float] = field(default_factory=lambda: deque(maxlen=_GAPS))


class DeviceLog:
    """The devIDs that one port gave; of too many, those that were heard least are forgotten."""

    def __init__(self) -> None:
        self._devices: dict[str, _Device] = {}

    def add(self, dev_id: str, now: float) -> None:
        """Notes a package."""
        device = self._devices.get(dev_id)
        if device is None:
            if len(self._devices) >= MAX_DEVICES:
                self._forget_one()
            device = self._devices[dev_id] = _Device(now)
        else:
            device.gaps.append(now - device.last_at)
        device.packages += 1
        device.last_at = now

    def _forget_one(self) -> None:
        least = min(self._devices.items(), key=lambda item: (item[1].packages, item[1].last_at))
        del self._devices[least[0]]

    def packages(self, dev_id: str) -> int:
        """How many packages of this device came."""
        device = self._devices.get(dev_id)
        return device.packages if device is not None else 0

    def names(self) -> frozenset[str]:
        """The devIDs."""
        return frozenset(self._devices)

    def facts(self, now: float) -> tuple[DeviceHeard, ...]:
        """The devices in the order in which they were first heard."""
        return tuple(
            DeviceHeard(dev_id, device.packages, now - device.last_at, _interval_s(device))
            for dev_id, device in self._devices.items()
        )


def _interval_s(device: _Device) -> float | None:
    # The median: a burst after a pause, or one long pause, is not how often the device sends.
    return statistics.median(device.gaps) if len(device.gaps) >= _GAPS_MIN else None
