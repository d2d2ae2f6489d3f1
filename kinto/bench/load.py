"""Stations and readers: requests over kept TLS connections, each timed."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
import uuid
from base64 import b64encode
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from typing import Any

from bench.stack import READER, STATION, Stack

ANSWER_S = 300.0
_numbers = count(1)


def record(device: str) -> dict[str, Any]:
    """A record as the agent makes it; each one is another."""
    number = next(_numbers)
    return {
        "id": str(uuid.uuid4()), "devID": device, "timestamp": int(time.time()), "seq": number,
        "received_at": datetime.now(UTC).isoformat(timespec="milliseconds"), "clock": "synced",
        "epoch": "7d0c7f0e-6a2e-4d3a-9c1e-0d6a2f5b9a11", "uptime": 5123.456 + number,
        "boot_id": "1b4c6c1e-43f7-4a5e-8a55-0f3cf9d0a111",
        "groups": {"meteo": ["temperature", "humidity", "pressure"], "air": ["pm25", "pm10"]},
        "temperature": 32.0, "humidity": 20.0, "pressure": 1304.4, "pm25": 4.0, "pm10": 11.1,
    }  # fmt: skip


def stock_batch(device: str, size: int) -> tuple[str, bytes]:
    """Path and body of a batch of Kinto's own."""
    path = f"/buckets/telemetry/collections/{device}/records"
    records = [record(device) for _ in range(size)]
    requests = [{"path": f"{path}/{one['id']}", "body": {"data": one}} for one in records]
    defaults = {"method": "PUT", "headers": {"If-None-Match": "*"}}
    return "/v1/batch", json.dumps({"defaults": defaults, "requests": requests}).encode()


def ingest(device: str, size: int) -> tuple[str, bytes]:
    """Path and body of an ingest."""
    path = f"/v1/buckets/telemetry/collections/{device}/records:ingest"
    return path, json.dumps([record(device) for _ in range(size)]).encode()


@dataclass
class Times:
    """What the requests of one kind took."""

    seconds: list[float] = field(default_factory=list)
    failed: int = 0

    def percentile(self, share: float) -> float:
        """Milliseconds that this share of the requests took at most."""
        ordered = sorted(self.seconds) or [0.0]
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def figures(self) -> dict[str, float]:
        """The figures of a report."""
        return {
            "requests": len(self.seconds), "failed": self.failed,
            "p50_ms": self.percentile(0.5), "p99_ms": self.percentile(0.99),
        }  # fmt: skip


class Client:
    """One connection that is kept."""

    def __init__(self, stack: Stack, user: str, times: Times) -> None:
        self._stack = stack
        self._times = times
        token = b64encode(f"{user}:{stack.password}".encode()).decode()
        self._head = (
            f"Host: 127.0.0.1\r\nAuthorization: Basic {token}\r\nContent-Type: application/json\r\n"
        )
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def connect(self) -> None:
        """Opens the connection."""
        self._streams = await asyncio.open_connection(
            "127.0.0.1", self._stack.port, ssl=self._stack.context, limit=2**24
        )

    async def ask(self, method: str, path: str, body: bytes = b"") -> None:
        """Sends a request and reads the whole answer."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(ANSWER_S):
                if self._streams is None:
                    await self.connect()
                status = await self._exchange(method, path, body)
        except (OSError, EOFError, TimeoutError, ssl.SSLError):
            self._streams = None
            status = 0
        self._times.seconds.append(time.monotonic() - started)
        self._times.failed += status != 200

    async def _exchange(self, method: str, path: str, body: bytes) -> int:
        assert self._streams is not None
        reader, writer = self._streams
        head = f"{method} {path} HTTP/1.1\r\n{self._head}Content-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])
        }
        await reader.readexactly(int(headers.get("content-length", "0")))
        return int(lines[0].split()[1])

    def close(self) -> None:
        """Closes the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def one_after_the_other(
    stack: Stack, requests: list[tuple[str, bytes]], times: Times
) -> None:
    """One station that catches up: a request as soon as the one before is answered."""
    client = Client(stack, STATION, times)
    for path, body in requests:
        await client.ask("POST", path, body)
    client.close()


async def live(
    stack: Stack, devices: list[str], interval_s: float, seconds: float, times: Times, size: int = 1
) -> None:
    """Stations that send so many records every so often, evenly spread, over kept connections."""
    clients = [Client(stack, STATION, times) for _ in devices]
    end = time.monotonic() + seconds

    async def send(number: int, client: Client) -> None:
        due = time.monotonic() + interval_s * number / len(devices)
        while due < end:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await client.ask("POST", *ingest(devices[number], size))
            due += interval_s

    await asyncio.gather(*(send(*one) for one in enumerate(clients)))
    for client in clients:
        client.close()


async def storm(stack: Stack, devices: list[str], times: Times) -> None:
    """All stations at once, on new connections, as after a power cut."""
    clients = [Client(stack, STATION, times) for _ in devices]
    asks = [
        client.ask("POST", *ingest(name, 1)) for client, name in zip(clients, devices, strict=True)
    ]
    await asyncio.gather(*asks)
    for client in clients:
        client.close()


async def readers(stack: Stack, device: str, kinds: dict[str, Times]) -> None:
    """Who reads beside: the mobile app every 5 s, a chart and the list of stations every 2 s."""
    bucket = "/v1/buckets/telemetry"
    asked = {
        "app": (5.0, f"{bucket}/collections/{device}/records?_limit=200&_sort=-timestamp"),
        "series": (2.0, f"{bucket}/collections/{device}/series"),
        "latest": (2.0, f"{bucket}/latest"),
    }

    async def read(name: str) -> None:
        every, path = asked[name]
        client = Client(stack, READER, kinds.setdefault(name, Times()))
        try:
            while True:
                await client.ask("GET", path)
                await asyncio.sleep(every)
        finally:
            client.close()

    await asyncio.gather(*(read(name) for name in asked))
