"""`unisat-agent dead …`: the records that a Kinto refused."""

from __future__ import annotations

import argparse
import json
import sys
import uuid
from pathlib import Path

from unisat_agent.cli.common import Commands, load_without_passwords, output
from unisat_agent.errors import AgentError
from unisat_agent.spool.dead import DeadLetter, dead_letters, drop_dead, retry_dead
from unisat_agent.text import counted


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    """Adds the commands."""
    dead = commands.add_parser("dead", help="records that a Kinto refused").add_subparsers(
        required=True, metavar="COMMAND"
    )
    listing = dead.add_parser("list", help="which, where and why")
    listing.add_argument("--json", action="store_true", help="whole records, as JSON lines")
    listing.set_defaults(command=_list)

    retrying = dead.add_parser("retry", help="deliver them again")
    retrying.add_argument("ids", nargs="*", type=uuid.UUID, metavar="ID", help="only these records")
    retrying.set_defaults(command=_retry)

    exporting = dead.add_parser("export", help="whole records, as JSON lines")
    exporting.add_argument("--output", type=Path, help="the file to write; else standard output")
    exporting.set_defaults(command=_export)

    dropping = dead.add_parser("drop", help="give them up; export them first")
    which = dropping.add_mutually_exclusive_group(required=True)
    which.add_argument("--all", action="store_true", help="all of them")
    which.add_argument(
        "ids", nargs="*", type=uuid.UUID, metavar="ID", default=[], help="these records"
    )
    dropping.set_defaults(command=_drop)


def _list(args: argparse.Namespace) -> int:
    found = False
    for letter in dead_letters(load_without_passwords(args).spool_path):
        found = True
        if args.json:
            print(_json(letter))
        else:
            record = letter.row.record()
            print(
                f"{record['id']}  {record['devID']}  {record['received_at']}  {letter.sink}: "
                f"{letter.detail}"
            )
    if not found and not args.json:
        print("no dead letters")
    return 0


def _export(args: argparse.Namespace) -> int:
    written = 0
    path = load_without_passwords(args).spool_path
    with output(args.output, sys.stdout) as out:
        for letter in dead_letters(path):
            out.write(f"{_json(letter)}\n")
            written += 1
    print(f"{counted(written, 'dead letter')} exported", file=sys.stderr)
    return 0


def _json(letter: DeadLetter) -> str:
    known = {"sink": letter.sink, "reason": letter.reason, "detail": letter.detail}
    return json.dumps({**known, "record": letter.row.record()})


def _retry(args: argparse.Namespace) -> int:
    path = load_without_passwords(args).spool_path
    _demand_known(path, args.ids)
    print(f"{counted(retry_dead(path, args.ids or None), 'dead letter')} will be delivered again")
    return 0


def _drop(args: argparse.Namespace) -> int:
    path = load_without_passwords(args).spool_path
    _demand_known(path, args.ids)
    print(f"{counted(drop_dead(path, args.ids or None), 'dead letter')} given up")
    return 0


def _demand_known(path: Path, ids: list[uuid.UUID]) -> None:
    """Refuses ids that are no dead letter's, so that a typing mistake is not taken for done.

    Raises:
        AgentError: With the first of them.
    """
    known = {letter.row.record_id for letter in dead_letters(path, ids)} if ids else set()
    for wanted in ids:
        if wanted not in known:
            raise AgentError(
                f"no dead letter has the id {wanted}: unisat-agent dead list shows those there are"
            )
