"""What the supervisor knows after a power cut."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from unisat_update.files import Layout, write

GOOD = "good"
"""Nothing is under way."""
READY = "ready"
"""The target is unpacked and waits for the switch."""
SWITCHING = "switching"
"""The playbook runs, or was interrupted; `tries` says how often it was begun."""
RETURNING = "returning"
"""The station goes back to the version before, for `reason`."""
FORGETTING = "forgetting"
"""The outcome holds; what was kept for the other one is being removed."""
PHASES = (GOOD, READY, SWITCHING, RETURNING, FORGETTING)


@dataclass(frozen=True, slots=True)
class Release:
    """A version that a bundle brought."""

    version: str = ""
    serial: int = 0
    source: str = ""


@dataclass(frozen=True, slots=True)
class State:
    """All of it.

    Attributes:
        phase: One of PHASES.
        running: What the last good update brought; serial 0 where there was none.
        target: What is under way.
        tries: How often the switch to the target was begun.
        reason: Why the station goes back.
        failed: Why a version did not work here, by its serial number.
        said: What was told last, one sentence.
        is_problem: Whether that should go on being shown.
    """

    phase: str = GOOD
    running: Release = Release()
    target: Release = Release()
    tries: int = 0
    reason: str = ""
    failed: dict[int, str] = field(default_factory=dict)
    said: str = ""
    is_problem: bool = False


def load(layout: Layout) -> State:
    """The state; a new one where there is none or the file is damaged.

    A damaged file can only come from a failing card: it is written whole or not at all.
    """
    try:
        said = json.loads((layout.state / "state.json").read_text(encoding="utf-8"))
        return _state(said)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return State()


def _state(said: dict[str, Any]) -> State:
    if said["phase"] not in PHASES:
        raise ValueError(said["phase"])
    return State(
        said["phase"],
        Release(**said["running"]),
        Release(**said["target"]),
        int(said["tries"]),
        str(said["reason"]),
        {int(serial): str(reason) for serial, reason in said["failed"].items()},
        str(said["said"]),
        bool(said["is_problem"]),
    )


def store(layout: Layout, state: State) -> None:
    """Keeps the state: it is on the disk when this returns."""
    write(layout.state / "state.json", json.dumps(dataclasses.asdict(state), indent=1) + "\n")
