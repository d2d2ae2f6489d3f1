"""The serial ports that exist on this host."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from serial.tools.list_ports import comports


@dataclass(frozen=True, slots=True)
class PortInfo:
    """A port that exists.

    Attributes:
        name: The most stable name that it has.
        device: The device node behind the name.
        description: What the device says of itself; empty when it says nothing.
    """

    name: str
    device: str
    description: str

    def __str__(self) -> str:
        return f"{self.name} ({self.description})" if self.description else self.name


def find(candidates: Iterable[str]) -> list[str]:
    """Names of existing ports that match the patterns, one name for each device.

    Args:
        candidates: File name patterns; the earlier one names a device that several match.
    """
    names: dict[str, str] = {}
    for pattern in candidates:
        # PTH207: Path.glob takes no absolute pattern.
        for name in sorted(glob.glob(pattern)):  # noqa: PTH207
            if Path(name).exists():
                names.setdefault(os.path.realpath(name), name)
    return list(names.values())


def list_ports(candidates: Iterable[str]) -> list[PortInfo]:
    """Every port an operator may want to name: the candidates, then what else the system knows."""
    known = {port.device: port for port in comports()}
    names = {os.path.realpath(name): name for name in find(candidates)}
    for device in sorted(known):
        names.setdefault(os.path.realpath(device), device)
    return [
        PortInfo(name, device, _description(known[device].description) if device in known else "")
        for device, name in names.items()
    ]


def _description(text: str | None) -> str:
    return "" if text in {None, "n/a"} else str(text)
