"""What came over a line, byte for byte and with its times, in a file that support can replay.

A capture is a file of JSON lines: the first describes the line, each of the others is what one read
gave, with the seconds since the start::

    {"capture": 1, "port": "/dev/ttyACM0", "baud": 9600, "started": "2022-08-19T14:09:52.431Z"}
    {"s": 0.251, "hex": "0d0a64657649443d"}
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from unisat_agent.config.model import PortSettings
from unisat_agent.errors import AgentError
from unisat_agent.protocols import PROTOCOLS
from unisat_agent.protocols.events import Event
from unisat_agent.serial.port import Port

VERSION: Final = 1
# An hour at 115,200 Bd, in hexadecimal.
MAX_BYTES: Final = 40 * 1024 * 1024
_POLL_S: Final = 0.25


class CaptureError(AgentError):
    """A file is no capture, or is damaged."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one read gave, and when: seconds since the start."""

    at_s: float
    data: bytes


def capture(
    port: Port,
    settings: PortSettings,
    out: TextIO,
    seconds: float,
    go_on: Callable[[int], bool] = lambda _: True,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Writes what comes over an open port; each read is flushed at once.

    Args:
        port: The port; no agent reads it meanwhile.
        settings: How it was opened.
        out: The file.
        seconds: How long.
        go_on: Asked several times a second, with the bytes so far; False ends the capture.
        clock: Seconds, monotonic.

    Returns:
        How many bytes came.

    Raises:
        PortLostError: The port went away; what came before is in the file.
    """
    started = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    head = {"capture": VERSION, "port": port.name, "baud": settings.baud, "started": started}
    _write(out, head)
    size = 0
    start = clock()
    while (at_s := clock() - start) < seconds and size < MAX_BYTES and go_on(size):
        # Nothing for a moment is no end: a device may send once a minute.
        if data := port.read(min(_POLL_S, seconds - at_s)):
            size += len(data)
            _write(out, {"s": round(clock() - start, 3), "hex": data.hex()})
    return size


def read_capture(lines: Iterable[str]) -> Iterator[Chunk]:
    """The chunks of a capture; its last line may be cut off.

    Raises:
        CaptureError: It is no capture.
    """
    for number, line in enumerate(lines, 1):
        try:
            content = json.loads(line)
            if number == 1:
                if content["capture"] != VERSION:
                    raise CaptureError(
                        f"the capture is of version {content['capture']}, this agent reads "
                        f"version {VERSION}"
                    )
                continue
            chunk = Chunk(float(content["s"]), bytes.fromhex(content["hex"]))
        except (ValueError, KeyError, TypeError) as error:
            if number > 1 and not line.endswith("\n"):
                return
            raise CaptureError(f"line {number} is not a line of a capture: {error}") from error
        yield chunk


def decode(chunks: Iterable[Chunk], settings: PortSettings) -> Iterator[tuple[float, Event]]:
    """What the agent would have made of a capture, with its times, idle time-outs included."""
    decoder = PROTOCOLS[settings.protocol]()
    before_s = 0.0
    for chunk in chunks:
        if decoder.in_package and chunk.at_s - before_s >= settings.idle_s:
            yield from ((before_s + settings.idle_s, event) for event in decoder.end())
        before_s = chunk.at_s
        yield from ((chunk.at_s, event) for event in decoder.feed(chunk.data))
    yield from ((before_s, event) for event in decoder.end())


def replay(
    chunks: Iterable[Chunk],
    write: Callable[[bytes], int],
    wait: Callable[[float], bool],
    speed: float = 1.0,
) -> int:
    """Sends a capture over a line at its own pace.

    Args:
        chunks: The capture.
        write: Hands bytes to the line; returns how many it took.
        wait: Waits so many seconds; True when the replay is to end.
        speed: So many times faster.

    Returns:
        How many bytes the line took.
    """
    size = 0
    before_s = 0.0
    for chunk in chunks:
        if wait(max(0.0, chunk.at_s - before_s) / speed):
            break
        before_s = chunk.at_s
        size += write(chunk.data)
    return size


def _write(out: TextIO, content: dict[str, Any]) -> None:
    out.write(json.dumps(content, separators=(",", ":")) + "\n")
    out.flush()
