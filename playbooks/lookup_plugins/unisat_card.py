"""Lookup of the variables that say what unisat.toml on a card said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from ansible.plugins.lookup import LookupBase

DOCUMENTATION = """
name: unisat_card
author: UniSat
short_description: the variables that say what unisat.toml on a card said
description:
  - Takes what a flashed station has applied of its C(unisat.toml), and returns it as the text of a
    file of variables, without those that the file at O(beside) already sets.
options:
  _terms:
    description: the text of applied.json
    required: true
  beside: {description: "a file of variables, which need not be there", type: path, required: true}
"""

VARIABLES = {
    "station.name": ("base_hostname", "agent_station_name"),
    "station.devices": ("agent_devices",),
    "station.timezone": ("base_timezone",),
    "hub.url": ("agent_hub_url",),
    "hub.user": ("agent_hub_user",),
}
CERTIFICATE = "/etc/unisat-agent/hub.pem"


def variables(applied: dict[str, Any]) -> dict[str, Any]:
    """The settings by the names of the roles' variables; what was not set is left out."""
    found = {
        name: applied[key] for key, names in VARIABLES.items() for name in names if applied.get(key)
    }
    found.setdefault("agent_hub_url", "none")
    if str(found["agent_hub_url"]).startswith("http://"):
        # Who wrote it on the card has decided.
        found["agent_hub_plain_http"] = True
    shared = {
        key: applied[f"serial.{key}"] for key in ("baud", "idle_s") if applied.get(f"serial.{key}")
    }
    ports = applied.get("serial.port") or "auto"
    if shared or applied.get("serial.port"):
        names = ports if isinstance(ports, list) else [ports]
        found["agent_serial"] = [{"port": name, **shared} for name in names]
    if applied.get("hub.url") and applied.get("hub.ca"):
        found["agent_options"] = {"hub": {"ca_file": CERTIFICATE}}
    return found


class LookupModule(LookupBase):
    """Translates."""

    def run(
        self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[str]:
        """Returns the text of each."""
        self.set_options(var_options=variables, direct=kwargs)
        beside = Path(self.get_option("beside"))
        there = yaml.safe_load(beside.read_text(encoding="utf-8")) if beside.exists() else {}
        return [self._text(json.loads(term), there or {}) for term in terms]

    def _text(self, applied: dict[str, Any], there: dict[str, Any]) -> str:
        fresh = {k: v for k, v in variables(applied).items() if k not in there}
        return yaml.safe_dump(fresh, allow_unicode=True, sort_keys=True) if fresh else ""
