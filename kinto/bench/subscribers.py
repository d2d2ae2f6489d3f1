"""Subscribers of the live stream, in a process of their own: what each got, and how late it was."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import ssl
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from multiprocessing.connection import Connection

from bench.stack import READER, Stack

PER_READER = 10
CONNECTING = 50
LONG_S = 120.0


@dataclass
class Got:
    """What all of them got.

    Attributes:
        distinct: Records, each once for each subscriber that got it.
        again: Those that came once more.
        late_s: From the station's sending until it was there, of each record and subscriber.
    """

    distinct: int = 0
    again: int = 0
    late_s: list[float] = field(default_factory=list)


@contextmanager
def subscribers(stack: Stack, devices: list[str]) -> Iterator[Connection]:
    """As many subscribers as stations, of ten stations each; gives what they got at the other end.

    Send it how many records they have to have got in all, and receive a `Got`.
    """
    here, there = multiprocessing.Pipe()
    crowd = multiprocessing.get_context("spawn").Process(
        target=_run, args=(there, str(stack.certificate), stack.port, stack.password, devices)
    )
    crowd.start()
    try:
        assert here.recv() == "ready"
        yield here
    finally:
        crowd.terminate()
        crowd.join()


def wanted(devices: list[str], number: int) -> list[str]:
    """The ten stations that a subscriber follows, with the nine others of its class."""
    begin = number - number % PER_READER
    return devices[begin : begin + PER_READER]


def _run(
    parent: Connection, certificate: str, port: int, password: str, devices: list[str]
) -> None:
    asyncio.run(_crowd(parent, certificate, port, password, devices))


async def _crowd(
    parent: Connection, certificate: str, port: int, password: str, devices: list[str]
) -> None:
    context = ssl.create_default_context(cafile=certificate)
    token = b64encode(f"{READER}:{password}".encode()).decode()
    got = Got()
    gate = asyncio.Semaphore(CONNECTING)
    connected = asyncio.Semaphore(0)

    async def follow(number: int) -> None:
        async with gate:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            names = ",".join(wanted(devices, number))
            # HTTP/1.0: what comes is the stream itself, in no chunks.
            writer.write(
                f"GET /v1/buckets/telemetry/stream?collections={names} HTTP/1.0\r\n"
                f"Host: 127.0.0.1\r\nAuthorization: Basic {token}\r\n\r\n".encode()
            )
            await reader.readuntil(b"event: ready")
        connected.release()
        seen: set[int] = set()
        while line := await reader.readline():
            if line.startswith(b"data: {") and len(line) > len(b"data: {}\n"):
                one = json.loads(line[6:])
                sent = datetime.fromisoformat(one["received_at"]).timestamp()
                got.late_s.append(time.time() - sent)
                got.again += one["seq"] in seen
                got.distinct += one["seq"] not in seen
                seen.add(one["seq"])

    following = [asyncio.create_task(follow(number)) for number in range(len(devices))]
    for _ in range(len(devices)):
        await connected.acquire()
    parent.send("ready")
    due = await asyncio.to_thread(parent.recv)
    end = time.monotonic() + LONG_S
    while got.distinct < due and time.monotonic() < end:
        await asyncio.sleep(0.1)
    for task in following:
        task.cancel()
    await asyncio.gather(*following, return_exceptions=True)
    parent.send(got)
