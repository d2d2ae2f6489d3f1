"""`unisat-agent ports`: which serial ports exist, and which speak PSoTT."""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from unisat_agent.cli.common import EXIT_FAILED, Commands, ask_agent, load_without_passwords
from unisat_agent.config.model import DEFAULT_CANDIDATES, Config, PortSettings
from unisat_agent.errors import ConfigError
from unisat_agent.serial.ports import PortError, PortInfo, list_ports, open_port, probe
from unisat_agent.serial.reader import AUTO
from unisat_agent.text import counted

LISTEN_S = 10.0


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = commands.add_parser("ports", help="which serial ports exist, and which speak PSoTT")
    parser.add_argument(
        "--listen",
        type=float,
        default=LISTEN_S,
        metavar="S",
        help=f"seconds to listen ({LISTEN_S:g}); 0: don't",
    )
    parser.add_argument(
        "--baud", type=int, default=PortSettings().baud, help=f"bit/s ({PortSettings().baud})"
    )
    parser.set_defaults(command=_ports)


def _ports(args: argparse.Namespace) -> int:
    held: dict[str, dict[str, Any]] = {}
    candidates: tuple[str, ...] = DEFAULT_CANDIDATES
    try:
        config = load_without_passwords(args)
    except ConfigError:
        pass  # A board can be looked for before there is a configuration.
    else:
        candidates = configured_candidates(config)
        held = ports_of_agent(ask_agent(config))
    found = list_ports(candidates)
    lines = [_held(port) for port in held.values()]
    free = [info for info in found if os.path.realpath(info.device) not in held]
    if free:
        with ThreadPoolExecutor(len(free)) as pool:
            lines += pool.map(lambda info: _describe(info, args.baud, args.listen), free)
    if not lines:
        print("there is no serial port: plug the device in")
        return EXIT_FAILED
    print("\n".join(lines))
    return 0


def configured_candidates(config: Config) -> tuple[str, ...]:
    """The names and patterns under which the configuration expects ports."""
    names: dict[str, None] = {}
    for port in config.ports:
        if port.port == AUTO:
            names.update(dict.fromkeys(port.candidates))
        elif port.port.startswith("/"):
            names[port.port] = None
    names.update(dict.fromkeys(DEFAULT_CANDIDATES))
    return tuple(names)


def ports_of_agent(status: dict[str, Any] | None) -> dict[str, dict[str, Any]]:
    """The ports that the running agent has open, by their device node."""
    if status is None:
        return {}
    return {
        os.path.realpath(port["device"]): port
        for port in status["ports"]
        if port["state"] == "reading" and port["device"]
    }


def _held(port: dict[str, Any]) -> str:
    name = port["name"] if port["name"].startswith("/") else port["device"]
    return f"{name}: the agent reads it, {counted(port['bytes'], 'byte')} so far"


def _describe(info: PortInfo, baud: int, listen_s: float) -> str:
    if listen_s <= 0:
        return str(info)
    try:
        with open_port(info.device, PortSettings(port=info.device, baud=baud)) as port:
            return f"{info}: {probe(port, listen_s)}"
    except PortError as error:
        return f"{info}: {error}"
