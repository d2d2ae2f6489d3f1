"""What a simulated satellite says: an orbit, weather and air quality, and faults on request.

Pure functions of a seed. Every frame knows what a receiver must store of it, worked out where the
bytes are made and not by decoding them again, so that the journal can convict the decoder too.

The journal is a file of JSON lines, one for each package; a later line for the same
(devID, packet) overrides the earlier one::

    {"devID": "sim01", "packet": 17, "expected": true, "fields": {"temperature": 21.4, …},
     "groups": {"meteo": ["temperature", …]}, "missing": [], "fault": null}

`expected` is true: must be stored exactly once with these fields; false: must not be stored;
null: nobody can know (the cable was pulled while the package was on it).
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from unisat_agent.protocols.psott import crc_of

Value = bool | int | float

FAULTS: Final = ("garbage", "nan", "half", "reset", "burst", "missing", "crlf", "silence", "stray")
SERIAL_NUMBER: Final = "packet"
_REQUIRED: Final = ("temperature", "humidity", "pressure", "pm25")
LINE_ENDS: Final[Mapping[str, bytes]] = MappingProxyType(
    {"crlf": b"\r\n", "lf": b"\n", "cr": b"\r"}
)
# Ends whatever the last frame left open; a blank line more does no harm.
CLOSING: Final = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the journal; see the module's text for the meaning of `expected`."""

    dev_id: str
    packet: int
    expected: bool | None
    fields: Mapping[str, Value] = field(default_factory=lambda: MappingProxyType({}))
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    missing: tuple[str, ...] = ()
    fault: str | None = None

    def to_json(self) -> str:
        """The line of the journal, without its newline."""
        return json.dumps(
            {
                "devID": self.dev_id,
                SERIAL_NUMBER: self.packet,
                "expected": self.expected,
                "fields": dict(self.fields),
                "groups": {name: list(fields) for name, fields in self.groups.items()},
                "missing": list(self.missing),
                "fault": self.fault,
            }
        )

    @classmethod
    def from_json(cls, line: str) -> Entry:
        """Reads a line of the journal."""
        read = json.loads(line)
        return cls(
            dev_id=read["devID"],
            packet=read[SERIAL_NUMBER],
            expected=read["expected"],
            fields=read["fields"],
            groups={name: tuple(fields) for name, fields in read["groups"].items()},
            missing=tuple(read["missing"]),
            fault=read["fault"],
        )


@dataclass(frozen=True, slots=True)
class Frame:
    """Bytes for the line, what must come of them, and the pause after them in intervals."""

    data: bytes
    entry: Entry
    pause: float = 1.0


@dataclass(frozen=True, slots=True)
class _Reading:
    """A measured value and how the device prints it."""

    group: str | None
    name: str
    value: Value
    text: str

    @property
    def line(self) -> bytes:
        return f"{self.name}={self.text}".encode()


class Satellite:
    """One device: where it is and what it measures after so many seconds of its life."""

    _INCLINATION = math.radians(51.6)
    _PERIOD_S = 5570.0
    _SIDEREAL_DAY_S = 86164.0

    def __init__(self, dev_id: str, seed: int | str) -> None:
        self.dev_id = dev_id
        self._random = random.Random(f"{seed}/{dev_id}")  # noqa: S311 - no secret is made of it
        self._phase = self._random.uniform(0, 2 * math.pi)
        self._warmth = self._random.uniform(8, 24)
        self._dust = self._random.uniform(4, 18)
        self._drift = {"temperature": 0.0, "humidity": 0.0, "pressure": 0.0, "dust": 0.0}

    def measure(self, age_s: float) -> list[_Reading]:
        """The readings of one package; advances the weather by one step."""
        for name in self._drift:
            # A first-order process: looks like weather and comes back to its mean.
            self._drift[name] = 0.97 * self._drift[name] + self._random.gauss(0, 0.2)
        drift = self._drift
        angle = self._phase + 2 * math.pi * age_s / self._PERIOD_S
        latitude = math.degrees(math.asin(math.sin(self._INCLINATION) * math.sin(angle)))
        longitude = math.degrees(
            math.atan2(math.cos(self._INCLINATION) * math.sin(angle), math.cos(angle))
        ) - 360 * (age_s / self._SIDEREAL_DAY_S)
        day = math.sin(self._phase + 2 * math.pi * age_s / 86400)
        pm25 = self._dust * math.exp(0.25 * drift["dust"])
        humidity = min(99.0, max(5.0, 52 - 18 * day + 3 * drift["humidity"]))
        battery_volts = 3.9 + 0.2 * math.sin(angle)
        return [
            _double("gps", "lat", latitude, 5),
            _double("gps", "long", (longitude + 180) % 360 - 180, 5),
            _double("gps", "alt", 418_000 + 4_000 * math.sin(angle), 1),
            _double("meteo", "temperature", self._warmth + 7 * day + drift["temperature"], 2),
            # Now and then as an integer, as a sketch with a DHT11 does: still a double when read.
            _double("meteo", "humidity", humidity, 0 if self._random.random() < 0.25 else 2),
            _double("meteo", "pressure", 1008 + 5 * day + 2 * drift["pressure"], 2),
            _double("air", "pm25", pm25, 2),
            _double("air", "pm10", pm25 * 1.6 + 0.5 * abs(drift["dust"]), 2),
            _Reading("status", "battery", battery_volts > 3.75, str(battery_volts > 3.75).lower()),
            _double("status", "voltage", battery_volts, 2),
            _Reading("status", "satellites", count := self._random.randint(6, 12), str(count)),
        ]


