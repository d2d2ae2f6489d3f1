"""How far both Kintos were found equal: kept in the spool, so that only what is new is compared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from unisat_agent.spool.queue import Spool

NOTE = "reconcile.verified"


@dataclass(slots=True)
class Verified:
    """What was compared with databases of these timelines."""

    timelines: Mapping[str, str] = field(default_factory=dict)
    """By side; "" for a Kinto that has none: such a one may have been restored unnoticed."""
    low: int = 0
    """Below this number everything of the spool's own epoch was compared, of all devices."""
    marks: dict[str, int] = field(default_factory=dict)
    """Likewise of single devices, while another one keeps `low` back."""
    gaps: dict[str, int] = field(default_factory=dict)
    """Numbers of this spool that each side lacks, and that nobody sends."""
    others: bool = False
    """Whether the other epochs were compared; nobody writes those any more."""

    def mark(self, dev_id: str) -> int:
        """Below this number the device's own records were compared."""
        return max(self.low, self.marks.get(dev_id, 0))

    def save(self, spool: Spool) -> None:
        """Writes it down.

        Raises:
            SpoolError: The spool can't be written.
        """
        content = {
            "timelines": dict(self.timelines),
            "low": self.low,
            "marks": self.marks,
            "gaps": self.gaps,
            "others": self.others,
        }
        spool.set_note(NOTE, json.dumps(content))


def load(spool: Spool, timelines: Mapping[str, str], *, afresh: bool) -> Verified:
    """What still holds of what was written down.

    Args:
        spool: Where it is.
        timelines: Of both databases, now.
        afresh: Whether everything is to be compared again; known gaps stay known.
    """
    text = spool.note(NOTE)
    try:
        found = Verified(**json.loads(text)) if text else Verified()
    except (ValueError, TypeError):
        found = Verified()
    if afresh or not all(timelines.values()) or dict(timelines) != dict(found.timelines):
        return Verified(timelines=dict(timelines), gaps=found.gaps)
    return found
