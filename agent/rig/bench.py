"""What the agent costs and how fast it is, as ratios measured side by side: `make bench`.

Catch-up: the agent delivers a backlog to a hub, in turns with two others that send records of the
same size through the same valve to the same Kinto: a bare generator (one keep-alive connection,
batches made beforehand, answers not looked into) and the way it was done before, one kinto-http
request a record. All three are timed by the hub's own clock, from the first record to the last.
One turn of each is a round; the ratios are of each round, and their median counts.

Live: packages at PSoTT's usual pace. Latency is from the last byte on the line to the record's
`last_modified` on the hub; the line is a pty, so the 0.3 s that 9600 baud take are not in it.
Memory, processor and write-ahead log are the agent's in that time.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import struct
import sys
import tempfile
import time
import uuid
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import kinto_http

from rig.cable import Cable
from rig.kintos import Kintos
from rig.servers import Memcached, Postgres
from rig.station import HUB_PASSWORD, Station
from rig.valve import Mode
from rig.wait import wait_until
from unisat_agent.simulator.satellite import frames

RESULT = Path(__file__).parents[2] / "build" / "bench.json"
BATCH = 25
LIVE_INTERVAL_S = 3.0
_FIRST = 2
_WAL_HEADER = struct.Struct(">IIIIIIII")
_FRAME_HEADER = struct.Struct(">IIIIII")
_MAX_RSS_MB = 40.0
MAX_WAL_BYTES = 9000.0


@dataclass(frozen=True, slots=True)
class CatchUp:
    """Records a second of one round."""

    agent: float
    generator: float
    one_by_one: float


@dataclass(frozen=True, slots=True)
class Live:
    """What was measured while packages came at their usual pace."""

    packages: int
    latency_p50_s: float
    latency_p99_s: float
    latency_max_s: float
    rss_mb: float
    rss_peak_mb: float
    cpu_percent: float
    cpu_ms_per_package: float
    wal_bytes_per_package: float


class Wal:
    """Counts the frames that SQLite has ever appended to a write-ahead log that it reuses."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._salt = b""
        self._frames = 0
        self.bytes = 0
        self.look()
        self.bytes = 0

    def look(self) -> None:
        """Adds what was appended since the last look."""
        with self._path.open("rb") as file:
            header = file.read(_WAL_HEADER.size)
            if len(header) < _WAL_HEADER.size:
                return
            page_size, salt = _WAL_HEADER.unpack(header)[2], header[16:24]
            if salt != self._salt:
                self._salt, self._frames = salt, 0
            frame_size = _FRAME_HEADER.size + page_size
            while True:
                file.seek(_WAL_HEADER.size + self._frames * frame_size)
                # Frames of an earlier use of the file carry another salt.
                if file.read(_FRAME_HEADER.size)[8:16] != salt:
                    return
                self._frames += 1
                self.bytes += frame_size


def _rate(station: Station, device: str, count: int) -> float:
    """Records a second in one collection of the hub, by the hub's clock."""
    stored = sorted(int(r["last_modified"]) for r in station.records(station.hub, device))
    if len(stored) != count:
        raise RuntimeError(f"{device}: {len(stored)} records on the hub, not {count}")
    return (count - 1) / (stored[-1] - stored[0]) * 1000


def _made_up(device: str, count: int) -> Iterator[dict[str, Any]]:
    """Records as the agent makes them."""
    for seq, frame in enumerate(islice(frames([device]), count), start=1):
        yield {
            "id": str(uuid.uuid4()),
            "devID": device,
            "timestamp": 1_700_000_000 + seq,
            "received_at": "2023-11-14T22:13:20.123Z",
            "clock": "synced",
            "epoch": str(uuid.UUID(int=1)),
            "seq": seq,
            "boot_id": str(uuid.UUID(int=2)),
            "uptime": 5123.456 + seq,
            "groups": {name: list(fields) for name, fields in frame.entry.groups.items()},
            **frame.entry.fields,
        }


