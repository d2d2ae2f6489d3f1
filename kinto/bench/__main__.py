"""What a hub costs, measured side by side on the real stack: `make bench-hub`.

Catch-up: one station sends batches one after the other, Kinto's own and `records:ingest`, in turns.
Live: stations with kept TLS connections send a record every 3 s each, alone and with readers beside
them. Storm: all of them come at once on new connections.

Processor time is that of nginx, Kinto (all its processes) and PostgreSQL, from /proc; so other work
on the machine does not count, though it makes caches colder. How long requests take does depend on
it. The load generator's own time is in no figure.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench import load
from bench.load import Times
from bench.stack import Stack, stack
from bench.subscribers import PER_READER, Got, subscribers

RESULT = Path(__file__).parents[2] / "build" / "bench-hub.json"
INTERVAL_S = 3.0
STOCK_SIZES = (1, 25, 100, 500)
INGEST_SIZES = (1, 25, 100, 500, 1000)
GOALS = {100: 40.0, 500: 60.0}
LIVE_MS = 2.4
GROUP = 3
STREAMED_PER_S = 300
Figures = dict[str, Any]


def measure(hub: Stack, name: str, size: int, times: Times, work: Awaitable[None]) -> Figures:
    """Does some work and says what it cost; each of its requests stores `size` records."""

    async def run() -> None:
        await work

    before, started = hub.used_ms(), time.monotonic()
    asyncio.run(run())
    seconds, after = time.monotonic() - started, hub.used_ms()
    stored = len(times.seconds) * size
    cpu = {part: (after[part] - before[part]) / max(1, stored) for part in after}
    found = {
        "name": name, "records": stored, "records_per_s": stored / seconds,
        "cpu_ms": cpu, "cpu_ms_sum": sum(cpu.values()), **times.figures(),
    }  # fmt: skip
    parts = ", ".join(f"{part} {value:.2f}" for part, value in cpu.items())
    print(
        f"{name:<22}{found['records_per_s']:>9.0f}/s{found['cpu_ms_sum']:>9.3f} ms a record"
        f" ({parts})  p50 {found['p50_ms']:.0f}, p99 {found['p99_ms']:.0f} ms"
        + (f"  FAILED {times.failed}" if times.failed else ""),
        flush=True,
    )
    return found


def catch_up(hub: Stack, scale: float) -> list[Figures]:
    """Batches of both kinds and all sizes."""
    kinds: list[tuple[str, tuple[int, ...], Callable[[str, int], tuple[str, bytes]]]] = [
        ("stock", STOCK_SIZES, load.stock_batch),
        ("ingest", INGEST_SIZES, load.ingest),
    ]
    found = []
    for kind, sizes, make in kinds:
        for size in sizes:
            # As many as take a few seconds: ingest is quick where batches are large.
            wanted = scale * (300 if kind == "stock" else 200 + 40 * size)
            batches = max(3, round(wanted / size))
            device = f"{kind}-{size}"
            hub.provision([device])
            requests = [make(device, size) for _ in range(batches)]
            times = Times()
            work = load.one_after_the_other(hub, requests, times)
            found.append(measure(hub, f"{kind} {size}", size, times, work))
    return found


def at_work(hub: Stack, stations: int, seconds: float) -> list[Figures]:
    """Live records, without and with readers, and a storm."""
    devices = [f"live-{number:05}" for number in range(stations)]
    hub.provision(devices)
    found = []
    times = Times()
    work = load.live(hub, devices, INTERVAL_S, seconds, times)
    found.append(measure(hub, "live", 1, times, work))
    # As where the hub asks its stations for a pause of that many intervals (kinto.backoff).
    times = Times()
    work = load.live(hub, devices, GROUP * INTERVAL_S, seconds, times, GROUP)
    found.append(measure(hub, "live, grouped", GROUP, times, work))
    times = Times()
    kinds: dict[str, Times] = {}

    async def with_readers() -> None:
        reading = asyncio.create_task(load.readers(hub, devices[0], kinds))
        await load.live(hub, devices, INTERVAL_S, seconds, times)
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading

    found.append(measure(hub, "live, with readers", 1, times, with_readers()))
    for name, read in kinds.items():
        print(f"    {name}: {read.figures()}")
        found[-1][name] = read.figures()
    times = Times()
    found.append(measure(hub, "storm", 1, times, load.storm(hub, devices, times)))
    # What memcached knew of passwords is gone, as after its restart.
    hub.memcached.stop()
    hub.memcached.start()
    times = Times()
    work = load.storm(hub, devices, times)
    found.append(measure(hub, "storm, cold cache", 1, times, work))
    return found


def streamed(hub: Stack, readers: int, seconds: float) -> Figures:
    """As many stations as subscribers of the live stream; each station has ten of them."""
    devices = [f"seen-{number:05}" for number in range(readers)]
    hub.provision(devices)
    times = Times()
    got = Got()

    async def seen() -> None:
        nonlocal got
        with subscribers(hub, devices) as crowd:
            pause_s = GROUP * readers / STREAMED_PER_S
            await load.live(hub, devices, pause_s, seconds, times, GROUP)
            crowd.send(PER_READER * GROUP * (len(times.seconds) - times.failed))
            got = await asyncio.to_thread(crowd.recv)

    found = measure(hub, "live, with subscribers", GROUP, times, seen())
    late = Times(got.late_s)
    found |= {
        "sent_per_s": found["records"] / seconds,
        "subscribers": readers, "deliveries": got.distinct, "again": got.again,
        "missed": PER_READER * GROUP * (len(times.seconds) - times.failed) - got.distinct,
        "late_p50_ms": late.percentile(0.5), "late_p99_ms": late.percentile(0.99),
    }  # fmt: skip
    print(
        f"    {found['sent_per_s']:.0f} records/s, {readers} subscribers:"
        f" {got.distinct} deliveries, {found['missed']} missed,"
        f" p50 {found['late_p50_ms']:.0f}, p99 {found['late_p99_ms']:.0f} ms from the station"
    )
    return found


def main() -> int:
    """Runs the bench; returns 1 where a figure misses its goal."""
    parser = argparse.ArgumentParser(prog="make bench-hub", description=__doc__)
    parser.add_argument("--stations", type=int, default=200, help="with live records (200)")
    parser.add_argument("--seconds", type=float, default=30, help="of live records (30)")
    parser.add_argument(
        "--subscribers", type=int, default=1000, help="of the live stream, at 300 records/s (1000)"
    )
    parser.add_argument("--only-stream", action="store_true", help="measures these alone")
    parser.add_argument("--scale", type=float, default=1.0, help="of the catch-up (1)")
    args = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="unisat-bench-hub-") as folder,
        stack(Path(folder)) as hub,
    ):
        # nginx's workers may be another user.
        Path(folder).chmod(0o755)
        rows = [streamed(hub, args.subscribers, args.seconds)]
        if args.only_stream:
            return 1 if rows[0]["missed"] else 0
        rows += catch_up(hub, args.scale) + at_work(hub, args.stations, args.seconds)
    by_name = {row["name"]: row for row in rows}
    live_ms, grouped_ms = (by_name[name]["cpu_ms_sum"] for name in ("live", "live, grouped"))
    publishers = INTERVAL_S * 1000 / live_ms
    goals = [
        (f"ingest ÷ stock at {size}, less processor", ratio, ">=", goal)
        for size, goal in GOALS.items()
        for ratio in [
            by_name[f"stock {size}"]["cpu_ms_sum"] / by_name[f"ingest {size}"]["cpu_ms_sum"]
        ]
    ]
    goals.append(("missed by subscribers", rows[0]["missed"], "<=", 0))
    goals.append(("later than the station, p99, ms", rows[0]["late_p99_ms"], "<=", 1000))
    goals.append(("a live record, ms of a processor", live_ms, "<=", LIVE_MS))
    missed = 0
    for name, value, sign, goal in goals:
        kept = value >= goal if sign == ">=" else value <= goal
        missed += not kept
        print(f"{name:<40}{value:>8.1f}  {sign} {goal:g}  {'ok' if kept else 'MISSED'}")
    print(
        f"publishers at 3 s that one core carries: 3000 / {live_ms:.2f} = {publishers:.0f};"
        f" grouped 3000 / {grouped_ms:.2f} = {INTERVAL_S * 1000 / grouped_ms:.0f}"
    )
    RESULT.parent.mkdir(exist_ok=True)
    content = {
        "load_average": os.getloadavg(), "cores": os.cpu_count(),
        "publishers_per_core": publishers, "rows": rows,
    }  # fmt: skip
    RESULT.write_text(json.dumps(content, indent=1) + "\n")
    print(f"saved in {RESULT}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
