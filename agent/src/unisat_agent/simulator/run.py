"""`unisat-agent simulate`: a seeded device that speaks PSoTT at its pace on a line of any kind.

`satellite` makes the bytes, `line` carries them, and this sends them and writes the journal: an
entry is written after its bytes were handed to the line.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum, auto
from itertools import islice
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final, TextIO

from unisat_agent.protocols.psott import is_identifier
from unisat_agent.signals import SignalThread
from unisat_agent.simulator.line import Line, LineError, LineLostError, Pty, SerialLine, SocketLine
from unisat_agent.simulator.satellite import (
    CLOSING,
    FAULTS,
    LINE_ENDS,
    Entry,
    Frame,
    frames,
)


class Command(Enum):
    """What the wait between two frames was ended by."""

    GO_ON = auto()
    UNPLUG = auto()
    PLUG = auto()
    STOP = auto()


@dataclass(slots=True)
class Summary:
    """What a run did."""

    packages: int = 0
    expected: int = 0


class _Journal:
    """Writes entries and remembers those whose bytes may still be on the line."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._on_line: list[Entry] = []

    def write(self, entry: Entry) -> None:
        self._file.write(entry.to_json() + "\n")
        self._file.flush()

    def sent(self, entry: Entry) -> None:
        self.write(entry)
        self._on_line.append(entry)

    def arrived(self) -> None:
        self._on_line.clear()

    def lost(self, fault: str) -> int:
        """Withdraws what was on the line; says how many expected packages that were."""
        for entry in self._on_line:
            self.write(replace(entry, expected=None, fault=fault))
        withdrawn = sum(1 for entry in self._on_line if entry.expected)
        self.arrived()
        return withdrawn


def run(
    source: Iterator[Frame],
    line: Line,
    journal: TextIO,
    step_s: float,
    wait: Callable[[float], Command],
) -> Summary:
    """Sends frames at their pace until there are no more or the wait says stop.

    Args:
        source: The frames.
        line: Where to.
        journal: The open journal; flushed after every entry.
        step_s: Seconds that one interval of `Frame.pause` takes.
        wait: Waits so many seconds, or until there is a command. The cable is pulled between
            packages only, and after the receiver had 5 s to read what is on the line.
    """
    notes = _Journal(journal)
    summary = Summary()
    due = time.monotonic()
    for frame in source:
        while (command := wait(max(0.0, due - time.monotonic()))) is not Command.GO_ON:
            if command is Command.STOP:
                break
            if command is Command.PLUG:
                line.plug()
                continue
            if line.drained(5):
                notes.arrived()
            summary.expected -= notes.lost("unplugged")
            line.unplug()
        if command is Command.STOP:
            break
        if line.drained():
            notes.arrived()
        try:
            taken = line.write(frame.data)
        except LineLostError:
            summary.expected -= notes.lost("lost")
            notes.write(replace(frame.entry, expected=None, fault="lost"))
        else:
            if taken == 0:
                notes.write(Entry(frame.entry.dev_id, frame.entry.packet, False, fault="unplugged"))
            elif taken < len(frame.data):
                notes.write(replace(frame.entry, expected=None, fault="cut off"))
            else:
                notes.sent(frame.entry)
                summary.expected += bool(frame.entry.expected)
        summary.packages += 1
        # After a stall the pace starts anew: no burst that nobody asked for.
        if time.monotonic() - due > step_s:
            due = time.monotonic()
        due += frame.pause * step_s
    with suppress(LineLostError):
        line.write(CLOSING)
    if line.drained(10):
        notes.arrived()
    summary.expected -= notes.lost("not read")
    return summary


_SIGNALS: Final = {
    signal.SIGUSR1: Command.UNPLUG,
    signal.SIGUSR2: Command.PLUG,
    signal.SIGINT: Command.STOP,
    signal.SIGTERM: Command.STOP,
    signal.SIGHUP: Command.STOP,
}
_SENSORS_FAIL: Final = signal.SIGRTMIN
_SENSORS_WORK: Final = signal.SIGRTMAX


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.removeprefix("socket://").rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host.strip("[]") or "127.0.0.1", int(port)


def _devices(text: str) -> tuple[str, ...]:
    if text.isdecimal():
        names = tuple(f"sim{number:02}" for number in range(1, int(text) + 1))
    else:
        names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if not is_identifier(name):
            raise argparse.ArgumentTypeError(
                f"{name!r} is no devID: a letter first, then letters, digits, - or _"
            )
    if not names or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError("at least one device is needed, and no name twice")
    return names


