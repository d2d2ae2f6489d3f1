"""The configuration: one TOML file, validated whole before anything starts.

Every mistake becomes one line that names the file, the key and the mend; all of them are
reported at once. Passwords are never in the file: a systemd credential or a 0600 file has them.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import stat
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from unisat_agent.errors import ConfigError
from unisat_agent.psott import is_identifier

DEFAULT_PATH = Path("/etc/unisat-agent/agent.toml")
DEFAULT_CANDIDATES = ("/dev/serial/by-id/*", "/dev/ttyACM*", "/dev/ttyUSB*", "/dev/serial0")
PARITIES = ("N", "E", "O")
MIN_SPOOL_MB = 1

# Kinto's own rule for ids (kinto.core.storage.generators), less the dots that it never allowed.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class PortSettings:
    """One serial port. `port` is a device path, a symlink, "socket://host:port" or "auto"."""

    port: str = "auto"
    baud: int = 9600
    bytesize: int = 8
    parity: str = "N"
    stopbits: float = 1.0
    idle_s: float = 5.0
    candidates: tuple[str, ...] = DEFAULT_CANDIDATES


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


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that the agent was told. `hub` is None for a station without a hub.

    `notices` is a folder where others on the host tell their troubles, a sentence a line.
    """

    path: Path
    station: str
    devices: frozenset[str]
    spool_path: Path
    spool_max_bytes: int
    history_days: float
    ports: tuple[PortSettings, ...]
    local: SinkSettings
    hub: SinkSettings | None
    clock_synchronised: str
    hold_s: float
    listen: tuple[str, int]
    notices: Path | None = None

    @property
    def sinks(self) -> tuple[SinkSettings, ...]:
        """The sinks that are delivered to, local first."""
        return (self.local,) if self.hub is None else (self.local, self.hub)


class _Table:
    """One TOML table being read: hands out checked values, notes what is wrong with them."""

    def __init__(self, file: Path, name: str, content: object, problems: list[str]) -> None:
        self._where = f"{file}: [{name}]"
        self._problems = problems
        self._known: list[str] = []
        if not isinstance(content, dict):
            problems.append(f"{self._where} must be a table: write [{name}] on a line of its own")
            content = {}
        self._content: Mapping[str, Any] = content

    def wrong(self, key: str, mend: str) -> None:
        """Notes that the value of `key` can't be used; `mend` says what to write instead."""
        self._problems.append(f"{self._where} {key}: {mend}")

    def has(self, key: str) -> bool:
        """Whether the key is given; asking makes it a known one."""
        self._known.append(key)
        return key in self._content

    def text(
        self, key: str, default: str | None, mend: str, valid: Callable[[str], bool] = bool
    ) -> str:
        """A string; without a default it is required."""
        return self._value(key, default, mend, lambda v: isinstance(v, str) and valid(v)) or ""

    def integer(self, key: str, default: int, low: int, high: int) -> int:
        value = self._value(
            key,
            default,
            f"must be a whole number from {low} to {high}",
            lambda v: isinstance(v, int) and not isinstance(v, bool) and low <= v <= high,
        )
        return int(value)

    def number(self, key: str, default: float, low: float, high: float) -> float:
        value = self._value(
            key,
            default,
            f"must be a number from {low:g} to {high:g}",
            lambda v: isinstance(v, (int, float)) and not isinstance(v, bool) and low <= v <= high,
        )
        return float(value)

    def texts(
        self, key: str, default: tuple[str, ...], mend: str, valid: Callable[[str], bool] = bool
    ) -> tuple[str, ...]:
        value = self._value(
            key,
            list(default),
            mend,
            lambda v: isinstance(v, list) and all(isinstance(i, str) and valid(i) for i in v),
        )
        return tuple(value)

    def file(self, key: str) -> Path | None:
        """The path of a file that can be read; None where the key is missing or wrong."""
        if not self.has(key) or not (name := self.text(key, None, "must be the path of a file")):
            return None
        path = Path(name)
        try:
            path.open("rb").close()
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            self.wrong(key, f"{path} can't be read ({why}): correct the path or create the file")
            return None
        return path

    def finish(self) -> None:
        """Notes the keys that nothing asked for."""
        for key in self._content:
            if key not in self._known:
                close = difflib.get_close_matches(key, self._known, n=1)
                hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(self._known)}"
                self.wrong(key, f"unknown key, {hint}")

    def _value(self, key: str, default: Any, mend: str, valid: Callable[[Any], bool]) -> Any:
        self._known.append(key)
        if key not in self._content:
            if default is None:
                self.wrong(key, f"is missing: {mend}")
            return default
        value = self._content[key]
        if not valid(value):
            self.wrong(key, f"{mend}, not {value!r}")
            return default
        return value


