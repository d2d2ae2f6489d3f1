"""`unisat-agent run`: the agent itself."""

from __future__ import annotations

import argparse
import os

from unisat_agent.cli.common import Commands, load_config
from unisat_agent.service.app import Service
from unisat_agent.service.systemd import configure_logging


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = commands.add_parser("run", help="read, store and deliver until stopped")
    parser.set_defaults(command=_run)


def _run(args: argparse.Namespace) -> int:
    configure_logging(args.verbose, stream_to_journal="JOURNAL_STREAM" in os.environ)
    config = load_config(args)
    while True:
        service = Service(config, reload=lambda: load_config(args))
        code = service.run()
        if service.successor is None:
            return code
        config = service.successor
