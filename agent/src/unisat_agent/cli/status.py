"""`unisat-agent status`: how the running agent is."""

from __future__ import annotations

import argparse
import json
import time
from datetime import UTC, datetime
from typing import Any

from unisat_agent.cli.common import EXIT_FAILED, Commands, ask_agent, load_without_passwords
from unisat_agent.config.model import Config
from unisat_agent.errors import AgentError
from unisat_agent.text import counted, duration

WATCH_S = 2.0
# Clears the terminal and moves to its first line (ECMA-48: CUP, ED).
_CLEAR = "\x1b[H\x1b[2J"


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = commands.add_parser("status", help="how the running agent is")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="as JSON")
    how.add_argument("--watch", action="store_true", help="again every 2 s, until Ctrl-C")
    parser.set_defaults(command=_status)


def _status(args: argparse.Namespace) -> int:
    config = load_without_passwords(args)
    if args.watch:
        _watch(config)
    status = _ask(config)
    print(json.dumps(status, indent=1) if args.json else describe(status))
    return EXIT_FAILED if status.get("health") == "failed" else 0


def _watch(config: Config) -> None:
    """Shows the status again and again; Ctrl-C ends it."""
    while True:
        try:
            shown = describe(_ask(config))
        except AgentError as error:
            shown = str(error)
        print(f"{_CLEAR}{shown}\n\n{time.strftime('%H:%M:%S')}, Ctrl-C ends it", flush=True)
        time.sleep(WATCH_S)


def _ask(config: Config) -> dict[str, Any]:
    status = ask_agent(config)
    if status is None:
        host, port = config.listen
        raise AgentError(
            f"no agent answers on {host}:{port}: start it (sudo systemctl start unisat-agent) and "
            f"see its log (journalctl -u unisat-agent)"
        )
    return status


def describe(status: dict[str, Any]) -> str:
    """The document of /status, for a terminal."""
    lines = [f"{status['station']}: {status['health']}, agent {status['version']}"]
    lines += [f"  ! {problem}" for problem in status["problems"]]
    clock = "synchronised" if status["clock"]["synchronised"] else "not synchronised"
    lines.append(f"clock     {clock}")
    lines += [f"port      {_port(port)}" for port in status["ports"]]
    lines += [f"device    {_device(one)}" for port in status["ports"] for one in port["devices"]]
    spool = status["spool"]
    lines.append(
        f"spool     {counted(spool['last_seq'], 'package')} so far, {spool['bytes'] // 1024} kB, "
        f"{counted(spool['quarantined'], 'line')} in quarantine"
    )
    lines.append(f"disk      {_disk(status)}")
    if status["last_record"]:
        lines.append(f"last      {_record(status['last_record'])}")
    lines += [f"{name:9} {_sink(sink)}" for name, sink in status["sinks"].items()]
    return "\n".join(lines)


def _disk(status: dict[str, Any]) -> str:
    free = status["spool"]["disk_free"]
    days = status["retention"]["full_in_days"]
    forecast = "" if days is None else f", full in about {duration(days * 86_400)}"
    room = "unknown how much is free" if free is None else f"{free // 2**20} MB free"
    kept_s = status["retention"]["days"] * 86_400
    kept = f"records are kept for {duration(kept_s)}"
    return f"{room}{forecast}, {kept}"


def _port(port: dict[str, Any]) -> str:
    # What a port is doing is in its detail, but for one that was given none.
    doing = port["detail"] or port["state"]
    name = "" if port["name"] in doing else f"{port['name']}: "
    return f"{name}{doing}, {counted(port['bytes'], 'byte')} so far"


def _device(device: dict[str, Any]) -> str:
    usual = device["interval_s"]
    every = f", one every {duration(usual)}" if usual else ""
    return (
        f"{device['devID']}: {counted(device['packages'], 'package')}, the last "
        f"{duration(device['last_package_s'])} ago{every}"
    )


def _record(record: dict[str, Any]) -> str:
    """The device, how long ago by this host's clock, and when."""
    received = datetime.fromisoformat(record["received_at"])
    ago_s = (datetime.now(UTC) - received).total_seconds()
    when = f"{received:%Y-%m-%d %H:%M:%S} UTC"
    if record["clock"] == "unsynced":
        return f"{record['devID']}, at a time that is not known yet"
    return (
        f"{record['devID']} {duration(ago_s)} ago, {when}"
        if ago_s >= 0
        else (f"{record['devID']} {when}")
    )


def _sink(sink: dict[str, Any]) -> str:
    oldest = f", the oldest for {duration(sink['oldest_s'])}" if sink["pending"] else ""
    dead = f", {counted(sink['dead'], 'dead letter')}" if sink["dead"] else ""
    return (
        f"{sink['state'].replace('_', ' ')}: {sink['pending']} waiting{oldest}, {sink['acked']} "
        f"delivered since the start{dead}"
    )