def _faults(text: str) -> tuple[str, ...]:
    names = FAULTS if text == "all" else tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in FAULTS:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(FAULTS)}, all")
    return names


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def _probability(text: str) -> float:
    number = _positive(text)
    if number > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not above 0 and at most 1")
    return number


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `unisat-agent simulate`."""
    parser.description = (
        "A satellite that is not there: sends PSoTT until it is stopped. "
        "SIGUSR1 pulls the cable, SIGUSR2 plugs it in again; SIGRTMIN adds nan to the faults, "
        "SIGRTMAX takes it away."
    )
    to = parser.add_mutually_exclusive_group()
    to.add_argument("--link", type=Path, help="make a pty and this symlink to it")
    to.add_argument("--port", help="send on this serial port")
    to.add_argument("--connect", type=_address, metavar="HOST:PORT", help="send over TCP")
    to.add_argument("--listen", type=_address, metavar="HOST:PORT", help="await a TCP receiver")
    parser.add_argument("--baud", type=int, default=9600, help="of --port (default: 9600)")
    parser.add_argument(
        "--devices", type=_devices, default=("sim01",), help="devIDs a,b,c, or how many"
    )
    parser.add_argument(
        "--interval", type=_positive, default=3.0, help="seconds between packages of a device (3)"
    )
    parser.add_argument("--speed", type=_positive, default=1.0, help="so many times faster (1)")
    parser.add_argument("--count", type=_count, help="end after so many packages in all")
    parser.add_argument("--seed", default="1", help="the same seed sends the same bytes (1)")
    parser.add_argument(
        "--faults", type=_faults, default=(), help=f"some of {','.join(FAULTS)}, or all"
    )
    parser.add_argument(
        "--probability", type=_probability, default=0.2, help="of a fault in a package (0.2)"
    )
    parser.add_argument("--crc", action="store_true", help="end each package with its checksum")
    parser.add_argument(
        "--line-end", choices=list(LINE_ENDS), default="crlf", help="of each line (crlf)"
    )
    parser.add_argument("--journal", type=Path, help="write here what must be stored")


def _open_line(args: argparse.Namespace) -> Line:
    if args.port:
        return SerialLine(args.port, args.baud)
    if args.connect or args.listen:
        host, port = args.connect or args.listen
        return SocketLine(host, port, listen=bool(args.listen))
    return Pty(args.link)


def main(args: argparse.Namespace) -> int:
    """Runs the simulator; 0 when it ended as asked, 1 when it could not work."""
    # Taken up between two packages, so that no signal cuts one in half.
    commands: SimpleQueue[Command] = SimpleQueue()

    def wait_for_command(seconds: float) -> Command:
        with suppress(Empty):
            return commands.get(timeout=max(0.0, seconds))
        return Command.GO_ON

    faults = list(args.faults)

    def obey(number: signal.Signals) -> None:
        if number == _SENSORS_FAIL:
            faults[:] = [*args.faults, "nan"]
        elif number == _SENSORS_WORK:
            faults[:] = args.faults
        else:
            commands.put(_SIGNALS[number])

    line: Line | None = None
    signals = SignalThread(frozenset({*_SIGNALS, _SENSORS_FAIL, _SENSORS_WORK}), obey)
    try:
        with signals, _open_journal(args.journal) as journal:
            line = _open_line(args)
            _say(f"sending on {line.name}")
            source = frames(
                args.devices,
                args.seed,
                faults,
                args.probability,
                args.interval,
                crc=args.crc,
                line_end=LINE_ENDS[args.line_end],
            )
            step_s = args.interval / args.speed / len(args.devices)
            summary = run(islice(source, args.count), line, journal, step_s, wait_for_command)
    except LineError as error:
        _say(str(error))
        return 1
    except OSError as error:
        _say(f"cannot write the journal {args.journal}: {error.strerror}")
        return 1
    finally:
        if line is not None:
            line.close()
    _say(f"{summary.packages} packages sent, {summary.expected} of them to be stored")
    return 0


def _open_journal(path: Path | None) -> TextIO:
    return (path or Path(os.devnull)).open("w", encoding="utf-8")


def _say(text: str) -> None:
    sys.stderr.write(f"unisat-agent simulate: {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    _parser = argparse.ArgumentParser(prog="unisat-agent simulate")
    add_arguments(_parser)
    sys.exit(main(_parser.parse_args()))
