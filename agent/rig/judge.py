"""The judge: compares what a simulator sent with what two Kintos hold.

verdict = judge(read_journal(path), read_records(local, devices), read_records(hub, devices))
print(verdict)             # sent=40 local=40 hub=40 duplicates=0 lost=0
assert verdict.good, verdict.reason()
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kinto_http

from unisat_agent.simulator.satellite import SERIAL_NUMBER, Entry

Key = tuple[str, int]
Record = Mapping[str, Any]

_PAGE_RECORDS = 1000
_TOLD = 3


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the comparison found.

    Attributes:
        sent: How many packages had to be stored.
        local: How many of these the local Kinto has.
        hub: How many of these the hub has.
        duplicates: Records beyond the first of a package, and record ids used twice, in both.
        lost: (devID, packet) of packages that had to be stored and are missing in either Kinto.
        mismatches: A sentence for each record that is there and wrong, or should not be there.
    """

    sent: int
    local: int
    hub: int
    duplicates: int
    lost: tuple[Key, ...]
    mismatches: tuple[str, ...]

    @property
    def good(self) -> bool:
        """Whether everything is where it must be, once, and as it was sent."""
        return not (self.duplicates or self.lost or self.mismatches)

    def reason(self) -> str:
        """Why it is not good, in one line; empty when it is."""
        reasons = []
        if self.lost:
            reasons.append(f"lost {_some(f'{dev_id} {packet}' for dev_id, packet in self.lost)}")
        if self.duplicates:
            reasons.append(f"{self.duplicates} stored more than once")
        if self.mismatches:
            reasons.append(_some(self.mismatches))
        return "; ".join(reasons)

    def __str__(self) -> str:
        return (
            f"sent={self.sent} local={self.local} hub={self.hub} "
            f"duplicates={self.duplicates} lost={len(self.lost)}"
        )


def read_journal(path: Path) -> dict[Key, Entry]:
    """Reads a simulator's journal; a later entry overrides an earlier one of the same package.

    A last line without its newline is one that the simulator was killed in: it is left out.
    """
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
    entries = (Entry.from_json(line) for line in whole.splitlines())
    return {(entry.dev_id, entry.packet): entry for entry in entries}


def read_records(client: Any, collections: Iterable[str]) -> list[dict[str, Any]]:
    """Reads all records of some collections of the client's bucket.

    A collection that is not there has no records.
    """
    records: list[dict[str, Any]] = []
    for collection in sorted(set(collections)):
        try:
            # Oldest first: what is stored while reading comes on the last page.
            pages = client.get_paginated_records(
                collection=collection, _limit=_PAGE_RECORDS, _sort="last_modified"
            )
            for page in pages:
                records += page["data"]
        except kinto_http.KintoException as error:
            if error.response is None or error.response.status_code != 404:
                raise
    return records


def judge(journal: Mapping[Key, Entry], local: Sequence[Record], hub: Sequence[Record]) -> Verdict:
    """Compares a journal with the records of the local Kinto and of the hub."""
    must = {key for key, entry in journal.items() if entry.expected}
    mismatches: list[str] = []
    found: list[set[Key]] = []
    duplicates = 0
    for place, records in (("local", local), ("hub", hub)):
        keys = Counter(key for record in records if (key := _key(record)) is not None)
        ids = Counter(record.get("id") for record in records)
        duplicates += max(_surplus(keys), _surplus(ids))
        found.append(must & keys.keys())
        for record in records:
            mismatches += [f"{place}: {problem}" for problem in _problems(record, journal)]
    lost = tuple(sorted(must - (found[0] & found[1])))
    mismatches += _differences(local, hub, lost)
    return Verdict(
        sent=len(must),
        local=len(found[0]),
        hub=len(found[1]),
        duplicates=duplicates,
        lost=lost,
        mismatches=tuple(mismatches),
    )


def _key(record: Record) -> Key | None:
    dev_id, packet = record.get("devID"), record.get(SERIAL_NUMBER)
    return (dev_id, packet) if isinstance(dev_id, str) and type(packet) is int else None


def _surplus(counts: Counter[Any]) -> int:
    return sum(counts.values()) - len(counts)


def _problems(record: Record, journal: Mapping[Key, Entry]) -> list[str]:
    key = _key(record)
    entry = None if key is None else journal.get(key)
    if key is None or entry is None:
        return [f"record {record.get('id')} was never sent"]
    label = f"{key[0]} {key[1]}"
    if entry.expected is None:
        return []
    if not entry.expected:
        return [f"{label} was spoiled on the line, and is stored"]
    problems = []
    if type(record.get("timestamp")) is not int:
        problems.append(f"{label}: timestamp is {record.get('timestamp')!r}, not an integer")
    for name, sent in entry.fields.items():
        stored = record.get(name)
        if type(stored) is not type(sent) or stored != sent:
            problems.append(f"{label}: {name} is {stored!r}, sent was {sent!r}")
    known = entry.fields.keys() | _OF_THE_PUBLISHER
    problems += [f"{label}: {name} was never sent" for name in record if name not in known]
    groups = {name: tuple(fields) for name, fields in record.get("groups", {}).items()}
    if groups != dict(entry.groups):
        problems.append(f"{label}: groups are {groups}, sent were {dict(entry.groups)}")
    if tuple(record.get("missing", ())) != tuple(entry.missing):
        problems.append(f"{label}: missing is {record.get('missing')}, not {list(entry.missing)}")
    return problems


# What the publisher and Kinto put into a record beside the device's fields.
_OF_THE_PUBLISHER = frozenset(
    {
        "id", "devID", "timestamp", "received_at", "clock", "epoch", "seq", "boot_id", "uptime",
        "groups", "missing", "crc", "last_modified", "schema",
    }
)  # fmt: skip


def _differences(
    local: Sequence[Record], hub: Sequence[Record], lost: Collection[Key]
) -> list[str]:
    """Packages that the two hold under different record ids, or only one of them holds."""
    here, there = ({_key(one): one.get("id") for one in records} for records in (local, hub))
    problems = []
    for key in sorted(key for key in here.keys() | there.keys() if key is not None):
        label = f"{key[0]} {key[1]}"
        if key in here and key in there:
            if here[key] != there[key]:
                problems.append(f"{label} has the id {here[key]} locally, {there[key]} on the hub")
        elif key not in lost:
            problems.append(f"{label} is only {'local' if key in here else 'on the hub'}")
    return problems


def _some(things: Iterable[str]) -> str:
    listed = list(things)
    more = len(listed) - _TOLD
    return ", ".join(listed[:_TOLD]) + (f" and {more} more" if more > 0 else "")
