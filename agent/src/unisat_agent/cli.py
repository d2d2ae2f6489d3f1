"""The command line: `unisat-agent COMMAND`.

Exit codes: 0 done; 1 something failed, as it says; 2 the configuration or the command line can't
be used; 3 the spool is damaged (the next start sets it aside); 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TextIO

from unisat_agent import __version__, simulate, spool_tools
from unisat_agent.check import check, running_status
from unisat_agent.clock import SystemClock
from unisat_agent.config import (
    DEFAULT_CANDIDATES,
    DEFAULT_PATH,
    Config,
    PortSettings,
    credentials_directory,
    load,
)
from unisat_agent.errors import AgentError, ConfigError, SpoolBusyError
from unisat_agent.kinto import KintoClient
from unisat_agent.ports import PortError, PortInfo, list_ports, open_port, probe
from unisat_agent.reconcile import Reconciler
from unisat_agent.service import RECONCILE_ANSWER, RECONCILE_ASKED, Service
from unisat_agent.spool import Spool
from unisat_agent.spool_repair import open_spool, set_aside
from unisat_agent.systemd import configure_logging

EXIT_FAILED = 1
EXIT_USAGE = 2
RECONCILE_WAIT_S = 900.0


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    args = _parser().parse_args(argv)
    try:
        code: int = args.command(args)
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return EXIT_USAGE
    except AgentError as error:
        print(f"unisat-agent: {error}", file=sys.stderr)
        return EXIT_FAILED
    except BrokenPipeError:
        # `… | head`: nobody reads any more. Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except KeyboardInterrupt:
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="unisat-agent",
        description="Reads PSoTT telemetry from serial ports and delivers it to Kinto.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument(
        "--config", type=Path, default=DEFAULT_PATH, help=f"TOML file ({DEFAULT_PATH})"
    )
    parser.add_argument("--verbose", action="store_true", help="log every detail")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="read, store and deliver until stopped")
    run.set_defaults(command=_run)

    checking = commands.add_parser("check", help="try everything, and say what to mend")
    checking.add_argument(
        "--offline", action="store_true", help="only the configuration and the passwords"
    )
    checking.add_argument(
        "--listen", type=float, default=10.0, metavar="S", help="seconds to listen on a port (10)"
    )
    checking.set_defaults(command=_check)

    status = commands.add_parser("status", help="how the running agent is")
    status.add_argument("--json", action="store_true", help="as JSON")
    status.set_defaults(command=_status)

    ports = commands.add_parser("ports", help="which serial ports exist, and which speak PSoTT")
    ports.add_argument(
        "--listen", type=float, default=10.0, metavar="S", help="seconds to listen (10); 0: don't"
    )
    ports.add_argument("--baud", type=int, default=9600, help="bits per second (9600)")
    ports.set_defaults(command=_ports)

    simulating = commands.add_parser("simulate", help="a satellite that is not there")
    simulate.add_arguments(simulating)
    simulating.set_defaults(command=simulate.main)

    spool = commands.add_parser("spool", help="look into the spool").add_subparsers(
        required=True, metavar="COMMAND"
    )
    spool_check = spool.add_parser("check", help="whether the spool is whole, and what is in it")
    spool_check.set_defaults(command=_spool_check)
    export = spool.add_parser("export", help="every record in the spool, as CSV or JSON lines")
    export.add_argument("--format", choices=("csv", "jsonl"), default="csv", help="(csv)")
    export.add_argument("--output", type=Path, help="the file to write; else standard output")
    export.set_defaults(command=_spool_export)

    copying = spool.add_parser("backup", help="a copy, beside the running agent")
    copying.add_argument("file", type=Path, metavar="FILE", help="the file to make")
    copying.set_defaults(command=_spool_backup)
    restoring = spool.add_parser(
        "restore", help="deliver what a copy had not delivered yet (the agent stopped)"
    )
    restoring.add_argument("file", type=Path, metavar="FILE", help="made by `spool backup`")
    restoring.set_defaults(command=_spool_restore)

    dead = commands.add_parser("dead", help="records that a Kinto refused").add_subparsers(
        required=True, metavar="COMMAND"
    )
    dead_list = dead.add_parser("list", help="which, where and why")
    dead_list.add_argument("--json", action="store_true", help="whole records, as JSON lines")
    dead_list.set_defaults(command=_dead_list)
    retry = dead.add_parser("retry", help="deliver them again")
    retry.add_argument("ids", nargs="*", type=uuid.UUID, metavar="ID", help="only these records")
    retry.set_defaults(command=_dead_retry)

    reconcile = commands.add_parser(
        "reconcile", help="compare the local Kinto with the hub, and send what is missing"
    )
    reconcile.set_defaults(command=_reconcile)
    return parser


def _load(args: argparse.Namespace) -> Config:
    return load(args.config, credentials_directory())


def _run(args: argparse.Namespace) -> int:
    configure_logging(args.verbose, stream_to_journal="JOURNAL_STREAM" in os.environ)
    return Service(_load(args)).run()


def _check(args: argparse.Namespace) -> int:
    config = _load(args)
    if args.offline:
        print(f"{config.path}: ok")
        return 0
    failed = 0
    for finding in check(config, args.listen):
        print(finding, flush=True)
        failed += not finding.ok
    return EXIT_FAILED if failed else 0


def _status(args: argparse.Namespace) -> int:
    config = _load_without_passwords(args)
    status = running_status(config)
    if status is None:
        host, port = config.listen
        raise AgentError(
            f"no agent answers on {host}:{port}: start it (systemctl start unisat-agent) and see "
            f"its log (journalctl -u unisat-agent)"
        )
    if args.json:
        print(json.dumps(status, indent=1))
    else:
        _print_status(status)
    return EXIT_FAILED if status.get("health") == "failed" else 0


def _load_without_passwords(args: argparse.Namespace) -> Config:
    """For commands that need no password, so that any user may run them."""
    return load(args.config, credentials_directory(), passwords=False)


def _print_status(status: dict[str, Any]) -> None:
    print(f"{status['station']}: {status['health']}, agent {status['version']}")
    for problem in status["problems"]:
        print(f"  ! {problem}")
    clock = "synchronised" if status["clock"]["synchronised"] else "not synchronised"
    print(f"clock     {clock}")
    for port in status["ports"]:
        print(f"port      {port['name']}: {port['state']}, {port['bytes']} bytes. {port['detail']}")
    spool = status["spool"]
    print(
        f"spool     {spool['last_seq']} packages so far, {spool['bytes'] // 1024} kB, "
        f"{spool['quarantined']} lines in quarantine"
    )
    last = status["last_record"]
    if last:
        print(f"last      {last['devID']} at {last['received_at']} ({last['clock']})")
    for name, sink in status["sinks"].items():
        oldest = f", oldest {sink['oldest_s']:.0f} s" if sink["pending"] else ""
        print(
            f"{name:9} {sink['state']}: {sink['pending']} pending{oldest}, {sink['acked']} "
            f"acknowledged since the start, {sink['dead']} dead"
        )


def _ports(args: argparse.Namespace) -> int:
    found = list_ports(DEFAULT_CANDIDATES)
    if not found:
        print("there is no serial port: plug the device in")
        return EXIT_FAILED
    with ThreadPoolExecutor(len(found)) as pool:
        for line in pool.map(lambda info: _describe(info, args.baud, args.listen), found):
            print(line)
    return 0


def _describe(info: PortInfo, baud: int, listen_s: float) -> str:
    if listen_s <= 0:
        return str(info)
    try:
        with open_port(info.device, PortSettings(port=info.device, baud=baud)) as port:
            return f"{info}: {probe(port, listen_s)}"
    except PortError as error:
        return f"{info}: {error}"


def _spool_check(args: argparse.Namespace) -> int:
    path = _load_without_passwords(args).spool_path
    wrong = spool_tools.check(path)
    for line in wrong:
        print(line)
    if not wrong:
        for name, number in spool_tools.count(path).items():
            print(f"{number:10} {name}")
    for aside in set_aside(path):
        print(f"a damaged spool was set aside: {aside}")
    print(f"{path}: {'DAMAGED: restart the agent, it sets the spool aside' if wrong else 'whole'}")
    return EXIT_FAILED if wrong else 0


def _spool_export(args: argparse.Namespace) -> int:
    path = _load_without_passwords(args).spool_path
    with _output(args.output) as out:
        show = sys.stderr.isatty()

        def progress(written: int, total: int) -> None:
            if show:
                print(f"\r{written} of {total} records", end="", file=sys.stderr, flush=True)

        written = spool_tools.export(path, out, args.format, progress)
    print(f"{chr(13) if show else ''}{written} records exported", file=sys.stderr)
    return 0


def _spool_backup(args: argparse.Namespace) -> int:
    spool_tools.backup(_load_without_passwords(args).spool_path, args.file)
    for name, number in spool_tools.count(args.file).items():
        print(f"{number:10} {name}")
    return 0


def _spool_restore(args: argparse.Namespace) -> int:
    config = _load_without_passwords(args)
    with contextlib.closing(_open_spool(config)) as spool:
        taken = spool_tools.restore(spool, args.file)
    print(f"{taken} records will be delivered")
    return 0


def _open_spool(config: Config) -> Spool:
    return open_spool(
        config.spool_path,
        [sink.name for sink in config.sinks],
        SystemClock(config.clock_synchronised).boot_id,
        config.spool_max_bytes,
    )


@contextlib.contextmanager
def _output(path: Path | None) -> Iterator[TextIO]:
    if path is None:
        yield sys.stdout
        return
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            yield file
    except OSError as error:
        raise AgentError(f"{path}: can't be written: {error.strerror}") from error


def _dead_list(args: argparse.Namespace) -> int:
    letters = spool_tools.dead_letters(_load_without_passwords(args).spool_path)
    for letter in letters:
        record = letter.row.record()
        if args.json:
            known = {"sink": letter.sink, "reason": letter.reason, "detail": letter.detail}
            print(json.dumps({**known, "record": record}))
        else:
            print(
                f"{record['id']}  {record['devID']}  {record['received_at']}  {letter.sink}: "
                f"{letter.detail}"
            )
    if not letters and not args.json:
        print("no dead letters")
    return 0


def _dead_retry(args: argparse.Namespace) -> int:
    retried = spool_tools.retry_dead(_load_without_passwords(args).spool_path, args.ids or None)
    print(f"{retried} dead letters will be delivered again")
    return EXIT_FAILED if args.ids and retried == 0 else 0


def _reconcile(args: argparse.Namespace) -> int:
    config = _load(args)
    if config.hub is None:
        raise AgentError(f"{config.path}: there is no [hub] to compare with")
    try:
        spool = _open_spool(config)
    except SpoolBusyError:
        said = spool_tools.ask(
            config.spool_path, RECONCILE_ASKED, RECONCILE_ANSWER, RECONCILE_WAIT_S
        )
        if said is None:
            raise AgentError(
                "the running agent did not answer: is the hub out of reach? (unisat-agent status)"
            ) from None
        print(said)
        return 0
    with (
        contextlib.closing(spool),
        KintoClient(config.local) as local,
        KintoClient(config.hub) as hub,
    ):
        report = Reconciler(spool, local, hub, beat=lambda: None).run()
    print(f"{report}; what is missing is delivered when the agent runs")
    return EXIT_FAILED if report.problems else 0
