"""Applies unisat.toml, and takes its secrets off the card.

What is right goes into applied.json and the secrets' files first; every file of the system is then
written from these alone. So a power cut at any moment is mended by the next start.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from unisat_station import machine, network
from unisat_station.machine import StationError, scrub_on_boot, write, write_on_boot
from unisat_station.settings import (
    NAME,
    SECRETS,
    TAKEN,
    Problem,
    Value,
    filled,
    parse,
    scrubbed,
)

ERRORS = "unisat-errors.txt"
# What unisat.toml sets on a station that a controller owns.
ON_CARD = (
    *("station.timezone", "station.language", "wifi.name", "wifi.password", "wifi.country"),
    *("wifi.hidden", "network.address", "network.gateway", "network.dns"),
    *("access.password", "access.ssh_keys"),
)
CONNECTIONS = Path("etc/NetworkManager/system-connections")
LIBRARY = Path("usr/local/lib/unisat-station")
STATE = Path("var/lib/unisat-station")


class Run(Protocol):
    """A command with its input, which may be secret; raises StationError."""

    def __call__(self, *argv: str, given: str = "") -> str:
        """Returns what it prints."""
        ...


class Applied(NamedTuple):
    """What came of it.

    Attributes:
        lines: The mistakes, a sentence each.
        password_is_set: The file set the password of `pi` that holds now.
        agent_changed: The agent's configuration is another than before.
        card_was_there: The boot partition was mounted.
    """

    lines: list[str]
    password_is_set: bool
    agent_changed: bool
    card_was_there: bool


def apply(
    root: Path = Path("/"),
    run: Run = machine.run,
    notice: Callable[[str, list[str]], None] = machine.notice,
) -> Applied:
    """Applies what the file on the boot partition says; shows the mistakes as notices.

    Args:
        root: Where the system lies; everything is done below.
        run: Runs the few commands that are needed.
        notice: Shows the lines of a topic.
    """
    applied = _Station(root, run).apply()
    notice("settings", applied.lines)
    return applied


class _Station:
    def __init__(self, root: Path, run: Run) -> None:
        self.root, self.run = root, run
        self.boot = root / "boot/firmware"
        # What is written into the empty folder is on no card that a user could read.
        self.mounted = root != Path("/") or os.path.ismount(self.boot)
        self.lines: list[str] = []
        self.agent_changed = False

    def apply(self) -> Applied:
        before = self._applied()
        content = self._content(before)
        values = dict(before)
        fresh: dict[str, str] = {}
        controlled = machine.owner(self.root / STATE) == "controller"
        if content is not None:
            taken = frozenset(key for key in SECRETS if before.get(key) == TAKEN)
            reading = parse(content, self.boot, self.root, taken)
            problems = sorted(reading.problems, key=lambda p: p.line or 0)
            self.lines += [str(problem) for problem in problems]
            said = dict(reading.settings.values)
            if controlled:
                self._leave(said, before)
            values |= said
            fresh = {
                key: str(values[key])
                for key in SECRETS
                if key in said and values[key] not in {"", TAKEN}
            }
        done: frozenset[str] = frozenset()
        try:
            done = self._keep(before, values, fresh)
        except (OSError, StationError) as error:
            self.lines.append(f"{NAME} could not be taken over: {error}.")
        steps = (
            *(self._host, self._clock, self._agent, self._wifi, self._cable, self._access),
            lambda _: self._keyfiles(),
        )
        for step in steps:
            if controlled and step in {self._host, self._agent}:
                continue
            try:
                step(values)
            except (OSError, StationError, ValueError) as error:
                self.lines.append(f"{NAME} could not be applied whole: {error}.")
        if content is not None:
            self._scrub(content, done)
        self._report()
        is_set = values.get("access.password") == TAKEN
        return Applied(self.lines, is_set, self.agent_changed, self.mounted)

    def _leave(self, said: dict[str, Value], before: dict[str, Value]) -> None:
        """Takes what the controller sets out of what the file says."""
        others = [key for key in said if key not in ON_CARD and key not in SECRETS]
        changed = [key for key in others if said[key] != before.get(key, said[key])]
        for key in others:
            del said[key]
        if changed:
            names = ", ".join(f"[{t}] {k}" for t, _, k in (key.partition(".") for key in changed))
            self.lines.append(
                f"{NAME}: {names}: this station is set up from a controller, which sets this; of "
                f"{NAME} only Wi-Fi, log-in, time zone and language hold."
            )

    def _applied(self) -> dict[str, Value]:
        try:
            kept = json.loads((self.root / STATE / "applied.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return kept if isinstance(kept, dict) else {}

    def _content(self, before: dict[str, Value]) -> bytes | None:
        """The file, or None where there is none; then one is put there that says what holds."""
        path = self.boot / NAME
        if not self.mounted:
            self.lines.append(
                f"the boot partition is not there yet: what {NAME} said still holds. It is read as "
                "soon as it is there; if this line stays, check the card in another computer."
            )
            return None
        doing = "read"
        try:
            content = path.read_bytes() if path.exists() else b""
            # What a repair of the file system leaves of a file may be zeros.
            if content.strip(b"\0\r\n\t "):
                return content
            self.lines.append(f"{NAME} was missing or empty: what it said still holds.")
            template = (self.root / LIBRARY / NAME).read_text(encoding="utf-8")
            doing = "written"
            write_on_boot(path, filled(template, before).encode())
        except OSError as error:
            self.lines.append(
                f"{NAME} can't be {doing} ({error.strerror}): check the card in another computer."
            )
        return None

    def _keep(
        self, before: dict[str, Value], values: dict[str, Value], fresh: dict[str, str]
    ) -> frozenset[str]:
        """Keeps the values for the next start; returns the secrets that are safe here."""
        done = set()
        for key, secret in fresh.items():
            try:
                if key == "access.password":
                    self._log_in(secret)
                else:
                    write(self._secret(key), secret + "\n", 0o600)
                values[key] = TAKEN
                done.add(key)
            except (OSError, StationError) as error:
                where = Problem(None, key, f"was not taken over: {error}.")
                self.lines.append(str(where))
                values[key] = before.get(key, "")
        if before.get("access.password") == TAKEN and values.get("access.password") == "":
            self.run("usermod", "--lock", "pi")
        write(self.root / STATE / "applied.json", json.dumps(values) + "\n", 0o600)
        return frozenset(done)

    def _secret(self, key: str) -> Path:
        return self.root / STATE / "secrets" / key.replace(".", "_")

    def _taken(self, key: str) -> str:
        """A secret that was taken over.

        Raises:
            StationError: It is lost; whoever asks leaves what it would write as it is.
        """
        try:
            secret = _text(self._secret(key))
        except (OSError, UnicodeDecodeError):
            secret = ""
        if not secret:
            table, _, name = key.partition(".")
            raise StationError(f"[{table}] {name} is lost: write the password there again")
        return secret

    def _log_in(self, password: str) -> None:
        is_hash = re.match(r"\$(6|y)\$", password)
        self.run("chpasswd", *(["--encrypted"] if is_hash else []), given=f"pi:{password}\n")

    def _host(self, values: dict[str, Value]) -> None:
        if not (name := values.get("station.name")):
            return
        hosts = self.root / "etc/hosts"
        text = hosts.read_text(encoding="utf-8") if hosts.exists() else "127.0.0.1 localhost\n"
        rest = [line for line in text.splitlines() if not line.startswith("127.0.1.1")]
        write(hosts, "\n".join([*rest, f"127.0.1.1 {name}"]) + "\n")
        write(self.root / "etc/hostname", f"{name}\n")
        if self.run("hostname").strip() != name:
            self.run("hostname", str(name))

    def _clock(self, values: dict[str, Value]) -> None:
        if zone := values.get("station.timezone"):
            _link(self.root / "etc/localtime", f"/usr/share/zoneinfo/{zone}")
            write(self.root / "etc/timezone", f"{zone}\n")
        if language := str(values.get("station.language") or ""):
            file = self.root / "etc/default/locale"
            if _text(file) == f"LANG={language}":
                return
            # What `locale -a` prints has no hyphen: en_GB.utf8.
            if language.replace("UTF-8", "utf8") not in self.run("locale", "-a").split():
                source = language.removesuffix(".UTF-8")
                self.run("localedef", "-i", source, "-f", "UTF-8", language)
            write(file, f"LANG={language}\n")

    def _agent(self, values: dict[str, Value]) -> None:
        config = self.root / "etc/unisat-agent"
        base = tomllib.loads((self.root / LIBRARY / "agent.toml").read_text(encoding="utf-8"))
        station = base.setdefault("station", {})
        if name := values.get("station.name") or _text(self.root / "etc/hostname"):
            station["name"] = name
        if "station.devices" in values:
            station["devices"] = values["station.devices"]
        port = base.setdefault("serial", [{}])[0]
        for key in ("port", "baud", "idle_s"):
            if value := values.get(f"serial.{key}"):
                port[key] = value
        if isinstance(port.get("port"), list):
            base["serial"] = [{**port, "port": name} for name in port["port"]]
        if url := values.get("hub.url"):
            password = self._taken("hub.password")
            hub = {"url": url, "user": values.get("hub.user") or station["name"]}
            hub["bucket"] = base.get("local", {}).get("bucket", "telemetry")
            if certificate := str(values.get("hub.ca") or ""):
                write(config / "hub.pem", certificate)
                # The path as the agent sees it.
                hub["ca_file"] = "/etc/unisat-agent/hub.pem"
            write(config / "credentials/hub.password", f"{password}\n", 0o600)
            base["hub"] = hub
        group = "unisat" if self.root == Path("/") else None
        self.agent_changed = write(config / "agent.toml", _toml(base), 0o640, group)

    def _wifi(self, values: dict[str, Value]) -> None:
        keyfile = self.root / CONNECTIONS / "unisat-wifi.nmconnection"
        if country := values.get("wifi.country"):
            regulation = self.root / "etc/modprobe.d/unisat-wifi.conf"
            write(regulation, f"options cfg80211 ieee80211_regdom={country}\n")
        if not values.get("wifi.name"):
            keyfile.unlink(missing_ok=True)
            return
        # Raspberry Pi OS keeps the radio off until somebody asks for it.
        state = self.root / "var/lib/NetworkManager/NetworkManager.state"
        if "WirelessEnabled=true" not in _text(state):
            write(state, "[main]\nNetworkingEnabled=true\nWirelessEnabled=true\n", 0o600)
        password = ""
        if values.get("wifi.password") == TAKEN:
            password = self._taken("wifi.password")
        write(keyfile, network.wifi(values, password), 0o600)

    def _cable(self, values: dict[str, Value]) -> None:
        """A profile for the cable where the address is set; else NetworkManager makes its own."""
        keyfile = self.root / CONNECTIONS / "unisat-cable.nmconnection"
        if not values.get("network.address"):
            keyfile.unlink(missing_ok=True)
            return
        write(keyfile, network.cable(values), 0o600)

    def _keyfiles(self) -> None:
        """Takes NetworkManager's keyfiles over, and their passwords off the card."""
        for file in sorted(self.boot.glob("*.nmconnection")) if self.mounted else []:
            try:
                text = file.read_text(encoding="utf-8-sig").replace("\r\n", "\n")
            except (OSError, UnicodeDecodeError) as error:
                self.lines.append(f"{file.name} can't be read ({error}): copy it there again.")
                continue
            if not text.strip("\0"):
                file.unlink()  # a power cut came between the two steps below
                continue
            if not re.search(r"^\[connection\]$", text, re.MULTILINE):
                self.lines.append(
                    f"{file.name} is no keyfile of NetworkManager: it has no line [connection]."
                )
                continue
            write(self.root / CONNECTIONS / file.name, text, 0o600)
            scrub_on_boot(file, b"")
            file.unlink()

    def _access(self, values: dict[str, Value]) -> None:
        keys = values.get("access.ssh_keys") or []
        listed = "".join(f"{key}\n" for key in keys) if isinstance(keys, list) else ""
        write(self.root / "etc/ssh/authorized_keys.d/pi", listed)
        passwords = "yes" if values.get("access.password") == TAKEN else "no"
        # sshd keeps what it reads first: where no password is set here, Imager's choice holds.
        imager = "" if passwords == "yes" else "Include /etc/ssh/sshd_config.d/50-cloud-init.conf\n"
        write(
            self.root / "etc/ssh/sshd_config.d/05-unisat-station.conf",
            f"PermitRootLogin no\n{imager}"
            f"PasswordAuthentication {passwords}\nKbdInteractiveAuthentication {passwords}\n"
            "AuthorizedKeysFile .ssh/authorized_keys /etc/ssh/authorized_keys.d/%u\n",
            0o600,
        )

    def _scrub(self, content: bytes, done: frozenset[str]) -> None:
        fresh = scrubbed(content, done)
        if fresh == content:
            return
        try:
            scrub_on_boot(self.boot / NAME, fresh)
        except OSError as error:
            self.lines.append(
                f"the passwords could not be taken out of {NAME} ({error.strerror}): write "
                f'"{TAKEN}" over them yourself.'
            )

    def _report(self) -> None:
        if not self.mounted:
            return
        path = self.boot / ERRORS
        text = "".join(f"{line}\r\n" for line in self.lines).encode()
        try:
            if not text:
                path.unlink(missing_ok=True)
            elif not path.exists() or path.read_bytes() != text:
                write_on_boot(path, text)
        except OSError as error:
            self.lines.append(
                f"{ERRORS} can't be written on the boot partition ({error.strerror}): check the "
                "card in another computer."
            )


def _link(path: Path, target: str) -> None:
    if path.is_symlink() and str(path.readlink()) == target:
        return
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(path)
    machine.sync_folder(path.parent)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip("\n") if path.exists() else ""


def _toml(tables: dict[str, Any]) -> str:
    """The agent's configuration; its values are of the kinds that JSON writes as TOML does."""
    text = ""
    for name, table in tables.items():
        for each in table if isinstance(table, list) else [table]:
            text += f"[[{name}]]\n" if isinstance(table, list) else f"[{name}]\n"
            text += "".join(
                f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in each.items()
            )
            text += "\n"
    return text
