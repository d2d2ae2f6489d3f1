"""Listening to a port for a while, to hear whether it speaks the protocol."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from unisat_agent.protocols import PROTOCOLS
from unisat_agent.protocols.events import Decoder, Event, Package
from unisat_agent.serial.port import Port

PROBE_S: Final = 10.0
# A port that sent one package may belong to a slow device: it gets this long for the second.
CONFIRM_S: Final = 60.0
PACKAGES_TO_BELIEVE: Final = 2
POLL_S: Final = 0.25
# No serial line sends this much while it is probed; a socket could.
MAX_PROBE_BYTES: Final = 1 << 20


@dataclass(slots=True)
class Heard:
    """What a port said while it was probed.

    Attributes:
        packages: devID to the number of its packages.
        events: What was decoded, in order, each run with the moment that it came at (seconds, on
            the clock of the probe).
        size: How many bytes came.
        decoder: Holds the package that is still coming in.
    """

    packages: Counter[str] = field(default_factory=Counter)
    events: list[tuple[float, list[Event]]] = field(default_factory=list)
    size: int = 0
    decoder: Decoder = field(default_factory=PROTOCOLS["psott"])

    @property
    def speaks_psott(self) -> bool:
        """Whether one device sent enough packages to be no accident."""
        return any(count >= PACKAGES_TO_BELIEVE for count in self.packages.values())

    def __str__(self) -> str:
        if self.packages:
            return f"PSoTT from {', '.join(sorted(self.packages))}"
        if self.size:
            return "sends, but no PSoTT: another kind of device, or the wrong `baud`"
        return "silent"

    def take(self, data: bytes, now: float) -> None:
        """Decodes the bytes that came now."""
        self.size += len(data)
        events = self.decoder.feed(data)
        self.events.append((now, events))
        self.packages.update(event.dev_id for event in events if isinstance(event, Package))


def probe(
    port: Port,
    seconds: float = PROBE_S,
    *,
    confirm_s: float = CONFIRM_S,
    clock: Callable[[], float] = time.monotonic,
    go_on: Callable[[Heard], bool] = lambda _: True,
) -> Heard:
    """Listens until the port has shown that it speaks PSoTT, or the time is over.

    Args:
        port: The open port; it stays open, and nothing that was heard is lost.
        seconds: How long to wait for the first package.
        confirm_s: How long to wait for the second, counted from the first.
        clock: Seconds, monotonic.
        go_on: Asked several times a second, with what was heard so far; False ends the listening.

    Raises:
        PortLostError: The port went away.
    """
    heard = Heard()
    deadline = clock() + seconds
    while go_on(heard) and not heard.speaks_psott and heard.size < MAX_PROBE_BYTES:
        left = deadline - clock()
        if left <= 0:
            break
        data = port.read(min(left, POLL_S))
        if not data:
            continue
        now, known = clock(), bool(heard.packages)
        heard.take(data, now)
        if heard.packages and not known:
            deadline = max(deadline, now + confirm_s)
    return heard
