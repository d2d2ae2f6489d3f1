"""`unisat-agent quarantine list`: the lines and packages that could not be used."""

from __future__ import annotations

import argparse
import json
from typing import Any

from unisat_agent.cli.common import Commands, load_without_passwords
from unisat_agent.spool import recent
from unisat_agent.spool.tools import reading

LINES = 20
# Of the line's end, as `raw` shows it.
_CARRIAGE_RETURN = "\\x0d"
_SHOWN = 120


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    group = commands.add_parser("quarantine", help="lines that could not be used").add_subparsers(
        required=True, metavar="COMMAND"
    )
    listing = group.add_parser("list", help="the latest ones, the newest last")
    listing.add_argument(
        "--lines", type=_positive, default=LINES, metavar="N", help=f"how many ({LINES})"
    )
    listing.add_argument("--json", action="store_true", help="as JSON lines")
    listing.set_defaults(command=_list)


def _positive(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return number


def _list(args: argparse.Namespace) -> int:
    with reading(load_without_passwords(args).spool_path) as db:
        lines = list(recent.bad_lines(db, args.lines))
    for line in reversed(lines):
        print(json.dumps(line) if args.json else _describe(line))
    if not lines and not args.json:
        print("quarantine is empty")
    return 0


def _describe(line: dict[str, Any]) -> str:
    reason = str(line["reason"]).replace("_", " ")
    text = line["raw"].removesuffix(_CARRIAGE_RETURN)
    if len(text) > _SHOWN:
        text = f"{text[:_SHOWN]} … (whole with --json)"
    return f"{line['received_at']}  {line['port']}  {reason}: {text}"
