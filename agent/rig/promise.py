"""What the journal of a simulated satellite promises, and what a decoder makes of its bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from unisat_agent.protocols.events import Package
from unisat_agent.protocols.psott import Decoder
from unisat_agent.simulator.satellite import Entry


def decode(chunks: Iterator[bytes] | Sequence[bytes], *, idle: bool = False) -> list[Package]:
    """The packages that a decoder gets, with `idle` after a silence behind each chunk."""
    decoder = Decoder()
    packages: list[Package] = []
    for chunk in chunks:
        events = decoder.feed(chunk) + (decoder.end() if idle else [])
        packages += [event for event in events if isinstance(event, Package)]
    return packages + [event for event in decoder.end() if isinstance(event, Package)]


def promised(entries: Sequence[Entry]) -> list[tuple[object, ...]]:
    """What must be stored by these entries of a journal."""
    return [
        (entry.dev_id, dict(entry.fields), dict(entry.groups), entry.missing)
        for entry in entries
        if entry.expected
    ]


def understood(packages: Sequence[Package]) -> list[tuple[object, ...]]:
    """What would be stored of these packages."""
    return [(one.dev_id, dict(one.fields), dict(one.groups), one.missing) for one in packages]
