"""What the demo shows: a picture that is redrawn, or now and then a line."""

from __future__ import annotations

import os
import shutil
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from unisat_agent.simulator.satellite import Entry

DEV_IDS: Final = ("sim01", "sim02")
_PLAIN_EVERY_S: Final = 3.0

Status = dict[str, Any]


@dataclass(slots=True)
class Tally:
    """Reads the journal as it grows: what the satellite has sent so far."""

    path: Path
    expected: int = 0
    _offset: int = 0
    _seen: dict[tuple[str, int], bool] = field(default_factory=dict)

    def update(self) -> int:
        """Reads what is new; returns the number of packages that must be stored."""
        with suppress(FileNotFoundError), self.path.open("rb") as file:
            file.seek(self._offset)
            whole, newline, _ = file.read().rpartition(b"\n")
            self._offset += len(whole + newline)
            for line in whole.splitlines():
                entry = Entry.from_json(line.decode())
                key = (entry.dev_id, entry.packet)
                self.expected += bool(entry.expected) - self._seen.get(key, False)
                self._seen[key] = bool(entry.expected)
        return self.expected


@dataclass(slots=True)
class Scene:
    """All that one picture shows."""

    started: float
    now: str = "starting"
    sent: int = 0
    status: Status | None = None

    def sink(self, name: str, key: str) -> Any:
        """A figure of a sink, `-` while the agent has not told it."""
        return ((self.status or {}).get("sinks", {}).get(name) or {}).get(key, "-")

    def line(self) -> str:
        """The scene in one line."""
        return (
            f"{time.monotonic() - self.started:4.0f} s  sent {self.sent}, "
            f"local acknowledged {self.sink('local', 'acked')} "
            f"pending {self.sink('local', 'pending')}, "
            f"hub acknowledged {self.sink('hub', 'acked')} pending {self.sink('hub', 'pending')}, "
            f"quarantine {self._spool('quarantined')}"
        )

    def picture(self) -> list[str]:
        """The scene as lines of a terminal."""
        status = self.status or {}
        ports = ", ".join(
            f"{port.get('state', '?')} {port.get('detail') or ''}".strip()
            for port in status.get("ports", [])
        )
        return [
            f"UniSat, {time.monotonic() - self.started:.0f} s",
            f"now:  {self.now}",
            "",
            f"  satellite    {self.sent} packages sent by {' and '.join(DEV_IDS)}",
            f"  serial port  {ports or '-'}",
            f"  agent        {status.get('health', '-')}",
            f"  quarantine   {self._spool('quarantined')} bad lines",
            "",
            "               acknowledged  pending  state",
            *(
                f"  {name:<11}  {self.sink(name, 'acked'):>12}  {self.sink(name, 'pending'):>7}  "
                f"{self.sink(name, 'state')} {self.sink(name, 'detail') or ''}"
                for name in ("local", "hub")
            ),
            "",
            f"  last record  {_brief(status.get('last_record') or {})}",
        ]

    def _spool(self, key: str) -> Any:
        return (self.status or {}).get("spool", {}).get(key, "-")


def _brief(record: dict[str, Any]) -> str:
    shown = ("devID", "packet", "received_at", "temperature", "humidity", "pressure", "pm25")
    return "  ".join(f"{name}={record[name]}" for name in shown if name in record) or "-"


class Screen:
    """Redraws the picture on a terminal; prints a line now and then where there is none."""

    def __init__(self) -> None:
        self._live = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._drawn = 0
        self._said = ""
        self._next_line = 0.0

    def show(self, scene: Scene) -> None:
        """Shows the scene."""
        if not self._live:
            if scene.now != self._said:
                print(f"-- {scene.now}", flush=True)
            elif time.monotonic() < self._next_line:
                return
            print(scene.line(), flush=True)
            self._said = scene.now
            self._next_line = time.monotonic() + _PLAIN_EVERY_S
            return
        columns = shutil.get_terminal_size().columns - 1
        lines = [line[:columns] for line in scene.picture()]
        up = f"\x1b[{self._drawn}A" if self._drawn else "\x1b[?25l"
        sys.stdout.write(f"\r{up}" + "".join(f"\x1b[2K{line}\n" for line in lines))
        sys.stdout.flush()
        self._drawn = len(lines)

    def say(self, text: str) -> None:
        """Prints a text that stays."""
        self.release()
        print(text, flush=True)

    def release(self) -> None:
        """Leaves the picture as it is and gives the cursor back."""
        if self._drawn:
            sys.stdout.write("\x1b[?25h")
            sys.stdout.flush()
            self._drawn = 0
