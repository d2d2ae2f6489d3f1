"""PSoTT, the serial protocol of UniSat devices: bytes in, packages and rejected lines out.

A package is a run of ``name=value`` lines that a ``devID`` line opens and a blank line closes::

    devID=u01kz
    subID=meteo
    temperature=39.4

Right of the ``=`` stands a boolean, an integer or a double. Nothing here knows of ports, clocks or
threads. The decoder never raises, holds a bounded number of bytes, and gives the same events
however the stream is cut into chunks.

PSoTT has no checksum: a digit lost on the wire leaves a well-formed, wrong number, which no
decoder can see.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

MAX_LINE_BYTES: Final = 256
MAX_RAW_BYTES: Final = 1024
MAX_FIELDS: Final = 256
# The largest integer that every JSON reader (JavaScript's among them) keeps exact.
MAX_INTEGER: Final = 2**53

REQUIRED: Final = ("temperature", "humidity", "pressure", "pm25")
# Readers of the records expect doubles for these, whatever the device printed.
MEASUREMENTS: Final = frozenset({*REQUIRED, "pm10", "lat", "long", "alt"})
# A record is flat: the names that the publisher and Kinto put into it are not a device's to use.
RESERVED: Final = frozenset(
    {
        "id", "devID", "timestamp", "received_at", "clock", "epoch", "seq", "boot_id", "uptime",
        "groups", "missing", "last_modified", "schema", "deleted",
    }
)  # fmt: skip

_BLANKS: Final = b" \t\r"
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_ID: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
# Python's own int() and float() also take 1_000, infinity and digits of other scripts.
_INTEGER: Final = re.compile(r"[+-]?[0-9]+")
_DOUBLE: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_DEV_ID_INSIDE: Final = re.compile(rb"devID[ \t]*=")

Value = bool | int | float


class Reason(StrEnum):
    """Why bytes were not taken; also the label of the counter and of the quarantine."""

    NO_EQUALS = "no_equals"
    BAD_NAME = "bad_name"
    RESERVED_NAME = "reserved_name"
    BAD_VALUE = "bad_value"
    NOT_ASCII = "not_ascii"
    CONTROL_BYTE = "control_byte"
    TOO_LONG = "too_long"
    DUPLICATE = "duplicate"
    TOO_MANY_FIELDS = "too_many_fields"
    NO_DEV_ID = "no_dev_id"
    UNTERMINATED = "unterminated"
    NO_FIELDS = "no_fields"
    BAD_DEV_ID = "bad_dev_id"
    BAD_SUB_ID = "bad_sub_id"


@dataclass(frozen=True, slots=True)
class Package:
    """One PSoTT frame of one device.

    Attributes:
        dev_id: The device's network-wide name.
        fields: Field name to value, in the order sent; known measurements are doubles.
        groups: subID to the names of the fields sent under it.
        missing: The required fields that were not in the package, in the order of REQUIRED.
    """

    dev_id: str
    fields: Mapping[str, Value]
    groups: Mapping[str, tuple[str, ...]]
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rejected:
    """Bytes that cost a line (or a whole package) and go to quarantine.

    Attributes:
        reason: Why.
        raw: The line without its newline, or the lines of the dropped package; at most
            MAX_RAW_BYTES.
    """

    reason: Reason
    raw: bytes


Event = Package | Rejected


@dataclass(slots=True)
class _Open:
    """The package in hand; without a dev_id it is a fragment."""

    dev_id: str | None = None
    group: str | None = None
    fields: dict[str, Value] = field(default_factory=dict)
    groups: dict[str, list[str]] = field(default_factory=dict)
    raw: bytearray = field(default_factory=bytearray)

    def keep(self, line: bytes) -> None:
        if self.raw:
            self.raw += b"\n"
        self.raw += line
        del self.raw[MAX_RAW_BYTES:]


def is_identifier(text: str) -> bool:
    """Whether the text may stand as a devID or subID."""
    return _ID.fullmatch(text) is not None


class Decoder:
    """Turns the byte stream of one port into events."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._open = _Open()

    @property
    def in_package(self) -> bool:
        """Whether bytes of a package are in hand."""
        return bool(self._open.raw or self._line.strip(_BLANKS))

    def feed(self, data: bytes) -> list[Event]:
        """Takes the next bytes, cut anywhere.

        Args:
            data: What the port gave.

        Returns:
            The packages and rejected lines that these bytes completed, in order.
        """
        events: list[Event] = []
        first, *others = data.split(b"\n")
        self._append(first)
        for following in others:
            self._take_line(bytes(self._line), events)
            self._line.clear()
            self._append(following)
        return events

    def end(self) -> list[Event]:
        """Ends the package in hand: the device fell silent or was unplugged.

        A half line is never a value, for a digit may be missing.

        Returns:
            The half line, rejected, and the package made of the whole lines before it.
        """
        events: list[Event] = []
        if self._line.strip(_BLANKS):
            events.append(Rejected(Reason.UNTERMINATED, bytes(self._line)))
        self._line.clear()
        self._close(events)
        return events

    def _append(self, data: bytes) -> None:
        # Longer than MAX_LINE_BYTES is enough to know that the line is bad; more is kept only for
        # the quarantine.
        self._line += data[: MAX_RAW_BYTES - len(self._line)]

    def _take_line(self, raw: bytes, events: list[Event]) -> None:
        text = raw.strip(_BLANKS)
        if not text and len(raw) <= MAX_LINE_BYTES:
            self._close(events)
            return
        reason = _damage(raw)
        if reason is None:
            name, _, value = (part.strip(" \t") for part in text.decode("ascii").partition("="))
            if name == "devID":
                reason = self._start(value, raw, events)
            elif name == "subID":
                reason = self._group(value, raw)
            else:
                reason = self._field(name, value, raw)
        if reason is None:
            return
        if _DEV_ID_INSIDE.search(text):
            # Whose fields follow is not known any more. Better a dropped fragment than values
            # under the name of the device before.
            self._close(events)
        events.append(Rejected(reason, raw))

    def _start(self, dev_id: str, raw: bytes, events: list[Event]) -> Reason | None:
        if not is_identifier(dev_id):
            return Reason.BAD_DEV_ID
        self._close(events)
        self._open.dev_id = dev_id
        self._open.keep(raw)
        return None

    def _group(self, sub_id: str, raw: bytes) -> Reason | None:
        if not is_identifier(sub_id):
            self._open.group = None
            return Reason.BAD_SUB_ID
        self._open.group = sub_id
        self._open.keep(raw)
        return None

    def _field(self, name: str, text: str, raw: bytes) -> Reason | None:
        package = self._open
        if not _NAME.fullmatch(name):
            return Reason.BAD_NAME
        if name in RESERVED:
            return Reason.RESERVED_NAME
        value = _value(name, text)
        if value is None:
            return Reason.BAD_VALUE
        if name in package.fields:
            return Reason.DUPLICATE
        if len(package.fields) == MAX_FIELDS:
            return Reason.TOO_MANY_FIELDS
        package.keep(raw)
        if package.dev_id is not None:
            package.fields[name] = value
            if package.group is not None:
                package.groups.setdefault(package.group, []).append(name)
        return None

    def _close(self, events: list[Event]) -> None:
        package, self._open = self._open, _Open()
        if package.dev_id is not None and package.fields:
            events.append(
                Package(
                    dev_id=package.dev_id,
                    fields=package.fields,
                    groups={group: tuple(names) for group, names in package.groups.items()},
                    missing=tuple(name for name in REQUIRED if name not in package.fields),
                )
            )
        elif package.raw:
            reason = Reason.NO_DEV_ID if package.dev_id is None else Reason.NO_FIELDS
            events.append(Rejected(reason, bytes(package.raw)))


def _damage(raw: bytes) -> Reason | None:
    """Says what is wrong with a line before its meaning is looked at."""
    if len(raw) > MAX_LINE_BYTES:
        return Reason.TOO_LONG
    if not raw.isascii():
        return Reason.NOT_ASCII
    if _CONTROL.search(raw.strip(_BLANKS)):
        return Reason.CONTROL_BYTE
    return None if b"=" in raw else Reason.NO_EQUALS


def _value(name: str, text: str) -> Value | None:
    """Reads the right-hand side; None where it is no value for this name."""
    if name in MEASUREMENTS or not _INTEGER.fullmatch(text):
        if text.lower() in {"true", "false"} and name not in MEASUREMENTS:
            return text.lower() == "true"
        number = float(text) if _DOUBLE.fullmatch(text) else math.nan
        return number if math.isfinite(number) else None
    integer = int(text)
    return integer if abs(integer) <= MAX_INTEGER else None