def _double(group: str, name: str, value: float, digits: int) -> _Reading:
    text = f"{value:.{digits}f}"
    return _Reading(group, name, float(text), text)


def frames(
    dev_ids: Sequence[str],
    seed: int | str = 1,
    faults: Sequence[str] = (),
    probability: float = 0.2,
    interval_s: float = 3.0,
    *,
    crc: bool = False,
    line_end: bytes = LINE_ENDS["crlf"],
) -> Iterator[Frame]:
    """Frames without end, the devices in turn; the same arguments give the same bytes.

    Args:
        dev_ids: The devices.
        seed: Any number or text.
        faults: Which of FAULTS may happen; looked at again for each frame.
        probability: How often a frame is given one of them, 0 to 1.
        interval_s: Seconds of the satellite's life between two packages of a device.
        crc: Whether each package ends with its checksum.
        line_end: One of LINE_ENDS.
    """
    chance = random.Random(f"{seed}/faults")  # noqa: S311 - no secret is made of it
    satellites = [Satellite(dev_id, seed) for dev_id in dev_ids]
    before: str | None = None
    hurried = 0
    packet = 0
    while True:
        packet += 1
        for satellite in satellites:
            readings = [
                _Reading(None, SERIAL_NUMBER, packet, str(packet)),
                *satellite.measure(packet * interval_s),
            ]
            fault = chance.choice(faults) if faults and chance.random() < probability else None
            draft = _Draft(satellite.dev_id, packet, fault, readings, crc, line_end)
            made = _FRAMES[fault](draft, chance)
            if before == "half":
                # The half line must end somewhere, or this package's devID would be glued to it.
                made = replace(made, data=line_end + made.data)
            elif before == "reset":
                made = replace(made, data=made.data.lstrip(b"\r\n"))
            before = fault
            if fault == "burst":
                hurried = chance.randint(2, 6)
            if hurried:
                hurried -= 1
                made = replace(made, pause=0.0)
            yield made


@dataclass(frozen=True, slots=True)
class _Draft:
    """A package before it becomes bytes."""

    dev_id: str
    packet: int
    fault: str | None
    readings: Sequence[_Reading]
    crc: bool
    end: bytes

    def lines(self) -> list[tuple[bytes, _Reading | None]]:
        """The package's lines, each with the reading that it carries."""
        lines: list[tuple[bytes, _Reading | None]] = [(b"devID=" + self.dev_id.encode(), None)]
        group: str | None = None
        for reading in self.readings:
            if reading.group is not None and reading.group != group:
                group = reading.group
                lines.append((b"subID=" + group.encode(), None))
            lines.append((reading.line, reading))
        return lines

    def entry(self, readings: Sequence[_Reading]) -> Entry:
        """What must be stored when only these readings arrive whole."""
        if not readings:
            return Entry(self.dev_id, self.packet, expected=False, fault=self.fault)
        groups: dict[str, list[str]] = {}
        for reading in readings:
            if reading.group is not None:
                groups.setdefault(reading.group, []).append(reading.name)
        fields = {reading.name: reading.value for reading in readings}
        return Entry(
            dev_id=self.dev_id,
            packet=self.packet,
            expected=True,
            fields=fields,
            groups={group: tuple(names) for group, names in groups.items()},
            missing=tuple(name for name in _REQUIRED if name not in fields),
            fault=self.fault,
        )

    def frame(self, lines: Sequence[tuple[bytes, _Reading | None]], pause: float = 1.0) -> Frame:
        """A frame of whole lines, as the sketches print it: a blank line before and after."""
        printed = [line for line, _ in lines]
        if self.crc:
            printed.append(self.crc_line(self.body(printed)))
        readings = [reading for _, reading in lines if reading is not None]
        return Frame(self.end + self.body(printed) + self.end, self.entry(readings), pause)

    def begun(self, lines: Sequence[tuple[bytes, _Reading | None]]) -> Frame:
        """A frame that stops after these lines: neither a checksum nor a blank line."""
        readings = [reading for _, reading in lines if reading is not None]
        return Frame(self.end + self.body([line for line, _ in lines]), self.entry(readings))

    def body(self, lines: Sequence[bytes]) -> bytes:
        """The lines with their ends."""
        return b"".join(line + self.end for line in lines)

    def crc_line(self, body: bytes) -> bytes:
        """The checksum's line for what the device has printed of a package."""
        return b"crc=%04X" % crc_of(body)


def _whole(draft: _Draft, chance: random.Random) -> Frame:  # noqa: ARG001 - one signature for all
    return draft.frame(draft.lines())


