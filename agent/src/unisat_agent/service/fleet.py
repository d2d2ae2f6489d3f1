"""Tells the hub how this station is: one small record, hourly and when something changes.

Whoever looks after a fleet sees by it the stations that no ssh reaches. Bucket `fleet`, collection
of the station's account, record `status`; it says nothing of the telemetry itself.
"""

from __future__ import annotations

import json
import logging
import random
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from unisat_agent.clock import Clock
from unisat_agent.delivery.kinto import Answer, TransportError
from unisat_agent.service.health import assess
from unisat_agent.service.snapshot import Snapshot

BUCKET = "fleet"
EVERY_S = 3600.0
# A fleet must not come all at once, nor a station that changes all the time all the time.
JITTER = 0.2
CHANGE_MIN_S = 60.0
LOOK_S = 10.0
RECORD_MAX_BYTES = 1024
PROBLEMS_MAX = 4
PROBLEM_MAX_CHARACTERS = 120
HWMON = Path("/sys/class/hwmon")
# What differs from one look to the next without anything having happened.
VOLATILE = ("timestamp", "last_seq", "pending", "disk_free_mb", "full_in_days")

_log = logging.getLogger(__name__)


class Client(Protocol):
    """What is asked of a hub's client."""

    def request(self, method: str, path: str, body: object | None = None) -> Answer:
        """Sends one request.

        Raises:
            TransportError: The outcome is unknown.
        """
        ...

    def close(self) -> None:
        """Closes the connection."""
        ...

    def abort(self) -> None:
        """Ends the request that another thread is waiting for."""
        ...


class Fleet:
    """Keeps the hub's record of this station up to date; `run` is the body of its thread.

    Args:
        client: The hub's, for this thread alone.
        account: The station's on the hub.
        snapshot: How the agent is now.
        update: The file where the station's supervisor says how its update stands, if it has one.
        clock: For all waiting.
        stop: Set when the agent is to end.
        chance: From 0 to 1, for the jitter.
    """

    def __init__(
        self,
        client: Client,
        account: str,
        snapshot: Callable[[], Snapshot],
        update: Path | None,
        clock: Clock,
        stop: threading.Event,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._client = client
        self._path = f"/buckets/{BUCKET}/collections/{quote(account, safe='')}/records/status"
        self._snapshot, self._update = snapshot, update
        self._clock, self._stop, self._chance = clock, stop, chance
        self._told: Mapping[str, Any] | None = None
        # Not in the first minute, in which all that was interrupted is taken up again.
        self._next_at = clock.monotonic() + CHANGE_MIN_S * (1 + self._chance())
        self._not_before = self._next_at

    def run(self, beat: Callable[[], None]) -> None:
        """Tells until the agent ends."""
        while not self._stop.wait(LOOK_S):
            beat()
            self.look()
        self._client.close()

    def abort(self) -> None:
        """Ends a request, so that `run` ends; may be called from any thread."""
        self._client.abort()

    def look(self) -> None:
        """Tells the hub if it is time for it."""
        now = self._clock.monotonic()
        if now < self._not_before:
            return
        record = document(self._snapshot(), self._clock.wall_ms() // 1000, self._update)
        lasting = {key: value for key, value in record.items() if key not in VOLATILE}
        if lasting == self._told and now < self._next_at:
            return
        every = EVERY_S * (1 + JITTER * (2 * self._chance() - 1))
        try:
            answer = self._client.request("PUT", self._path, {"data": record})
        except TransportError as error:
            # The courier says what is wrong with the hub; here it is only tried again.
            _log.debug("the fleet's record: %s", error)
            self._not_before = now + CHANGE_MIN_S * (1 + 4 * self._chance())
            return
        if answer.status in {200, 201}:
            self._told = lasting
            self._next_at, self._not_before = now + every, now + CHANGE_MIN_S
        else:
            # A hub that keeps no such bucket, or is busy.
            _log.debug("the fleet's record: %s", answer.words())
            self._not_before = now + max(answer.wait_s() or 0.0, every)


def document(
    snapshot: Snapshot, timestamp: int, update: Path | None, hwmon: Path = HWMON
) -> dict[str, Any]:
    """The record, of at most RECORD_MAX_BYTES as JSON.

    `epoch` and `last_seq` tie it to the station's records: whoever counts those on the hub knows
    which numbers `pending` speaks of. `timestamp` is the station's own clock, in seconds.
    """
    health = assess(snapshot)
    free = snapshot.spool.disk_free
    days = snapshot.retention.full_in_days
    full = None if days is None else round(days)
    found: dict[str, Any] = {
        "timestamp": timestamp,
        "station": snapshot.station[:64],
        "epoch": snapshot.spool.epoch,
        "last_seq": snapshot.spool.last_seq,
        "agent": snapshot.version,
        "health": health.word.value,
        "problems": [text[:PROBLEM_MAX_CHARACTERS] for text in health.problems[:PROBLEMS_MAX]],
        "pending": {sink.name: sink.pending for sink in snapshot.sinks},
        "disk_free_mb": None if free is None else free >> 20,
        "full_in_days": full,
        "power": "low" if undervoltage(hwmon) else "ok",
        "clock": "synced" if snapshot.synchronised else "unsynced",
        "update": update_of(update),
    }
    # Letters beyond ASCII take six bytes each.
    longest = PROBLEM_MAX_CHARACTERS
    while len(json.dumps(found).encode()) > RECORD_MAX_BYTES and longest:
        longest -= 10
        found["problems"] = [text[:longest] for text in found["problems"]]
        found["station"] = found["station"][:longest]
        if found["update"]:
            found["update"]["said"] = found["update"]["said"][: 2 * longest]
    return found


def update_file(notices: Path | None) -> Path | None:
    """Where the station's supervisor writes how its update stands: beside the folder of notices."""
    return notices.parent / "update.json" if notices else None


def update_of(file: Path | None) -> dict[str, Any] | None:
    """How the station's update stands; None where it has no supervisor."""
    try:
        said = json.loads(file.read_text(encoding="utf-8")) if file else None
        if said is None:
            return None
        return {
            "phase": str(said["phase"])[:16],
            "version": str(said["version"])[:32],
            "target": str(said["target"])[:32],
            "said": str(said["said"])[:240],
            "problem": bool(said["problem"]),
        }
    except (OSError, ValueError, KeyError, TypeError):
        return None


def undervoltage(hwmon: Path) -> bool:
    """Whether a Raspberry Pi's supply is too weak at this moment."""
    for alarm in hwmon.glob("hwmon*/in0_lcrit_alarm"):
        try:
            if alarm.read_text(encoding="ascii").strip() == "1":
                return True
        except OSError:
            continue
    return False
