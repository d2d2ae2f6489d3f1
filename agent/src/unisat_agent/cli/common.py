"""What several commands need: the configuration, the spool, the running agent, the exit codes."""

from __future__ import annotations

import argparse
import contextlib
import json
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from unisat_agent.clock import SystemClock
from unisat_agent.config.load import load
from unisat_agent.config.model import Config
from unisat_agent.config.passwords import credentials_directory
from unisat_agent.errors import AgentError
from unisat_agent.spool.queue import Spool
from unisat_agent.spool.repair import open_spool

EXIT_FAILED = 1
EXIT_USAGE = 2
STATUS_TIMEOUT_S = 5.0

Commands = argparse._SubParsersAction


def load_config(args: argparse.Namespace) -> Config:
    """The configuration with its passwords.

    Raises:
        ConfigError: It can't be used.
    """
    return load(args.config, credentials_directory(args.config))


def load_without_passwords(args: argparse.Namespace) -> Config:
    """For commands that need no password, so that any user may run them.

    Raises:
        ConfigError: It can't be used.
    """
    return load(args.config, passwords=False)


def open_stations_spool(config: Config) -> Spool:
    """The spool, to write to it.

    Raises:
        SpoolError: It can't be used; SpoolBusyError when an agent has it.
    """
    return open_spool(
        config.spool_path,
        [sink.name for sink in config.sinks],
        SystemClock(config.clock_synchronised).boot_id,
        config.spool_max_bytes,
    )


def ask_agent(config: Config, page: str = "/status") -> dict[str, Any] | None:
    """A page of the running agent, or None where none answers."""
    host, port = config.listen
    # A proxy that the environment names is for the world outside.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"http://{host}:{port}{page}", timeout=STATUS_TIMEOUT_S) as answer:
            found = json.load(answer)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def moment(text: str) -> int:
    """A date or a date with a time on the command line, UTC unless it says otherwise, in ms.

    Raises:
        ArgumentTypeError: It is none.
    """
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f'{text!r} is no time: write 2026-05-01 or "2026-05-01 13:30" (UTC)'
        ) from None
    return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)


@contextlib.contextmanager
def output(path: Path | None, standard: TextIO) -> Iterator[TextIO]:
    """The file to write to, or `standard` without one.

    Raises:
        AgentError: It can't be written.
    """
    if path is None:
        yield standard
        return
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            yield file
    except OSError as error:
        raise AgentError(f"{path}: can't be written: {error.strerror}") from error
