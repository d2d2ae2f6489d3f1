"""`unisat-agent reconcile`: compares the local Kinto with the hub now."""

from __future__ import annotations

import argparse
import contextlib
import sys

from unisat_agent.cli.common import (
    EXIT_FAILED,
    Commands,
    ask_agent,
    load_config,
    load_without_passwords,
    open_stations_spool,
)
from unisat_agent.config.model import Config
from unisat_agent.delivery.kinto import KintoClient
from unisat_agent.delivery.reconcile import Reconciler
from unisat_agent.delivery.reconciling import RECONCILE_ANSWER, RECONCILE_ASKED
from unisat_agent.errors import AgentError, SpoolBusyError
from unisat_agent.spool import tools as spool_tools

RECONCILE_WAIT_S = 900.0
LOOK_S = 3.0
AWAY_S = 15.0


def add(commands: Commands[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "reconcile", help="compare the local Kinto with the hub, and send what is missing"
    )
    parser.set_defaults(command=_reconcile)


def _reconcile(args: argparse.Namespace) -> int:
    config = load_without_passwords(args)
    if config.hub is None:
        raise AgentError(f"{config.path}: there is no [hub] to compare with")
    try:
        spool = open_stations_spool(config)
    except SpoolBusyError:
        # The running agent has the passwords.
        return _ask_agent(config)
    with contextlib.closing(spool):
        config = load_config(args)
        assert config.hub is not None  # noqa: S101 - it was there a moment ago
        with KintoClient(config.local) as local, KintoClient(config.hub) as hub:
            report = Reconciler(spool, local, hub, beat=lambda: None).run(afresh=True)
    print(f"{report}; what is missing is delivered when the agent runs")
    return EXIT_FAILED if report.problems else 0


def _ask_agent(config: Config) -> int:
    print("the running agent compares both Kintos ...", file=sys.stderr, flush=True)
    progress = _Progress(config)
    answer = spool_tools.ask(
        config.spool_path, RECONCILE_ASKED, RECONCILE_ANSWER, RECONCILE_WAIT_S, progress.show
    )
    if answer is None:
        raise AgentError(
            "the running agent is not done yet; its status will say what it finds "
            "(unisat-agent status)"
        )
    if answer.startswith("reconcile: "):
        raise AgentError(f"{answer}; the agent tries again by itself")
    print(answer)
    return 0


class _Progress:
    """Reports while the agent works, and gives up where a Kinto stays out of reach."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._next_look_s = LOOK_S
        self._printed = ""
        self._away_since_s: float | None = None

    def show(self, waited_s: float) -> None:
        """Looks at the agent's status now and then.

        Raises:
            AgentError: A Kinto has been out of reach for AWAY_S.
        """
        if waited_s < self._next_look_s:
            return
        self._next_look_s = waited_s + LOOK_S
        status = ask_agent(self._config) or {"sinks": {}}
        away = [
            sink["detail"] or f"{name}: {sink['state'].replace('_', ' ')}"
            for name, sink in status["sinks"].items()
            if sink["state"] in {"backing_off", "paused"}
        ]
        if not away:
            self._away_since_s = None
            return
        if self._away_since_s is None:
            self._away_since_s = waited_s
        if waited_s - self._away_since_s >= AWAY_S:
            raise AgentError(
                f"{away[0]}; the agent compares by itself as soon as it is in reach again"
            )
        if away[0] != self._printed:
            self._printed = away[0]
            print(away[0], file=sys.stderr, flush=True)
