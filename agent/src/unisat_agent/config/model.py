"""What the agent can be told, and the one place for what holds where the file is silent."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

DEFAULT_CANDIDATES = ("/dev/serial/by-id/*", "/dev/ttyACM*", "/dev/ttyUSB*", "/dev/serial0")
MEGABYTE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class PortSettings:
    """One serial port.

    `port` is a device path, a symlink, "socket://host:port", "rfc2217://host:port" or "auto".
    `dtr` is whether DTR (and RTS, without flow control) are asserted while the port is open.
    """

    port: str = "auto"
    baud: int = 9600
    bytesize: int = 8
    parity: str = "N"
    stopbits: float = 1.0
    idle_s: float = 5.0
    candidates: tuple[str, ...] = DEFAULT_CANDIDATES
    protocol: str = "psott"
    rtscts: bool = False
    xonxoff: bool = False
    dtr: bool = True


@dataclass(frozen=True, slots=True)
class SinkSettings:
    """One Kinto to deliver to. `url` ends in /v1."""

    name: str
    url: str
    user: str
    password: str = field(repr=False)
    bucket: str = "telemetry"
    ca_file: Path | None = None
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 30.0
    batch_max: int = 25


LOCAL = SinkSettings("local", "http://127.0.0.1:8888/v1", "agent", password="")
"""The Kinto beside the agent, before its password is known."""


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that the agent was told. `hub` is None for a station without a hub.

    `notices` is a folder where others on the host report problems, a sentence a line.
    `interval_s` is how often each device is to send; 0 where that is learned.
    `keep_days` is how long the local Kinto keeps records that the hub has, `keep_disk_percent` how
    much of the disk they may take, and `delete_without_hub` whether they go where there is none.
    """

    path: Path
    station: str = "publisher"
    devices: frozenset[str] = frozenset()
    spool_path: Path = Path("/var/lib/unisat-agent/spool.db")
    spool_max_bytes: int = 1024 * MEGABYTE
    history_days: float = 7.0
    ports: tuple[PortSettings, ...] = (PortSettings(),)
    local: SinkSettings = LOCAL
    hub: SinkSettings | None = None
    clock_synchronised: str = "kernel"
    hold_s: float = 600.0
    listen: tuple[str, int] = ("127.0.0.1", 8890)
    notices: Path | None = None
    interval_s: float = 0.0
    keep_days: float = 90.0
    keep_disk_percent: float = 50.0
    delete_without_hub: bool = False

    @property
    def sinks(self) -> tuple[SinkSettings, ...]:
        """The sinks that are delivered to, local first."""
        return (self.local,) if self.hub is None else (self.local, self.hub)
