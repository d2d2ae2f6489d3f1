"""What a reader knows of its ports, as one frozen snapshot: facts, from which health is judged."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum


class State(Enum):
    """What a reader is doing."""

    WAITING = "waiting"
    DETECTING = "detecting"
    READING = "reading"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class DeviceHeard:
    """One devID on one port.

    Attributes:
        dev_id: The devID.
        packages: How many packages of it came.
        age_s: Seconds since the last one.
        interval_s: Usual seconds between two of them; None before that can be told.
    """

    dev_id: str
    packages: int
    age_s: float
    interval_s: float | None = None


@dataclass(frozen=True, slots=True)
class Unread:
    """What came since the last complete package, or since the port was opened.

    Attributes:
        bytes: How many bytes.
        line_ends: How many of them were carriage returns or newlines.
        non_text: How many of them stand in no line of text: the mark of a wrong baud.
    """

    bytes: int = 0
    line_ends: int = 0
    non_text: int = 0


@dataclass(frozen=True, slots=True)
class PortHeard:
    """One open port.

    Attributes:
        name: The name that it was opened by.
        device: The device node behind the name, or the address.
        adopted: Whether its packages are stored; else it is only listened to.
        open_s: Seconds since it was opened.
        bytes: Received in all.
        byte_age_s: Seconds since the last byte; None before the first.
        package_age_s: Seconds since the last complete package; None before the first.
        unread: What came since then.
        devices: The devIDs that it gave.
    """

    name: str
    device: str
    adopted: bool
    open_s: float
    bytes: int = 0
    byte_age_s: float | None = None
    package_age_s: float | None = None
    unread: Unread = Unread()
    devices: tuple[DeviceHeard, ...] = ()


@dataclass(frozen=True, slots=True)
class PortStatus:
    """A reader as the operator sees it.

    Attributes:
        name: The configured name.
        state: What the reader is doing.
        device: The device node that is open or was open last; None before the first.
        detail: One sentence: why it waits, what it hears.
        bytes: Received so far.
        reconnects: How often a port was opened again.
        ports: The ports that are open: one, or with "auto" as many as are read or listened to.
        devices: The devices that were heard, also on ports that are closed by now.
    """

    name: str
    state: State = State.WAITING
    device: str | None = None
    detail: str = ""
    bytes: int = 0
    reconnects: int = 0
    ports: tuple[PortHeard, ...] = ()
    devices: tuple[DeviceHeard, ...] = ()


def merged(devices: Iterable[DeviceHeard]) -> tuple[DeviceHeard, ...]:
    """One entry for each devID: of several, the one that was heard last, with all packages."""
    found: dict[str, DeviceHeard] = {}
    for device in devices:
        other = found.get(device.dev_id)
        if other is not None:
            latest = min(device, other, key=lambda one: one.age_s)
            found[device.dev_id] = replace(latest, packages=device.packages + other.packages)
        else:
            found[device.dev_id] = device
    return tuple(found.values())
