"""PSoTT, the serial protocol of UniSat devices: bytes in, packages and rejected lines out.

A package is a run of ``name=value`` lines that a ``devID`` line opens and a blank line closes::

    devID=u01kz
    subID=meteo
    temperature=39.4

Right of the ``=`` stands a boolean, an integer or a double. Nothing here knows of ports, clocks or
threads. The decoder never raises, holds a bounded number of bytes, and gives the same events
however the stream is cut into chunks.

Without a checksum, a digit lost on the wire leaves a well-formed, wrong number, which no decoder
can see. A device may therefore end a package with ``crc=`` and four hexadecimal digits:
CRC-16/CCITT-FALSE over the bytes from ``devID`` up to the end of the line before, line ends
included.
"""

from __future__ import annotations

import binascii
import math
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from unisat_agent.protocols.events import Event, Package, Rejected, Value

MAX_LINE_BYTES: Final = 256
MAX_RAW_BYTES: Final = 1024
MAX_STRAY_BYTES: Final = 64
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
# What a BREAK, a floating line or an RS-485 adapter that turns round leaves before the first byte
# of a line. A carriage return is among them for line ends of the form \n\r.
_STRAY: Final = bytes({*range(0x20), 0x7F, *range(0x80, 0x100)} - {*b"\t\n"})
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_ID: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
# Python's own int() and float() also take 1_000, infinity and digits of other scripts.
_INTEGER: Final = re.compile(r"[+-]?[0-9]+")
_DOUBLE: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_CRC: Final = re.compile(r"[0-9A-Fa-f]{4}")
_ASSIGNMENT: Final = re.compile(rb"[ \t]*[A-Za-z][A-Za-z0-9_]*[ \t]*=[ \t]*[^ \t=]+[ \t]*")
_LINE_END: Final = re.compile(rb"[\r\n]")
_DEV_ID_INSIDE: Final = re.compile(rb"devID[ \t]*=")


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
    BAD_CRC = "bad_crc"
    AFTER_CRC = "after_crc"


@dataclass(slots=True)
class _Open:
    """The package in hand; without a dev_id it is a fragment."""

    dev_id: str | None = None
    group: str | None = None
    fields: dict[str, Value] = field(default_factory=dict)
    groups: dict[str, list[str]] = field(default_factory=dict)
    raw: bytearray = field(default_factory=bytearray)
    crc: int = field(default_factory=lambda: crc_of(b""))
    intact: bool | None = None
    """Whether the checksum matched; None before its line has come."""

    def keep(self, line: bytes) -> None:
        if self.raw:
            self.raw += b"\n"
        self.raw += line
        del self.raw[MAX_RAW_BYTES:]

    def cover(self, sent: bytes) -> None:
        """Adds bytes to the checksum, once there is a devID."""
        if self.dev_id is not None:
            self.crc = crc_of(sent, self.crc)


def is_identifier(text: str) -> bool:
    """Whether the text may stand as a devID or subID."""
    return _ID.fullmatch(text) is not None


def crc_of(data: bytes, crc: int = 0xFFFF) -> int:
    """CRC-16/CCITT-FALSE, also called CRC-16/IBM-3740; `crc` continues an earlier result."""
    return binascii.crc_hqx(data, crc)


