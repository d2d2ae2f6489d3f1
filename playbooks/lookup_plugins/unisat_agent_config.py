"""Lookup of what the agent would find wrong in its configuration, by the names of the variables."""

from __future__ import annotations

import importlib
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from ansible.plugins.lookup import LookupBase

DOCUMENTATION = """
name: unisat_agent_config
author: UniSat
short_description: what the agent would find wrong in its configuration
description:
  - Gives the text of an C(agent.toml) to the agent's own check, here on the controller.
  - Its sentences name the variables of the role instead of the keys of the file. Passwords and
    the files that the configuration names are on the host, and are not looked at.
options:
  _terms:
    description: the text of the file
    required: true
"""

AGENT = Path(__file__).resolve().parents[2] / "agent/src"
VARIABLES = {
    "station.name": "agent_station_name",
    "station.devices": "agent_devices",
    "spool.max_mb": "agent_spool_max_mb",
    "spool.history_days": "agent_history_days",
    "retention.days": "agent_keep_days",
    "retention.disk_percent": "agent_keep_disk_percent",
    "retention.delete_without_hub": "agent_delete_without_hub",
    "clock.synchronised": "agent_clock_synchronised",
    "local.url": "agent_local_url",
    "local.bucket": "agent_bucket",
    "hub.url": "agent_hub_url",
    "hub.user": "agent_hub_user",
    "hub.bucket": "agent_bucket",
}
# "FILE: [table] key: what is wrong", or "FILE: [table]: what is wrong".
PROBLEM = re.compile(
    r"\[+(?P<table>\w[^\]]*)\]+:? ?(?:(?P<key>[^:\s]+):)? ?(?P<text>.*)", re.DOTALL
)


def by_variable(problem: str) -> str:
    """The agent's sentence, with the variable in place of file, table and key."""
    found = PROBLEM.search(problem)
    if found is None:
        return f"agent_options: {problem}"
    table, key, text = found["table"], found["key"], found["text"]
    if table == "serial" or key == "serial":
        return f"agent_serial: {'' if key == 'serial' else f'{key}: '}{text}"
    name = VARIABLES.get(f"{table}.{key}")
    if name:
        return f"{name} {text}"
    return f"agent_options: {table}{f'.{key}' if key else ''}: {text}"


class LookupModule(LookupBase):
    """Asks the agent."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **_: Any) -> list[str]:
        """Returns a sentence for each mistake."""
        del variables
        if str(AGENT) not in sys.path:
            sys.path.append(str(AGENT))
        config = importlib.import_module("unisat_agent.config.load")
        errors = importlib.import_module("unisat_agent.errors")
        with tempfile.NamedTemporaryFile("w", suffix=".toml", encoding="utf-8") as file:
            file.write("".join(terms))
            file.flush()
            try:
                config.load(Path(file.name), passwords=False)
            except errors.ConfigError as error:
                return [
                    by_variable(str(problem).replace(f"{file.name}: ", ""))
                    for problem in error.problems
                    if "can't be read" not in str(problem)
                ]
        return []
