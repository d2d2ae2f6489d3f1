"""What a protocol's decoder gives: packages and rejected lines, the same whatever the protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

Value = bool | int | float


@dataclass(frozen=True, slots=True)
class Package:
    """One frame of one device.

    Attributes:
        dev_id: The device's network-wide name.
        fields: Field name to value, in the order sent; known measurements are doubles.
        groups: subID to the names of the fields sent under it.
        missing: The required fields that were not in the package.
        checked: Whether the package came with a checksum, which matched.
    """

    dev_id: str
    fields: Mapping[str, Value]
    groups: Mapping[str, tuple[str, ...]]
    missing: tuple[str, ...]
    checked: bool = False


@dataclass(frozen=True, slots=True)
class Rejected:
    """Bytes that cost a line (or a whole package) and go to quarantine.

    Attributes:
        reason: Why; also the label of the counter.
        raw: The line without its newline, or the lines of the dropped package; bounded.
    """

    reason: str
    raw: bytes


Event = Package | Rejected


class Decoder(Protocol):
    """Turns the byte stream of one port into events; never raises, holds a bounded amount."""

    @property
    def in_package(self) -> bool:
        """Whether bytes of a package are in hand."""

    def feed(self, data: bytes) -> list[Event]:
        """Takes the next bytes, cut anywhere; returns what they completed, in order."""

    def end(self) -> list[Event]:
        """Ends the package in hand: the device fell silent or was unplugged."""
