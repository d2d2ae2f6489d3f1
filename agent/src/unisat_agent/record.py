"""A package as it is stored in Kinto (design: "The record").

The id is computed once, from the epoch, the sequence number and the payload; it does not depend
on the time, so that a time corrected later does not make another record of the same package.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from unisat_agent.clock import ClockState
from unisat_agent.protocols.events import Package
from unisat_agent.protocols.psott import is_identifier

Record = dict[str, Any]

# What a later correction of the clock may change, and what the server adds by itself.
_TIME_KEYS = frozenset({"timestamp", "received_at", "clock"})
_SERVER_KEYS = frozenset({"last_modified", "schema"})
_IDENTITY_KEYS = frozenset({"id", "devID", "epoch", "seq", "boot_id", "uptime"})
# What SQLite can store.
_MAX_INTEGER = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Stamp:
    """When a package was received: wall clock and uptime in milliseconds."""

    received_ms: int
    uptime_ms: int
    boot_id: str
    clock: ClockState


@dataclass(frozen=True, slots=True)
class Row:
    """One package in the spool. `seq` is the row's own number, negative for adopted records.

    `epoch` and `record_seq` are the record's: those of the spool that first had the package.
    `revision` counts the corrections of the stamp.
    """

    seq: int
    record_id: uuid.UUID
    dev_id: str
    stamp: Stamp
    payload: str
    revision: int
    epoch: uuid.UUID
    record_seq: int

    def record(self) -> Record:
        """The record as Kinto gets it.

        Raises:
            ValueError, TypeError, OverflowError, OSError: The row is damaged.
        """
        return {
            "id": str(self.record_id),
            "devID": self.dev_id,
            "timestamp": self.stamp.received_ms // 1000,
            "received_at": format_utc(self.stamp.received_ms),
            "clock": self.stamp.clock.word,
            "epoch": str(self.epoch),
            "seq": self.record_seq,
            "boot_id": self.stamp.boot_id,
            "uptime": self.stamp.uptime_ms / 1000,
            **json.loads(self.payload, parse_constant=_refuse),
        }


def payload_of(package: Package) -> str:
    """The part of the record that the device determines, as canonical JSON."""
    content: Record = {"groups": {name: list(fields) for name, fields in package.groups.items()}}
    if package.missing:
        content["missing"] = list(package.missing)
    if package.checked:
        content["crc"] = True
    return _canonical(content | dict(package.fields))


def record_id(epoch: uuid.UUID, seq: int, payload: str) -> uuid.UUID:
    """The record's id: uuid5 of epoch, seq and the payload's SHA-256."""
    digest = hashlib.sha256(payload.encode()).hexdigest()
    return uuid.uuid5(epoch, f"{seq}:{digest}")


def same_package(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """Whether two records are the same package; their times may differ."""
    ignored = _TIME_KEYS | _SERVER_KEYS
    mine, others = (
        {key: _comparable(value) for key, value in record.items() if key not in ignored}
        for record in (ours, theirs)
    )
    return mine == others


def same_time(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """Whether two records of one package also agree about when it was received."""
    return all(ours.get(key) == theirs.get(key) for key in _TIME_KEYS)


def row_of(record: Mapping[str, Any], seq: int) -> Row:
    """The spool row of a record that came from a Kinto.

    Raises:
        ValueError: When the record was not made by an agent.
    """
    try:
        number, uptime_s = record["seq"], record["uptime"]
        if not (isinstance(number, int) and 0 < number <= _MAX_INTEGER):
            raise ValueError(f"seq {number!r}")
        if not 0 <= uptime_s <= _MAX_INTEGER / 1000:
            raise ValueError(f"uptime {uptime_s!r}")
        if not (is_identifier(record["devID"]) and isinstance(record["boot_id"], str)):
            raise ValueError(f"devID {record['devID']!r}, boot_id {record['boot_id']!r}")
        received = datetime.fromisoformat(record["received_at"])
        stamp = Stamp(
            received_ms=round(received.timestamp() * 1000),
            uptime_ms=round(uptime_s * 1000),
            boot_id=record["boot_id"],
            clock=ClockState[record["clock"].upper()],
        )
        known = _TIME_KEYS | _SERVER_KEYS | _IDENTITY_KEYS
        return Row(
            seq=seq,
            record_id=uuid.UUID(record["id"]),
            dev_id=record["devID"],
            stamp=stamp,
            payload=_canonical({k: v for k, v in record.items() if k not in known}),
            revision=0,
            epoch=uuid.UUID(record["epoch"]),
            record_seq=number,
        )
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise ValueError(f"not a record of an agent: {error}") from error


def format_utc(wall_ms: int) -> str:
    """ISO 8601 with milliseconds and Z, from milliseconds since 1970."""
    moment = datetime.fromtimestamp(wall_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _comparable(value: Any) -> Any:
    """PostgreSQL gives 1e23 back as an integer of 24 digits: numbers are compared as doubles."""
    if isinstance(value, bool):
        # For Python, True is 1.
        return ("boolean", value)
    if isinstance(value, int):
        with contextlib.suppress(OverflowError):
            return float(value)
    return value


def _refuse(constant: str) -> None:
    """Python would read NaN and Infinity, which no agent writes."""
    raise ValueError(f"{constant} is no number of JSON")


def _canonical(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
