"""`unisat-agent capture` and `replay`: what a device really sends, in a file for support."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path

from unisat_agent.cli.common import EXIT_USAGE, Commands, load_without_passwords, output
from unisat_agent.config.model import PortSettings
from unisat_agent.errors import AgentError, ConfigError
from unisat_agent.protocols.events import Event, Package
from unisat_agent.record import payload_of
from unisat_agent.serial import capture as captures
from unisat_agent.serial.ports import open_port
from unisat_agent.serial.reader import AUTO
from unisat_agent.signals import SignalThread
from unisat_agent.simulator.line import LineError, Pty
from unisat_agent.text import counted

SECONDS = 60.0


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    """Adds both commands."""
    capturing = commands.add_parser(
        "capture", help="write what comes over a port to a file; stop the agent first"
    )
    capturing.add_argument("--port", help="which one (default: the configuration's)")
    capturing.add_argument("--baud", type=int, help="bit/s (default: the configuration's)")
    capturing.add_argument(
        "--seconds", type=float, default=SECONDS, metavar="S", help=f"how long ({SECONDS:g})"
    )
    capturing.add_argument("--output", type=Path, metavar="FILE", help="(default: standard output)")
    capturing.set_defaults(command=_capture)
    replaying = commands.add_parser("replay", help="what the agent makes of such a file")
    replaying.add_argument("file", type=Path, metavar="FILE")
    replaying.add_argument(
        "--link", type=Path, help="send it on a pty with this symlink instead, at its own pace"
    )
    replaying.add_argument("--speed", type=float, default=1.0, help="so many times faster (1)")
    replaying.set_defaults(command=_replay)


def _capture(args: argparse.Namespace) -> int:
    settings = _settings(args)
    if settings.port == AUTO:
        print('which port? Name one with --port; "unisat-agent ports" lists them', file=sys.stderr)
        return EXIT_USAGE
    with (
        open_port(settings.port, settings) as port,
        output(args.output, sys.stdout) as file,
    ):
        size = captures.capture(port, settings, file, args.seconds)
    print(f"{settings.port}: {counted(size, 'byte')} in {args.seconds:g} s", file=sys.stderr)
    return 0


def _settings(args: argparse.Namespace) -> PortSettings:
    """The configuration's settings for that port, or its first port; else the defaults."""
    try:
        known = load_without_passwords(args).ports
    except ConfigError:
        known = ()
    named = [port for port in known if args.port in {None, port.port}]
    settings = named[0] if named else PortSettings(port=args.port or AUTO)
    return PortSettings(
        port=settings.port,
        baud=args.baud or settings.baud,
        bytesize=settings.bytesize,
        parity=settings.parity,
        stopbits=settings.stopbits,
        rtscts=settings.rtscts,
        xonxoff=settings.xonxoff,
        dtr=settings.dtr,
    )


def _replay(args: argparse.Namespace) -> int:
    try:
        with args.file.open(encoding="ascii", errors="replace") as file:
            chunks = captures.read_capture(file)
            if args.link is None:
                for at_s, event in captures.decode(chunks, PortSettings()):
                    print(f"{at_s:10.3f}  {_described(event)}")
                return 0
            return _send(list(chunks), args)
    except OSError as error:
        raise AgentError(f"{args.file}: can't be read: {error.strerror}") from error


def _described(event: Event) -> str:
    if isinstance(event, Package):
        return f"package of {event.dev_id}: {payload_of(event)}"
    return f"refused, {event.reason}: {event.raw!r}"


def _send(chunks: list[captures.Chunk], args: argparse.Namespace) -> int:
    stop = threading.Event()
    try:
        line = Pty(args.link)
    except LineError as error:
        raise AgentError(str(error)) from error
    ends = frozenset({signal.SIGINT, signal.SIGTERM})
    try:
        with SignalThread(ends, lambda _: stop.set()):
            print(f"sending on {line.name}", file=sys.stderr, flush=True)
            size = captures.replay(chunks, line.write, stop.wait, args.speed)
            while not stop.is_set() and not line.drained(0.2):
                pass
    finally:
        line.close()
    print(f"{counted(size, 'byte')} sent", file=sys.stderr)
    return 0
