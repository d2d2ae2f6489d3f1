"""The configuration: one TOML file, validated whole before anything starts.

Every mistake becomes one line that names the file, the key and the fix; all of them are
reported at once. Passwords are never in the file: see `passwords`.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unisat_agent.config import rules
from unisat_agent.config.model import LOCAL, MEGABYTE, Config, PortSettings, SinkSettings
from unisat_agent.config.passwords import read_password
from unisat_agent.config.table import Table
from unisat_agent.errors import ConfigError
from unisat_agent.protocols import PROTOCOLS
from unisat_agent.protocols.psott import is_identifier

DEFAULT_PATH = Path("/etc/unisat-agent/agent.toml")
MIN_SPOOL_MB = 1
TABLES = ("station", "spool", "serial", "local", "hub", "retention", "clock", "status")


def load(path: Path, credentials: Path | None = None, *, passwords: bool = True) -> Config:
    """Reads and checks the file.

    Args:
        path: The TOML file.
        credentials: The folder of the credentials, if any.
        passwords: Whether the passwords are read too; they are empty if not.

    Raises:
        ConfigError: With every problem found, one line each.
    """
    file = _File(path, _parse(path), [], credentials, passwords=passwords)
    file.check_tables()
    defaults = Config(path)
    station, devices, interval_s = _station(file.table("station"), defaults)
    spool_path, max_mb, history_days = _spool(file.table("spool"), defaults)
    ports = _ports(file)
    local, hub = _sinks(file)
    synchronised, hold_s = _clock(file.table("clock"), defaults)
    listen, notices = _status(file.table("status"), defaults)
    keep_days, keep_disk_percent, delete_without_hub = _retention(file.table("retention"), defaults)
    if file.problems:
        raise ConfigError(file.problems)
    return Config(
        path=path,
        station=station,
        devices=devices,
        spool_path=spool_path,
        spool_max_bytes=max_mb * MEGABYTE,
        history_days=history_days,
        ports=ports,
        local=local,
        hub=hub,
        clock_synchronised=synchronised,
        hold_s=hold_s,
        listen=listen,
        notices=notices,
        interval_s=interval_s,
        keep_days=keep_days,
        keep_disk_percent=keep_disk_percent,
        delete_without_hub=delete_without_hub,
    )


@dataclass(frozen=True, slots=True)
class _File:
    """The file being read, and what is wrong with it so far."""

    path: Path
    content: Mapping[str, Any]
    problems: list[str]
    credentials: Path | None
    passwords: bool

    def table(self, name: str) -> Table:
        """One of its tables; an empty one where it is missing."""
        return Table(self.path, name, self.content.get(name, {}), self.problems)

    def check_tables(self) -> None:
        """Notes the tables that nothing asks for."""
        for name in self.content:
            if name not in TABLES:
                close = difflib.get_close_matches(name, TABLES, n=1)
                known = ", ".join(sorted(TABLES))
                hint = f"did you mean [{close[0]}]?" if close else f"known: {known}"
                self.problems.append(f"{self.path}: [{name}]: unknown table, {hint}")


def _parse(path: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError([f"{path}: there is no such file: give one with --config"]) from None
    except OSError as error:
        fix = "; put sudo before the command" if isinstance(error, PermissionError) else ""
        raise ConfigError([f"{path}: can't be read: {error.strerror}{fix}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: must be UTF-8 text: byte {error.start} is not"]) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{path}: is not valid TOML: {error}"]) from error


def _station(table: Table, default: Config) -> tuple[str, frozenset[str], float]:
    """The name, the expected devIDs, and how often they send."""
    name = table.text("name", default.station, "must be a text")
    devices = table.texts(
        "devices",
        tuple(default.devices),
        "must be a list of devIDs, each a letter followed by letters, digits, _ or -",
        is_identifier,
    )
    interval_s = table.number("interval_s", default.interval_s, 0.0, 86400.0)
    table.finish()
    return name, frozenset(devices), interval_s


def _spool(table: Table, default: Config) -> tuple[Path, int, float]:
    """The path, its size in MB and the days of history."""
    path = table.text(
        "path", str(default.spool_path), "must be an absolute path", rules.is_absolute
    )
    max_mb = table.integer("max_mb", default.spool_max_bytes // MEGABYTE, MIN_SPOOL_MB, 1_000_000)
    history_days = table.number("history_days", default.history_days, 0.0, 3650.0)
    table.finish()
    return Path(path), max_mb, history_days


def _ports(file: _File) -> tuple[PortSettings, ...]:
    top = Table(file.path, "top level", file.content, file.problems)
    raw = file.content.get("serial", [{}])
    if not isinstance(raw, list) or not raw:
        top.wrong("serial", "must be one or more [[serial]] tables (two square brackets)")
        return ()
    ports = tuple(_port(Table(file.path, "[serial]", one, file.problems)) for one in raw)
    # One "auto" reads every port that speaks; a second one would find all of them taken.
    names = [port.port for port in ports]
    for twice in sorted({name for name in names if names.count(name) > 1}):
        top.wrong("serial", f"port {twice} is given twice: remove one of the [[serial]] tables")
    return ports


def _port(table: Table) -> PortSettings:
    default = PortSettings()
    stopbits = table.number("stopbits", default.stopbits, 1.0, 2.0)
    if stopbits not in {1.0, 1.5, 2.0}:
        table.wrong("stopbits", "must be 1, 1.5 or 2")
    settings = PortSettings(
        port=table.text(
            "port",
            default.port,
            'must be "auto", a path that starts with /, "socket://host:port" or '
            '"rfc2217://host:port"',
            rules.is_port_name,
        ),
        baud=table.integer("baud", default.baud, 50, 4_000_000),
        bytesize=table.integer("bytesize", default.bytesize, 5, 8),
        parity=table.text(
            "parity",
            default.parity,
            f"must be one of {', '.join(rules.PARITIES)}",
            lambda value: value in rules.PARITIES,
        ),
        stopbits=stopbits,
        idle_s=table.number("idle_s", default.idle_s, 0.1, 3600.0),
        candidates=table.texts("candidates", default.candidates, "must be a list of path patterns"),
        protocol=table.text(
            "protocol",
            default.protocol,
            f"must be one of {', '.join(PROTOCOLS)}",
            lambda value: value in PROTOCOLS,
        ),
        rtscts=table.flag("rtscts", default=default.rtscts),
        xonxoff=table.flag("xonxoff", default=default.xonxoff),
        dtr=table.flag("dtr", default=default.dtr),
    )
    table.finish()
    return settings


def _sinks(file: _File) -> tuple[SinkSettings, SinkSettings | None]:
    local = _sink(file, LOCAL, LOCAL.url, LOCAL.user)
    if "hub" not in file.content:
        return local, None
    hub = _sink(file, SinkSettings("hub", "", "", password=""), None, None)
    if (local.url, local.bucket) == (hub.url, hub.bucket):
        file.problems.append(
            f"{file.path}: [hub] url: is the same Kinto as [local]: give the DataHub's URL"
        )
    return local, hub


def _sink(
    file: _File, default: SinkSettings, default_url: str | None, default_user: str | None
) -> SinkSettings:
    table = file.table(default.name)
    url = table.text(
        "url",
        default_url,
        "must be the URL of a Kinto, with http:// or https:// and ending in /v1, "
        'as "https://hub.example.org/v1"',
        lambda value: rules.is_kinto_url(value) or rules.has_password(value),
    )
    user = table.text(
        "user",
        default_user,
        "must be the account's name, without a colon",
        lambda value: ":" not in value,
    )
    password = ""
    if file.passwords:
        password = read_password(default.name, table, file.credentials)
    else:
        table.has("password_file")
    settings = SinkSettings(
        name=default.name,
        url=url.rstrip("/"),
        user=user,
        password=password,
        bucket=table.text(
            "bucket", default.bucket, "must be letters, digits, _ and -", rules.is_bucket
        ),
        ca_file=table.file("ca_file"),
        # With a thread's watchdog in mind (supervisor.STALL_S): twice the reading at most.
        connect_timeout_s=table.number("connect_timeout_s", default.connect_timeout_s, 0.1, 30.0),
        read_timeout_s=table.number("read_timeout_s", default.read_timeout_s, 0.1, 60.0),
        batch_max=table.integer("batch_max", default.batch_max, 1, 1000),
    )
    if rules.has_password(url):
        table.wrong("url", "must be without user and password: `user` and `password_file` say them")
    table.finish()
    return settings


def _retention(table: Table, default: Config) -> tuple[float, float, bool]:
    """The days, the share of the disk, and whether records go that no hub has."""
    days = table.number("days", default.keep_days, 1.0, 36500.0)
    disk_percent = table.number("disk_percent", default.keep_disk_percent, 1.0, 90.0)
    delete = table.flag("delete_without_hub", default=default.delete_without_hub)
    table.finish()
    return days, disk_percent, delete


def _clock(table: Table, default: Config) -> tuple[str, float]:
    synchronised = table.text(
        "synchronised",
        default.clock_synchronised,
        'must be "kernel", "always" or the absolute path of a flag file',
        rules.is_clock_source,
    )
    hold_s = table.number("hold_s", default.hold_s, 0.0, 86400.0)
    table.finish()
    return synchronised, hold_s


def _status(table: Table, default: Config) -> tuple[tuple[str, int], Path | None]:
    """Address and port of the status server, and the folder of the notices."""
    listen = table.text(
        "listen",
        "{}:{}".format(*default.listen),
        'must be a loopback address and a port, as "127.0.0.1:8890"',
        rules.is_loopback_address,
    )
    notices = None
    if table.has("notices"):
        fix = "must be the absolute path of a folder"
        notices = table.text("notices", None, fix, rules.is_absolute)
    table.finish()
    host, _, port = listen.rpartition(":")
    return (host, int(port)), Path(notices) if notices else None
