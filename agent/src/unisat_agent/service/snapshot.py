"""What the agent knows of itself at one moment, frozen: the input of health, status and metrics.

The defaults are those of a healthy station, so that a test names only what it is about.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import Any

from unisat_agent.delivery.requests import RequestFigures
from unisat_agent.serial.status import DeviceHeard, PortHeard


@dataclass(frozen=True, slots=True)
class PortSnapshot:
    """One serial port that the configuration names."""

    name: str
    state: str = "reading"
    device: str | None = None
    detail: str = ""
    bytes: int = 0
    reconnects: int = 0
    heard: tuple[PortHeard, ...] = ()
    """The ports that are open."""
    devices: tuple[DeviceHeard, ...] = ()


@dataclass(frozen=True, slots=True)
class SinkSnapshot:
    """One Kinto that is delivered to."""

    name: str
    state: str = "delivering"
    pending: int = 0
    oldest_s: float = 0.0
    """Age of the oldest package that the sink has not acknowledged."""
    acked: int = 0
    retries: int = 0
    dead: Mapping[str, int] = field(default_factory=dict)
    """Dead letters by reason."""
    requests: RequestFigures = field(default_factory=RequestFigures)
    troubles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkerSnapshot:
    """One supervised thread."""

    name: str
    restarts: int = 0
    failure: str = ""
    stalled: bool = False


@dataclass(frozen=True, slots=True)
class IntakeSnapshot:
    """What came in since the start."""

    packages: Mapping[str, int] = field(default_factory=dict)
    """Stored packages by devID."""
    bad_lines: Mapping[str, int] = field(default_factory=dict)
    """By reason."""
    missing: Mapping[str, int] = field(default_factory=dict)
    """Packages without a required field, by field."""
    fast: Mapping[str, int] = field(default_factory=dict)
    """Packages sooner than PSoTT's push interval, by devID."""
    dropped: int = 0
    waiting: int = 0
    """Packages in memory that wait for room in the spool."""
    troubles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SpoolSnapshot:
    """The spool's figures."""

    path: str = ""
    epoch: str = ""
    bytes: int = 0
    last_seq: int = 0
    quarantined: int = 0
    unsynced: int = 0
    """Packages whose time is not known yet."""
    disk_free: int | None = None
    """Bytes on the disk of the spool; None where it can't be asked."""
    wal_bytes: int = 0
    """The spool's write-ahead log."""
    heard_once: tuple[str, ...] = ()
    """Devices whose first package waits for a second one, the latest first."""
    set_aside: tuple[str, ...] = ()
    """Damaged spools that were renamed, oldest first."""


@dataclass(frozen=True, slots=True)
class ReconcileSnapshot:
    """The last comparison of both Kintos."""

    report: str | None = None
    problems: tuple[str, ...] = ()
    gaps: Mapping[str, int] = field(default_factory=dict)
    """Numbers that a sink lacks for good, by sink."""
    failure: str = ""


class Obstacle(Enum):
    """Why the local Kinto lets no record go."""

    NONE = auto()
    NO_HUB = auto()
    HUB_AWAY = auto()
    NO_PLUGIN = auto()


@dataclass(frozen=True, slots=True)
class RetentionSnapshot:
    """What the local Kinto keeps, and for how long the disk will do."""

    records: int = 0
    deleted: int = 0
    """Let go since the start."""
    days: float = 0.0
    """How long records are kept."""
    obstacle: Obstacle = Obstacle.NONE
    problem: str = ""
    full_in_days: float | None = None
    """Forecast; None where the disk will do."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole agent."""

    station: str = ""
    version: str = ""
    synchronised: bool = True
    hold_s: float = 0.0
    """How long a package whose time is not known yet waits for the hub."""
    clock_steps: int = 0
    intake: IntakeSnapshot = IntakeSnapshot()
    spool: SpoolSnapshot = SpoolSnapshot()
    ports: tuple[PortSnapshot, ...] = ()
    expected: frozenset[str] = frozenset()
    """The devIDs that the configuration names."""
    interval_s: float = 0.0
    """How often a device is to send; 0 where that is learned."""
    usual_s: Mapping[str, float] = field(default_factory=dict)
    """How often devices sent, also before the start, by devID."""
    sinks: tuple[SinkSnapshot, ...] = ()
    workers: tuple[WorkerSnapshot, ...] = ()
    reconcile: ReconcileSnapshot = ReconcileSnapshot()
    retention: RetentionSnapshot = RetentionSnapshot()
    troubles: tuple[str, ...] = ()
    """Of the agent as a whole."""
    notices: tuple[str, ...] = ()
    """What others on the host report."""
    last_record: Mapping[str, Any] | None = None


def disk_free(folder: Path) -> int | None:
    """The bytes that are free on the disk of a folder; None where it can't be asked."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def disk_size(folder: Path) -> int:
    """The size of the disk of a folder in bytes; 0 where it can't be asked."""
    try:
        return shutil.disk_usage(folder).total
    except OSError:
        return 0