def load(path: Path, credentials: Path | None = None, *, passwords: bool = True) -> Config:
    """Reads and checks the file.

    Args:
        path: The TOML file.
        credentials: The folder of the systemd credentials ($CREDENTIALS_DIRECTORY), if any.
        passwords: Whether the passwords are read too; they are empty if not.

    Raises:
        ConfigError: With every problem found, one line each.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError([f"{path}: there is no such file: give one with --config"]) from None
    except OSError as error:
        mend = "; put sudo before the command" if isinstance(error, PermissionError) else ""
        raise ConfigError([f"{path}: can't be read: {error.strerror}{mend}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: must be UTF-8 text: byte {error.start} is not"]) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{path}: is not valid TOML: {error}"]) from error

    problems: list[str] = []
    top = _Table(path, "top level", content, problems)
    known = {"station", "spool", "serial", "local", "hub", "clock", "status"}
    for name in content:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean [{close[0]}]?" if close else f"known: {', '.join(sorted(known))}"
            problems.append(f"{path}: [{name}]: unknown table, {hint}")

    def table(name: str) -> _Table:
        return _Table(path, name, content.get(name, {}), problems)

    station = table("station")
    name = station.text("name", "publisher", "must be a text")
    devices = station.texts(
        "devices",
        (),
        "must be a list of devIDs, each a letter followed by letters, digits, _ or -",
        is_identifier,
    )
    station.finish()

    spool = table("spool")
    spool_path = Path(
        spool.text(
            "path",
            "/var/lib/unisat-agent/spool.db",
            "must be an absolute path",
            lambda v: v.startswith("/"),
        )
    )
    max_mb = spool.integer("max_mb", 1024, MIN_SPOOL_MB, 1_000_000)
    history_days = spool.number("history_days", 7.0, 0.0, 3650.0)
    spool.finish()

    raw_ports = content.get("serial", [{}])
    if not isinstance(raw_ports, list) or not raw_ports:
        top.wrong("serial", "must be one or more [[serial]] tables (two square brackets)")
        raw_ports = []
    ports = tuple(_port(_Table(path, "[serial]", raw, problems)) for raw in raw_ports)
    names = [port.port for port in ports if port.port != "auto"]
    for double in sorted({n for n in names if names.count(n) > 1}):
        top.wrong("serial", f"port {double} is given twice: remove one of the [[serial]] tables")

    def password(name: str, source: _Table) -> str:
        return _password(name, source, credentials, wanted=passwords)

    local = _sink("local", table("local"), password, "http://127.0.0.1:8888/v1", "agent")
    hub = _sink("hub", table("hub"), password) if "hub" in content else None
    if hub is not None and (local.url, local.bucket) == (hub.url, hub.bucket):
        problems.append(f"{path}: [hub] url: is the same Kinto as [local]: give the DataHub's URL")

    clock = table("clock")
    synchronised = clock.text(
        "synchronised",
        "kernel",
        'must be "kernel", "always" or the absolute path of a flag file',
        lambda v: v in {"kernel", "always"} or v.startswith("/"),
    )
    hold_s = clock.number("hold_s", 600.0, 0.0, 86400.0)
    clock.finish()

    status = table("status")
    listen = status.text(
        "listen",
        "127.0.0.1:8890",
        'must be a loopback address and a port, as "127.0.0.1:8890"',
        _is_loopback_address,
    )
    notices = None
    if status.has("notices"):
        mend = "must be the absolute path of a folder"
        notices = status.text("notices", None, mend, lambda v: v.startswith("/"))
    status.finish()

    if problems:
        raise ConfigError(problems)
    host, _, port = listen.rpartition(":")
    return Config(
        path=path,
        station=name,
        devices=frozenset(devices),
        spool_path=spool_path,
        spool_max_bytes=max_mb * 1024 * 1024,
        history_days=history_days,
        ports=ports,
        local=local,
        hub=hub,
        clock_synchronised=synchronised,
        hold_s=hold_s,
        listen=(host, int(port)),
        notices=Path(notices) if notices else None,
    )


def _port(table: _Table) -> PortSettings:
    default = PortSettings()
    stopbits = table.number("stopbits", default.stopbits, 1.0, 2.0)
    if stopbits not in {1.0, 1.5, 2.0}:
        table.wrong("stopbits", "must be 1, 1.5 or 2")
    settings = PortSettings(
        port=table.text(
            "port",
            default.port,
            'must be "auto", a path that starts with /, or "socket://host:port"',
            _is_port_name,
        ),
        baud=table.integer("baud", default.baud, 50, 4_000_000),
        bytesize=table.integer("bytesize", default.bytesize, 5, 8),
        parity=table.text(
            "parity",
            default.parity,
            f"must be one of {', '.join(PARITIES)}",
            lambda v: v in PARITIES,
        ),
        stopbits=stopbits,
        idle_s=table.number("idle_s", default.idle_s, 0.1, 3600.0),
        candidates=table.texts("candidates", default.candidates, "must be a list of path patterns"),
    )
    table.finish()
    return settings


def _sink(
    name: str,
    table: _Table,
    password: Callable[[str, _Table], str],
    url: str | None = None,
    user: str | None = None,
) -> SinkSettings:
    settings = SinkSettings(
        name=name,
        url=table.text(
            "url",
            url,
            "must be the URL of a Kinto, with http:// or https:// and ending in /v1, "
            'as "https://hub.example.org/v1"',
            lambda v: _is_kinto_url(v) or _has_password(v),
        ).rstrip("/"),
        user=table.text(
            "user", user, "must be the account's name, without a colon", lambda v: ":" not in v
        ),
        password=password(name, table),
        bucket=table.text(
            "bucket",
            "telemetry",
            "must be letters, digits, _ and -",
            lambda v: _BUCKET.fullmatch(v) is not None,
        ),
        ca_file=table.file("ca_file"),
        # With a thread's watchdog in mind (service.STALL_S): twice the reading at most.
        connect_timeout_s=table.number("connect_timeout_s", 5.0, 0.1, 30.0),
        read_timeout_s=table.number("read_timeout_s", 30.0, 0.1, 60.0),
        batch_max=table.integer("batch_max", 25, 1, 1000),
    )
    if _has_password(settings.url):
        table.wrong("url", "must be without user and password: `user` and `password_file` say them")
    table.finish()
    return settings


def _password(name: str, table: _Table, credentials: Path | None, *, wanted: bool) -> str:
    """The password of a sink: systemd's credential first, then the file that the TOML names."""
    named = table.has("password_file")
    if not wanted:
        return ""
    credential = credentials / f"{name}.password" if credentials is not None else None
    if credential is not None and os.access(credential, os.F_OK):
        path = credential
    else:
        if not named:
            table.wrong(
                "password_file",
                f"no password: name a file with mode 0600, or give the systemd credential "
                f"{name}.password",
            )
            return ""
        found = table.file("password_file")
        if found is None:
            return ""
        path = found
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            table.wrong("password_file", f"{path} is open to others: run chmod 600 {path}")
            return ""
    try:
        password = path.read_text(encoding="utf-8").strip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        table.wrong("password_file", f"{path} can't be read: {error}")
        return ""
    if not password:
        table.wrong("password_file", f"{path} is empty: write the password into it")
    return password


def _is_port_name(value: str) -> bool:
    if value.startswith("socket://"):
        parts = urlsplit(value)
        try:
            return bool(parts.hostname and parts.port)
        except ValueError:
            return False
    return value == "auto" or value.startswith("/")


def _is_kinto_url(value: str) -> bool:
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        return False
    return (
        parts.scheme in {"http", "https"}
        and bool(parts.hostname)
        and not (parts.query or parts.fragment)
        and parts.path.rstrip("/").endswith("/v1")
    )


def _has_password(url: str) -> bool:
    """Whether the URL may hold a password, which must not be shown then."""
    return "@" in url


def _is_loopback_address(value: str) -> bool:
    host, _, port = value.rpartition(":")
    try:
        return ipaddress.IPv4Address(host).is_loopback and 0 < int(port) < 65536
    except ValueError:
        return False


def credentials_directory() -> Path | None:
    """The folder where systemd put this service's credentials, or None."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    return Path(directory) if directory else None