def _generate(station: Station, device: str, count: int) -> None:
    """The bare generator."""
    path = f"/v1/buckets/{station.bucket}/collections/{device}/records"
    requests = [
        {"path": f"{path}/{record['id']}", "body": {"data": record}}
        for record in _made_up(device, count)
    ]
    defaults = {"method": "PUT", "headers": {"If-None-Match": "*"}}
    bodies = [
        json.dumps({"defaults": defaults, "requests": requests[start : start + BATCH]}).encode()
        for start in range(0, count, BATCH)
    ]
    token = b64encode(f"station:{HUB_PASSWORD}".encode()).decode()
    headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}
    connection = http.client.HTTPConnection("127.0.0.1", station.valve.port, timeout=60)
    for body in bodies:
        connection.request("POST", "/v1/batch", body, headers)
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise RuntimeError(f"the bare generator got {answer.status}")
    connection.close()


def _one_by_one(station: Station, device: str, count: int) -> None:
    """One kinto-http request a record."""
    client: Any = kinto_http.Client(
        server_url=f"http://127.0.0.1:{station.valve.port}/v1",
        auth=("station", HUB_PASSWORD),
        bucket=station.bucket,
        collection=device,
    )
    for record in _made_up(device, count):
        client.create_record(data=record)


def _agent(station: Station, count: int) -> float:
    """A backlog of the agent; returns its rate."""
    station.valve.set(Mode.CUT)
    with station.satellite(devices=1, interval_s=0.005, count=count) as satellite:
        pass
    # A line whose reader gets no processor for a second is full, and drops what comes then.
    count = sum(bool(entry.expected) for entry in satellite.entries().values())
    station.wait_status(
        lambda status: (
            status["sinks"]["hub"]["pending"] == count and status["sinks"]["local"]["pending"] == 0
        ),
        "the backlog to be there and the local Kinto to be at rest",
        600,
    )
    station.valve.set(Mode.OPEN)
    station.drain(600)
    return _rate(station, satellite.devices[0], count)