def _silence(draft: _Draft, chance: random.Random) -> Frame:
    return draft.frame(draft.lines(), pause=chance.uniform(3, 6))


def _missing(draft: _Draft, chance: random.Random) -> Frame:
    gone = chance.sample(_REQUIRED, chance.randint(1, 3))
    return draft.frame(
        [(line, of) for line, of in draft.lines() if of is None or of.name not in gone]
    )


def _nan(draft: _Draft, chance: random.Random) -> Frame:
    measured = [reading.name for reading in draft.readings if reading.group is not None]
    failed = chance.sample(measured, chance.randint(1, 3))
    lines: list[tuple[bytes, _Reading | None]] = []
    for line, reading in draft.lines():
        if reading is not None and reading.name in failed:
            text = chance.choice(["nan", "NAN", "inf", "-inf", "ovf", "", "failed", "43.2,76.5"])
            lines.append((f"{reading.name}={text}".encode(), None))
        else:
            lines.append((line, reading))
    return draft.frame(lines)


def _garbage(draft: _Draft, chance: random.Random) -> Frame:
    lines = draft.lines()
    if chance.random() < 0.5:
        hit = chance.randrange(2, len(lines))
        line, reading = lines[hit]
        if reading is not None:
            # At the start of a line it would be a stray byte, which costs nothing.
            at = chance.randrange(1, len(line))
            lines[hit] = (line[:at] + chance.choice([b"\xff", b"\xc3\xa9"]) + line[at:], None)
    before: list[tuple[bytes, _Reading | None]] = []
    for _ in range(chance.randint(1, 3)):
        at = chance.randint(0, len(lines))
        (before if at == 0 else lines).insert(at, (_noise(chance), None))
    if not draft.crc:
        return draft.frame([*before, *lines])
    # The device's checksum is of what it printed, not of what the line made of it.
    whole = [line for line, _ in draft.lines()]
    arrived = [line for line, _ in lines]
    sent = [line for line, _ in before] + arrived + [draft.crc_line(draft.body(whole))]
    entry = draft.entry(draft.readings if arrived == whole else [])
    return Frame(draft.end + draft.body(sent) + draft.end, entry)


def _noise(chance: random.Random) -> bytes:
    """Bytes that can be no line of PSoTT: none of them ends a line, and one is not ASCII."""
    noise = chance.randbytes(chance.choice([1, 7, 40, 400]))
    # With text first: stray bytes alone would cost themselves and be no line.
    return b"~" + noise.translate(bytes.maketrans(b"\r\n=", b"??#")) + b"\xff"


def _half(draft: _Draft, chance: random.Random) -> Frame:
    """Stops inside a name or after the `=`: a number cut short would be a good, wrong number."""
    lines = draft.lines()
    last = chance.randrange(len(lines))
    line = lines[last][0]
    cut = line[: chance.randint(1, line.index(b"=") + 1)]
    kept = draft.begun(lines[:last])
    return Frame(kept.data + cut, kept.entry)


def _reset(draft: _Draft, chance: random.Random) -> Frame:
    """The board starts anew in the middle of a line: noise of the line, then the next package."""
    lines = draft.lines()
    last = chance.randrange(len(lines))
    line = lines[last][0]
    cut = line[: chance.randint(0, len(line))] + b"\xff\x00\xfe" + draft.end
    kept = draft.begun(lines[:last])
    return Frame(kept.data + cut, kept.entry, pause=0.0)


def _line_ends(draft: _Draft, chance: random.Random) -> Frame:
    lines = draft.lines()
    # Where carriage returns end lines, \r\r\n is a blank line.
    newline = chance.choice([b"\n", b"\r\n", b"\r\r\n"][: 2 if draft.end == b"\r" else 3])
    blanks = chance.choice([b"", b" ", b"\t", b"  "])

    def spaced(line: bytes) -> bytes:
        return blanks + line.replace(b"=", blanks + b"=" + blanks, 1) + blanks + newline

    body = b"".join(spaced(line) for line, _ in lines)
    if draft.crc:
        body += spaced(draft.crc_line(body.lstrip()))
    before, after = chance.choice([(0, 1), (1, 0), (1, 1), (3, 2)])
    return Frame(newline * before + body + newline * after, draft.frame(lines).entry)


def _stray(draft: _Draft, chance: random.Random) -> Frame:
    """A BREAK, a line that floated, an adapter that turned round: bytes that cost themselves."""
    frame = draft.frame(draft.lines())
    lines = frame.data.split(draft.end)
    for at in chance.sample(range(1, len(lines) - 2), 3):
        lines[at] = chance.choice([b"\x00", b"\xff", b"\xfe\x00\x00"]) + lines[at]
    return Frame(draft.end.join(lines), frame.entry)


_FRAMES: Final[Mapping[str | None, Callable[[_Draft, random.Random], Frame]]] = {
    None: _whole,
    "garbage": _garbage,
    "nan": _nan,
    "half": _half,
    "reset": _reset,
    "burst": _whole,
    "missing": _missing,
    "crlf": _line_ends,
    "silence": _silence,
    "stray": _stray,
}
