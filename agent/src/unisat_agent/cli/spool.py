"""`unisat-agent spool …`: looks into the spool, copies it, takes a copy over."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

from unisat_agent.cli.common import (
    EXIT_FAILED,
    Commands,
    load_without_passwords,
    moment,
    open_stations_spool,
    output,
)
from unisat_agent.errors import AgentError
from unisat_agent.spool import tools as spool_tools
from unisat_agent.spool.backup import backup, restore
from unisat_agent.spool.files import set_aside_copies
from unisat_agent.spool.repair import mark_suspect
from unisat_agent.text import counted


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    """Adds the commands."""
    spool = commands.add_parser("spool", help="look into the spool").add_subparsers(
        required=True, metavar="COMMAND"
    )
    checking = spool.add_parser("check", help="whether the spool is intact, and what is in it")
    checking.set_defaults(command=_check)

    export = spool.add_parser("export", help="every record in the spool, as CSV or JSON lines")
    export.add_argument("--format", choices=("csv", "jsonl"), default="csv", help="(csv)")
    export.add_argument("--output", type=Path, help="the file to write; else standard output")
    export.add_argument(
        "--since", type=moment, metavar="TIME", help='received then or later, as "2026-05-01 13:30"'
    )
    export.add_argument("--until", type=moment, metavar="TIME", help="received before (UTC)")
    export.add_argument("--device", metavar="DEVID", help="of this device only")
    export.set_defaults(command=_export)

    discarding = spool.add_parser(
        "discard", help="delete all rows of a device that does not exist, delivered or not"
    )
    discarding.add_argument("device", metavar="DEVID", help="as it was received")
    discarding.set_defaults(command=_discard)

    copying = spool.add_parser("backup", help="a copy, beside the running agent")
    copying.add_argument("file", type=Path, metavar="FILE", help="the file to make")
    copying.set_defaults(command=_backup)

    restoring = spool.add_parser(
        "restore", help="deliver what a copy had not delivered yet (the agent stopped)"
    )
    restoring.add_argument("file", type=Path, metavar="FILE", help="made by `spool backup`")
    restoring.set_defaults(command=_restore)


def _check(args: argparse.Namespace) -> int:
    path = load_without_passwords(args).spool_path
    damage = spool_tools.check(path)
    for line in damage:
        print(line)
    if not damage:
        for name, number in spool_tools.count(path).items():
            print(f"{number:10} {name}")
    for aside in set_aside_copies(path):
        print(f"a damaged spool was set aside: {aside}")
    if damage:
        # The next start would not find by itself what only a look at every page shows.
        mark_suspect(path)
    verdict = "DAMAGED: restart the agent, it sets the spool aside" if damage else "intact"
    print(f"{path}: {verdict}")
    return EXIT_FAILED if damage else 0


def _export(args: argparse.Namespace) -> int:
    path = load_without_passwords(args).spool_path
    with output(args.output, sys.stdout) as out:
        show = sys.stderr.isatty()

        def progress(written: int, total: int) -> None:
            if show:
                print(f"\r{written} of {total} records", end="", file=sys.stderr, flush=True)

        selection = spool_tools.Selection(args.device, args.since, args.until)
        written = spool_tools.export(path, out, args.format, progress, selection)
    print(f"{chr(13) if show else ''}{counted(written, 'record')} exported", file=sys.stderr)
    return 0


def _discard(args: argparse.Namespace) -> int:
    path = load_without_passwords(args).spool_path
    discarded = spool_tools.discard(path, args.device)
    if not discarded:
        raise AgentError(f"{path}: the spool has no rows of {args.device}")
    print(f"{counted(discarded, 'row')} of {args.device} deleted")
    return 0


def _backup(args: argparse.Namespace) -> int:
    backup(load_without_passwords(args).spool_path, args.file)
    for name, number in spool_tools.count(args.file).items():
        print(f"{number:10} {name}")
    return 0


def _restore(args: argparse.Namespace) -> int:
    config = load_without_passwords(args)
    if not args.file.is_file():
        raise AgentError(f"{args.file}: there is no such file: name one that `spool backup` made")
    with contextlib.closing(open_stations_spool(config)) as spool:
        taken = restore(spool, args.file)
    print(f"{counted(taken, 'record')} will be delivered")
    return 0