def catch_up(station: Station, rounds: int, count: int) -> list[CatchUp]:
    """Measures the three in turns, each round in another order."""
    measured: list[CatchUp] = []

    def send(sender: Callable[[Station, str, int], None], records: int) -> float:
        device = f"bench-{uuid.uuid4().hex[:8]}"
        station.provision_hub(device)
        sender(station, device, records)
        return _rate(station, device, records)

    turns: list[tuple[str, Callable[[], float]]] = [
        ("agent", lambda: _agent(station, count)),
        ("generator", lambda: send(_generate, count)),
        ("one_by_one", lambda: send(_one_by_one, max(BATCH, count // 3))),
    ]
    for number in range(rounds):
        turn = number % len(turns)
        rates = {name: measure() for name, measure in turns[turn:] + turns[:turn]}
        measured.append(CatchUp(**rates))
        _say(f"round {number + 1} of {rounds}: " + ", ".join(
            f"{name} {rate:.0f}/s" for name, rate in rates.items()))  # fmt: skip
    return measured


def _cpu_s(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def _memory_mb(pid: int, key: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no {key} in /proc/{pid}/status")


def live(station: Station, packages: int, interval_s: float) -> Live:
    """Sends packages one by one at their pace, by an own hand on the cable."""
    device = "live"
    station.provision_hub(device)
    cable = Cable(station.link)
    wait_until(lambda: station.status()["ports"][0]["state"] == "reading", 30, "the agent to read")
    assert station.agent is not None
    pid = station.agent.pid
    wal = Wal(station.spool.with_name(station.spool.name + "-wal"))
    sent: list[float] = []
    # The first makes its collection in the local Kinto, which is no everyday thing, and is
    # delivered with the second.
    made = islice(frames([device]), _FIRST + packages)
    for frame in islice(made, _FIRST):
        cable.write(frame.data)
    wait_until(lambda: len(station.records(station.hub, device)) == _FIRST, 30, "first packages")
    station.drain()
    wal.look()
    wal.bytes = 0
    started, cpu_before = time.monotonic(), _cpu_s(pid)
    for number, frame in enumerate(made):
        due = started + number * interval_s
        while (rest := due - time.monotonic()) > 0:
            time.sleep(min(rest, 0.2))
            wal.look()
        cable.write(frame.data)
        sent.append(time.time())
    wait_until(
        lambda: len(station.records(station.hub, device)) == _FIRST + packages, 60, "all packages"
    )
    station.drain()
    wal.look()
    seconds, cpu_s = time.monotonic() - started, _cpu_s(pid) - cpu_before
    stored = sorted(int(r["last_modified"]) / 1000 for r in station.records(station.hub, device))
    latencies = sorted(at - begun for at, begun in zip(stored[_FIRST:], sent, strict=True))
    rss, peak = _memory_mb(pid, "VmRSS"), _memory_mb(pid, "VmHWM")
    cable.close()
    return Live(
        packages=packages,
        latency_p50_s=statistics.median(latencies),
        latency_p99_s=latencies[min(len(latencies) - 1, round(0.99 * len(latencies)))],
        latency_max_s=latencies[-1],
        rss_mb=rss,
        rss_peak_mb=peak,
        cpu_percent=100 * cpu_s / seconds,
        cpu_ms_per_package=1000 * cpu_s / packages,
        wal_bytes_per_package=wal.bytes / packages,
    )


def main() -> int:
    """Runs the bench; returns 1 when a figure misses its goal."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of catch-up (5)")
    parser.add_argument("--records", type=int, default=1000, help="of a backlog (1000)")
    parser.add_argument("--packages", type=int, default=60, help="live (60)")
    parser.add_argument(
        "--interval", type=float, default=LIVE_INTERVAL_S, help="seconds between two (3)"
    )
    args = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="unisat-bench-") as scratch,
        Postgres() as postgres,
        Memcached() as memcached,
        Kintos(Path(scratch, "kintos"), postgres, memcached) as kintos,
        Station(Path(scratch), kintos) as station,
    ):
        station.start_agent(wait=False)
        _say(f"live: {args.packages} packages, one every {args.interval:g} s")
        lived = live(station, args.packages, args.interval)
        rounds = catch_up(station, args.rounds, args.records)
        agent = station.agent
        assert agent is not None
        after_mb = _memory_mb(agent.pid, "VmHWM")
    to_generator = statistics.median(r.agent / r.generator for r in rounds)
    to_one_by_one = statistics.median(r.agent / r.one_by_one for r in rounds)
    rows = [
        ("catch-up of the agent, records/s", statistics.median(r.agent for r in rounds), None),
        ("bare generator, records/s", statistics.median(r.generator for r in rounds), None),
        ("one request a record, records/s", statistics.median(r.one_by_one for r in rounds), None),
        ("agent / bare generator", to_generator, (">=", 0.9)),
        ("agent / one request a record", to_one_by_one, (">=", 1.3)),
        ("latency device to hub, p50, s", lived.latency_p50_s, None),
        ("latency device to hub, p99, s", lived.latency_p99_s, ("<=", 1.0)),
        ("memory of the agent, MB", lived.rss_mb, ("<=", _MAX_RSS_MB)),
        ("highest, catch-up included, MB", after_mb, ("<=", _MAX_RSS_MB)),
        ("processor at this pace, %", lived.cpu_percent, None),
        ("processor a package, ms", lived.cpu_ms_per_package, None),
        ("spool log a package, bytes", lived.wal_bytes_per_package, ("<=", MAX_WAL_BYTES)),
    ]
    missed = 0
    for name, value, goal in rows:
        kept = goal is None or (value >= goal[1] if goal[0] == ">=" else value <= goal[1])
        missed += not kept
        told = "" if goal is None else f"  {goal[0]} {goal[1]:g}  {'ok' if kept else 'MISSED'}"
        print(f"{name:<36}{value:>10.3f}{told}")
    RESULT.parent.mkdir(exist_ok=True)
    content = {
        "rounds": [asdict(r) for r in rounds],
        "live": asdict(lived),
        "highest_rss_mb": after_mb,
        "agent_to_generator": to_generator,
        "agent_to_one_by_one": to_one_by_one,
    }
    RESULT.write_text(json.dumps(content, indent=1) + "\n")
    print(f"saved in {RESULT}")
    return 1 if missed else 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
