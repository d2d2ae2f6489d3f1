"""Lookup of how many percent of the stations are to be offered an update next."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible.plugins.lookup import LookupBase

DOCUMENTATION = """
name: unisat_rollout
author: UniSat
short_description: how many percent of the stations are to be offered an update next
description:
  - Takes what the stations said of themselves to the hub, and returns C(percent), and C(why) it is
    that, as one sentence. The share doubles while all that were offered it and tell something are
    well; the first failure stops it.
options:
  _terms:
    description: >-
      stable.json, the data of the hub's C(/buckets/fleet/latest), and the names of the stations
      that are awaited, by account; others that told something count as well
    required: true
"""

# The station's own program says whose turn it is.
sys.path.append(str(Path(__file__).resolve().parents[2] / "roles/update/files"))

STEPS = (1, 5, 20, 50, 100)
# So many of those that were offered it must have it before more are; others may be switched off.
ENOUGH = 0.5


def decide(stable: Mapping[str, Any], stations: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The next percent, and why.

    Args:
        stable: Version, serial and percent of what is offered.
        stations: What each station said last; an empty one has said nothing yet.
    """
    version, percent = str(stable["version"]), int(stable["percent"])
    updates = {name: said.get("update") or {} for name, said in stations.items()}
    failed = sorted(
        name
        for name, said in updates.items()
        if said.get("problem") and f"version {version} did not work" in str(said.get("said"))
    )
    running = {name for name, said in updates.items() if said.get("version") == version}
    ill = sorted(name for name in running if stations[name].get("health") == "failed")
    if failed or ill:
        names = ", ".join([*failed, *ill][:3])
        return {
            "percent": 0,
            "why": f"{version} is stopped, because it did not go well on {names}: see status.yml",
        }
    # By chance none may be among the first.
    place = importlib.import_module("unisat_update.rings").place
    wanted = math.ceil(ENOUGH * sum(place(name, version) < percent for name in stations))
    if len(running) < wanted:
        return {
            "percent": percent,
            "why": f"{len(running)} of {len(stations)} stations run {version}; {wanted} are "
            "awaited before more are offered it",
        }
    following = next((step for step in STEPS if step > percent), 100)
    why = f"{len(running)} of {len(stations)} stations run {version}, and none failed"
    return {"percent": following, "why": why}


def by_name(
    rows: Iterable[Mapping[str, Any]], accounts: Mapping[str, str]
) -> dict[str, Mapping[str, Any]]:
    """What each station said last, by the name that its turn comes by."""
    found: dict[str, Mapping[str, Any]] = {name: {} for name in accounts.values()}
    for row in rows:
        said = row["newest"] or {}
        # A station that was flashed may be in nobody's inventory.
        found[accounts.get(row["id"]) or said.get("station") or row["id"]] = said
    return found


class LookupModule(LookupBase):
    """Decides."""

    def run(
        self, terms: list[Any], variables: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[dict[str, Any]]:
        """Returns one decision."""
        self.set_options(var_options=variables, direct=kwargs)
        stable, rows, accounts = terms
        return [decide(stable, by_name(rows, accounts))]