class Decoder:
    r"""Turns the byte stream of one port into events.

    Lines end in ``\n``, with any carriage returns before it belonging to the line end. A device
    that never sends ``\n`` is recognised by two assignments that only carriage returns separate;
    from then on each ``\r`` ends a line, until a ``\n`` comes again.
    """

    def __init__(self) -> None:
        self._line = bytearray()
        self._open = _Open()
        self._cr_ends_lines = False
        # Whether the byte before was a carriage return that ended a line.
        self._after_cr = False
        # The first of the stray bytes that stood before the line in hand.
        self._stray = b""

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
        start = 0
        while start < len(data):
            if self._after_cr:
                self._after_cr = False
                if data[start] == ord("\n"):
                    self._cr_ends_lines = False
                    self._open.cover(b"\n")
                    start += 1
                    continue
            take = self._take_to_cr if self._cr_ends_lines else self._take_to_lf
            start = take(data, start, events)
        return events

    def end(self) -> list[Event]:
        """Ends the package in hand: the device fell silent or was unplugged.

        A half line is never a value, for a digit may be missing.

        Returns:
            The half line, rejected, and the package made of the whole lines before it.
        """
        events: list[Event] = []
        if not self._cr_ends_lines and _assignments(bytes(self._line) + b"\r") >= 2:
            self._reread(events)
        if self._line.strip(_BLANKS):
            events.append(Rejected(Reason.UNTERMINATED, bytes(self._line)))
        self._line.clear()
        self._stray = b""
        self._close(events)
        return events

    def _take_to_lf(self, data: bytes, start: int, events: list[Event]) -> int:
        """Takes bytes up to a newline; returns where the next ones start."""
        found = data.find(b"\n", start)
        end = found if found >= 0 else len(data)
        stop = self._append(data, start, end)
        if self._line.count(b"\r") >= 2 and _assignments(bytes(self._line)) >= 2:
            self._reread(events)
            return stop
        if stop < end:
            # Too long to be a line. Without a newline ever, a carriage return must end it.
            cr = data.find(b"\r", stop, end)
            if cr >= 0:
                self._end_line(b"\r", events)
                self._after_cr = True
                return cr + 1
        if found < 0:
            return end
        self._end_line(b"\n", events)
        return end + 1

    def _take_to_cr(self, data: bytes, start: int, events: list[Event]) -> int:
        """Takes bytes up to a line end of either kind; returns where the next ones start."""
        found = _LINE_END.search(data, start)
        end = found.start() if found is not None else len(data)
        self._append(data, start, end)
        if found is None:
            return end
        self._after_cr = found[0] == b"\r"
        self._cr_ends_lines = self._after_cr
        self._end_line(found[0], events)
        return end + 1

    def _reread(self, events: list[Event]) -> None:
        """Takes the line in hand again, as several that end in carriage returns."""
        held = bytes(self._line)
        self._line.clear()
        self._cr_ends_lines = True
        events += self.feed(held)

    def _append(self, data: bytes, start: int, end: int) -> int:
        """Adds bytes to the line in hand, but for stray ones; returns where it had to stop.

        Longer than MAX_LINE_BYTES is enough to know that the line is bad; more is kept only for
        the quarantine.
        """
        if not self._line:
            text = data[start:end].lstrip(_STRAY)
            stray = data[start : end - len(text)]
            start += len(stray)
            self._stray = (self._stray + stray.translate(None, _BLANKS))[:MAX_STRAY_BYTES]
        stop = min(end, start + MAX_RAW_BYTES - len(self._line))
        self._line += data[start:stop]
        return stop

    def _end_line(self, line_end: bytes, events: list[Event]) -> None:
        raw, stray = bytes(self._line), self._stray
        self._line.clear()
        self._stray = b""
        if not raw.strip(_BLANKS) and len(raw) <= MAX_LINE_BYTES:
            # Stray bytes alone are neither a line nor the blank line that ends a package.
            if not stray:
                self._close(events)
            return
        reason = self._take_line(raw, line_end, events)
        if reason is not None:
            events.append(Rejected(reason, (stray + raw)[:MAX_RAW_BYTES]))

    def _take_line(self, raw: bytes, line_end: bytes, events: list[Event]) -> Reason | None:
        """Takes a line without its stray bytes; returns why it is rejected, or None."""
        text, sent = raw.strip(_BLANKS), raw
        reason = _damage(raw)
        if reason is None:
            name, _, value = (part.strip(" \t") for part in text.decode("ascii").partition("="))
            if name == "devID":
                reason = self._start(value, raw, events)
                sent = raw.lstrip(_BLANKS)
            elif self._open.intact is not None:
                reason = Reason.AFTER_CRC
            elif name == "subID":
                reason = self._group(value, raw)
            elif name == "crc":
                reason = self._check(value, raw)
            else:
                reason = self._field(name, value, raw)
        if reason is not None and _DEV_ID_INSIDE.search(text):
            # Whose fields follow is not known any more. Better a dropped fragment than values
            # under the name of the device before.
            self._close(events)
        self._open.cover(sent + line_end)
        return reason

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

    def _check(self, text: str, raw: bytes) -> Reason | None:
        if not _CRC.fullmatch(text):
            return Reason.BAD_VALUE
        self._open.keep(raw)
        self._open.intact = int(text, 16) == self._open.crc
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
        if package.dev_id is not None and package.intact is False:
            # Which of its values is the wrong one is not known.
            events.append(Rejected(Reason.BAD_CRC, bytes(package.raw)))
        elif package.dev_id is not None and package.fields:
            events.append(
                Package(
                    dev_id=package.dev_id,
                    fields=package.fields,
                    groups={group: tuple(names) for group, names in package.groups.items()},
                    missing=tuple(name for name in REQUIRED if name not in package.fields),
                    checked=package.intact is True,
                )
            )
        elif package.raw:
            reason = Reason.NO_DEV_ID if package.dev_id is None else Reason.NO_FIELDS
            events.append(Rejected(reason, bytes(package.raw)))


def _assignments(line: bytes) -> int:
    """How many assignments stand before a carriage return that no newline follows."""
    *parts, rest = line.split(b"\r")
    if not rest:
        # What follows the last carriage return is not known yet.
        parts = parts[:-1]
    return sum(_ASSIGNMENT.fullmatch(part.lstrip(_STRAY)) is not None for part in parts)


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
