"""Whether a station joins what stable.json offers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from unisat_update.files import RefusedError

STABLE, STABLE_MAX = "stable.json", 16 * 1024
FIRST, MANUAL = "first", "manual"


@dataclass(frozen=True, slots=True)
class Offer:
    """What stable.json says for one architecture.

    Attributes:
        version: For people.
        serial: Of the bundle.
        percent: Of the stations, which may take it now.
        manifest: The path of the bundle's manifest, below the folder of stable.json.
    """

    version: str
    serial: int
    percent: int
    manifest: str


def parse(said: Any, arch: str) -> Offer | None:
    """What is offered to an architecture; None where nothing is.

    Raises:
        RefusedError: It is not understood.
    """
    try:
        if arch not in said["manifests"]:
            return None
        offer = Offer(
            str(said["version"]),
            int(said["serial"]),
            int(said["percent"]),
            str(said["manifests"][arch]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RefusedError("offers an update in a way that this station does not know") from error
    return offer


def place(name: str, version: str) -> int:
    """Where a station stands in the order of a version, from 0 to 99; another for each version."""
    digest = hashlib.sha256(f"{name}\n{version}".encode()).digest()
    return int.from_bytes(digest[:8]) % 100


def joins(name: str, offer: Offer, *, ring: str, when: str) -> bool:
    """Whether the station takes the offer now."""
    if when == MANUAL:
        return False
    return ring == FIRST or place(name, offer.version) < offer.percent
