"""The command line: `unisat-agent COMMAND`.

Exit codes: 0 done; 1 something failed, as it says; 2 the configuration or the command line can't
be used; 3 the spool is damaged (the next start sets it aside); 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from unisat_agent.cli import capture, check, dead, ports, quarantine, reconcile, run, spool, status
from unisat_agent.cli.common import EXIT_FAILED, EXIT_USAGE
from unisat_agent.config.load import DEFAULT_PATH
from unisat_agent.errors import AgentError, ConfigError
from unisat_agent.simulator import run as simulate
from unisat_agent.version import running_version

EXIT_INTERRUPTED = 130


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    args = _parser().parse_args(argv)
    try:
        code: int = args.command(args)
        sys.stdout.flush()
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
        return EXIT_INTERRUPTED
    return code


class _Version(argparse.Action):
    """Prints the release that runs; it is looked up only when it is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="show the release and exit")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(running_version())
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="unisat-agent",
        description="Reads PSoTT telemetry from serial ports and delivers it to Kinto.",
    )
    parser.add_argument("--version", action=_Version)
    parser.add_argument(
        "--config", type=Path, default=DEFAULT_PATH, help=f"TOML file ({DEFAULT_PATH})"
    )
    parser.add_argument("--verbose", action="store_true", help="log every detail")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for group in (run, check, status, ports, spool, quarantine, dead, reconcile, capture):
        group.add(commands)
    simulating = commands.add_parser("simulate", help="a satellite that is not there")
    simulate.add_arguments(simulating)
    simulating.set_defaults(command=simulate.main)
    return parser
