"""`unisat-agent check`: tries everything that an operator could have got wrong.

Each finding is one line: ok, or what is wrong and the fix. Nothing is changed, but for a file
that is written beside the spool and removed again. What only one program can have at a time
(the ports) or what takes a password that this user may not read is asked of the running agent.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unisat_agent.cli.check_kinto import Finding, try_sink
from unisat_agent.cli.common import (
    EXIT_FAILED,
    Commands,
    ask_agent,
    load_config,
    load_without_passwords,
)
from unisat_agent.clock import SystemClock
from unisat_agent.config.model import Config, PortSettings, SinkSettings
from unisat_agent.errors import ConfigError, SpoolError
from unisat_agent.serial.ports import PortError, PortMissingError, list_ports, open_port, probe
from unisat_agent.serial.reader import AUTO
from unisat_agent.service.health import DISK_LOW_BYTES
from unisat_agent.spool import tools as spool_tools
from unisat_agent.spool.files import set_aside_copies

LISTEN_S = 10.0


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = commands.add_parser("check", help="try everything, and say what to fix")
    parser.add_argument(
        "--offline", action="store_true", help="only the configuration and the passwords"
    )
    parser.add_argument(
        "--listen",
        type=float,
        default=LISTEN_S,
        metavar="S",
        help=f"seconds to listen on a port ({LISTEN_S:g})",
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(command=_check)


def _check(args: argparse.Namespace) -> int:
    if args.offline:
        config = load_config(args)
        findings = [_configuration(config)]
        if not args.json:
            print(f"{config.path}: ok")
            return 0
    else:
        findings = []
        for finding in _try(args):
            findings.append(finding)
            if not args.json:
                print(finding, flush=True)
    passed = all(finding.ok for finding in findings)
    if args.json:
        print(json.dumps({"ok": passed, "findings": [asdict(one) for one in findings]}, indent=1))
    return 0 if passed else EXIT_FAILED


def _try(args: argparse.Namespace) -> Iterator[Finding]:
    try:
        config, passwords = load_config(args), True
    except ConfigError:
        # Raises again where it is not the passwords that are missing.
        config, passwords = load_without_passwords(args), False
    status = ask_agent(config)
    yield _configuration(config)
    if status is None:
        yield _listen(config.listen)
        for port in config.ports:
            yield _port(port, args.listen)
        yield _clock(config)
    else:
        yield from _agent(status)
    yield _disk(config.spool_path.parent)
    yield _spool(config)
    for sink in config.sinks:
        if passwords:
            yield from try_sink(sink, sorted(config.devices))
        else:
            yield _sink_of_agent(sink, status)


def _configuration(config: Config) -> Finding:
    return Finding(True, "configuration", f"{config.path} is valid")


def _agent(status: dict[str, Any]) -> Iterator[Finding]:
    """What the running agent says of itself: it has the ports, and knows what arrives."""
    health = status["health"]
    yield Finding(health != "failed", "agent", f"is running, version {status['version']}: {health}")
    for problem in status["problems"]:
        yield Finding(False, "agent", problem)
    for port in status["ports"]:
        if port["state"] == "reading":
            yield Finding(True, f"port {port['name']}", port["detail"])


def _sink_of_agent(sink: SinkSettings, status: dict[str, Any] | None) -> Finding:
    """What the running agent says of a Kinto, where this user may not read the password."""
    if status is None:
        return Finding(
            False,
            sink.name,
            "no agent is running, and this user may not read the password: start the agent, or "
            "put sudo before the command",
        )
    seen = status["sinks"].get(sink.name)
    if seen is None:
        return Finding(
            False,
            sink.name,
            "the running agent does not know it yet: restart the agent",
        )
    delivering = seen["state"] in {"delivering", "starting"}
    text = f"{sink.url}: the agent is {seen['state'].replace('_', ' ')}, {seen['pending']} pending"
    return Finding(delivering, sink.name, f"{text}; {seen['detail']}".rstrip("; "))


def _listen(address: tuple[str, int]) -> Finding:
    """Whether the agent could answer on its status address."""
    where = f"{address[0]}:{address[1]}"
    try:
        with socket.create_server(address):
            return Finding(True, "status", f"{where} is free, no agent is running")
    except OSError as error:
        return Finding(
            False,
            "status",
            f"{where} can't be used: {error.strerror}: choose another [status] listen",
        )


def _port(settings: PortSettings, listen_s: float) -> Finding:
    if settings.port == AUTO:
        return _auto(settings, listen_s)
    subject = f"port {settings.port}"
    try:
        with open_port(settings.port, settings) as port:
            heard = probe(port, listen_s)
    except PortMissingError as error:
        return Finding(False, subject, f"{error}; {_speakers(settings, listen_s)}")
    except PortError as error:
        return Finding(False, subject, str(error))
    return Finding(bool(heard.packages), subject, str(heard))


def _auto(settings: PortSettings, listen_s: float) -> Finding:
    said: list[str] = []
    for info in list_ports(settings.candidates):
        try:
            with open_port(info.device, settings) as port:
                heard = probe(port, listen_s)
        except PortError as error:
            said.append(f"{info}: {error}")
            continue
        if heard.packages:
            return Finding(True, "port auto", f"{info}: {heard}")
        said.append(f"{info}: {heard}")
    return Finding(
        False, "port auto", "; ".join(said) or "there is no serial port: plug the device in"
    )


def _speakers(settings: PortSettings, listen_s: float) -> str:
    """Which of the ports that exist speak PSoTT."""
    speaking: list[str] = []
    for info in list_ports(settings.candidates):
        try:
            with open_port(info.device, settings) as port:
                if probe(port, listen_s).packages:
                    speaking.append(str(info))
        except PortError:
            continue
    return f"PSoTT is spoken on: {', '.join(speaking) or 'none of them'}"


def _clock(config: Config) -> Finding:
    if SystemClock(config.clock_synchronised).synchronised():
        return Finding(True, "clock", "is synchronised")
    return Finding(
        False,
        "clock",
        "is not synchronised: connect the network or a time server (chronyc sources); packages "
        "are stored all the same and their times corrected later",
    )


def _disk(folder: Path) -> Finding:
    try:
        free = shutil.disk_usage(folder).free
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return Finding(
            False,
            "disk",
            f"{folder} can't be written: {error.strerror}: "
            f"create it, or run this as the agent's user (sudo -u unisat)",
        )
    text = f"{folder} has {free // 2**20} MB free"
    if free < DISK_LOW_BYTES:
        return Finding(False, "disk", f"{text}: free at least {DISK_LOW_BYTES // 2**20} MB")
    return Finding(True, "disk", text)


def _spool(config: Config) -> Finding:
    path = config.spool_path
    if not path.exists():
        return Finding(True, "spool", f"{path} will be made at the first start")
    try:
        wrong = spool_tools.check(path)
        counts = spool_tools.count(path)
    except SpoolError as error:
        return Finding(False, "spool", str(error))
    if wrong:
        return Finding(
            False,
            "spool",
            f"{path} is damaged ({wrong[0]}): restart the agent, it sets it aside by itself",
        )
    aside = set_aside_copies(path)
    if aside:
        return Finding(False, "spool", f"a damaged one was set aside as {aside[-1]}")
    return Finding(True, "spool", ", ".join(f"{number} {name}" for name, number in counts.items()))
