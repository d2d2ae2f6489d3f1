"""One publisher as processes: satellite, cable, agent, local Kinto, valve, hub.

    with Kintos(directory, postgres, memcached) as kintos, Station(directory, kintos) as station:
        station.start_agent()
        with station.satellite(interval_s=0.2):
            station.kill_agent()
            station.start_agent()
        station.drain()
        station.judge().insist()

Everything is a process of its own, as on a host: a satellite (`unisat-agent simulate`) on a pty
behind a symlink, the agent, and two Kintos on databases of their own; the hub behind a valve.

What the judge demands
----------------------
A package is *committed* once it is in the agent's spool; before that it is bytes on a line, and
dies with whoever has read them. So a kill -9 of the agent may cost packages that were sent and not
yet committed, and nothing else. At each kill the station copies the dead agent's spool and looks up
the last package in it. Excused are then exactly the packages that the satellite had sent (its
journal says which) *after* that one up to the kill, and the one on the line at that moment. The
agent reads and commits within milliseconds, so that is none or one; `Judgement.excused` says how
many were really missing, and the tests bound it. Nothing else is excused by a kill, least of all a
package that the spool had.

A satellite's own faults (garbage, half packages, a pulled cable) are in its journal: each package
must be stored, must not be stored, or was on the line when the cable was pulled.

Beyond the journal, and independent of it, both Kintos must hold the same records with the same
content, and of each of the agent's epochs every seq from 1 up to the last one exactly once: a
record that was committed and vanished leaves a gap.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from rig import reserve_port
from rig.judge import Key, Record, Verdict, judge, read_journal, read_records
from rig.kinto import Kinto
from rig.servers import Memcached, Postgres, Process, program
from rig.valve import Valve
from rig.wait import wait_until
from unisat_agent.satellite import Entry

SIGNAL_UNPLUG = signal.SIGUSR1
SIGNAL_PLUG = signal.SIGUSR2
_AGENT_FOLDER = Path(__file__).parent.parent
_START_S = 60.0
HUB_PASSWORD = "hub-secret"
_LOCAL_PASSWORD = "local-secret"
_BY_THE_SERVER = {"last_modified", "schema"}


class OracleError(AssertionError):
    """What arrived is not what was sent."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """The journal's verdict and what was found beside it.

    Attributes:
        verdict: the comparison with the journal.
        excused: packages that were missing and were not committed when the agent was killed.
        problems: a sentence for everything else that is wrong.
    """

    verdict: Verdict
    excused: int
    problems: tuple[str, ...]

    @property
    def good(self) -> bool:
        """Whether nothing is lost, doubled, changed or left over."""
        return self.verdict.good and not self.problems

    def insist(self) -> None:
        """Raises an OracleError where it is not good."""
        if not self.good:
            reasons = [self.verdict.reason(), *self.problems]
            raise OracleError(f"{self.verdict}: " + "; ".join(filter(None, reasons)))


@dataclass(slots=True)
class Satellite:
    """A running `unisat-agent simulate`.

    Attributes:
        devices: its devIDs, used by no other satellite of the station.
        journal: what it sent.
        excused: packages that a kill of the agent may have cost.
    """

    devices: tuple[str, ...]
    journal: Path
    process: Process
    excused: set[Key] = field(default_factory=set)

    def entries(self) -> dict[Key, Entry]:
        """The journal so far, in the order of sending."""
        return read_journal(self.journal) if self.journal.exists() else {}

    def signal(self, number: signal.Signals) -> None:
        """SIGNAL_UNPLUG or SIGNAL_PLUG."""
        os.kill(self.process.pid, number)


class Kintos:
    """A local Kinto and a hub on databases of their own; a context manager that starts them.

    They take seconds to start, so stations follow one another on the same two, each with a bucket
    of its own.
    """

    def __init__(self, directory: Path, postgres: Postgres, memcached: Memcached) -> None:
        self.postgres = postgres
        self.databases = {name: postgres.new_database() for name in ("local", "hub")}
        self.local, self.hub = (
            Kinto(
                directory,
                name,
                storage_url=postgres.url(database),
                memcached=memcached.address,
                # Lets a test make a hub refuse records.
                settings={"kinto.experimental_collection_schema_validation": "true"},
            )
            for name, database in self.databases.items()
        )
        self._stations = 0

    def __enter__(self) -> Self:
        try:
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(Kinto.start, (self.local, self.hub)))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends both and drops their databases."""
        for kinto in (self.local, self.hub):
            kinto.close()
        if self.postgres.running:
            for database in self.databases.values():
                self.postgres.drop_database(database)

    def mend(self) -> None:
        """Starts again what a failed test left dead."""
        if not self.postgres.running:
            self.postgres.start()
        for kinto in (self.local, self.hub):
            if not kinto.healthy():
                kinto.restart()

    def new_bucket(self) -> str:
        """The name of a bucket that no station has had."""
        self._stations += 1
        return f"telemetry{self._stations}"

    @contextlib.contextmanager
    def stopped(self, kinto: Kinto) -> Iterator[str]:
        """Ends one of the Kintos for the block, which gets the name of its database."""
        kinto.terminate()
        yield self.databases[kinto.name]
        kinto.launch()
        kinto.wait_ready()

    def snapshot(self, kinto: Kinto) -> str:
        """A backup of a Kinto's database: the name of a copy, to give to `restore`."""
        with self.stopped(kinto) as database:
            return self.postgres.new_database(template=database)

    def restore(self, kinto: Kinto, copy: str) -> None:
        """Puts a Kinto's database back to a `snapshot`, which is used up."""
        with self.stopped(kinto) as database:
            self.postgres.drop_database(database)
            self.postgres.new_database(database, template=copy)
            self.postgres.drop_database(copy)


class Station:
    """The parts of one publisher and its hub; a context manager.

    Args:
        directory: Where everything of it lies.
        kintos: Its local Kinto and its hub, running.
        config: Tables of the agent's TOML to change, as {"spool": {"max_mb": 1}}.
        spool_mb: Puts the spool on a file system of its own of this size, which can be filled.
    """

    def __init__(
        self,
        directory: Path,
        kintos: Kintos,
        *,
        config: Mapping[str, Mapping[str, Any]] | None = None,
        spool_mb: int | None = None,
    ) -> None:
        self.directory = directory
        self.kintos = kintos
        self.postgres = kintos.postgres
        self.local, self.hub = kintos.local, kintos.hub
        self.bucket = kintos.new_bucket()
        self.valve = Valve("127.0.0.1", self.hub.port)
        self.link = directory / "by-id" / "usb-UniSat"
        self.config_file = directory / "agent.toml"
        self.clock_flag = directory / "clock-is-right"
        self.satellites: list[Satellite] = []
        self.agent: Process | None = None
        self._status_holder = reserve_port()
        self._status_port: int = self._status_holder.getsockname()[1]
        self._changes = {name: dict(table) for name, table in (config or {}).items()}
        self._disk = None if spool_mb is None else SmallDisk(directory / "disk", spool_mb)
        self.spool = directory / ("disk" if self._disk else "spool") / "spool.db"
        self._hub_devices: tuple[str, ...] = ()
        self._agents = 0

    def __enter__(self) -> Self:
        try:
            self.link.parent.mkdir()
            self.kintos.mend()
            self.local.provision_local(_LOCAL_PASSWORD, bucket=self.bucket)
            self.provision_hub()
            self._write_config()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends every process of it; the Kintos stay."""
        for satellite in self.satellites:
            satellite.process.end(signal.SIGKILL)
        self.kill_agent(examine=False)
        if self._disk is not None:
            self._disk.close()
        self.valve.close()
        self._status_holder.close()

    # The agent

    def _write_config(self) -> None:
        tables: dict[str, dict[str, Any]] = {
            "station": {"name": "station"},
            "spool": {"path": str(self.spool)},
            "[serial]": {"port": str(self.link), "idle_s": 1.0},
            "local": {"url": self.local.url, "user": "agent", "bucket": self.bucket},
            "hub": {
                "url": f"http://127.0.0.1:{self.valve.port}/v1",
                "user": "station",
                "bucket": self.bucket,
                "connect_timeout_s": 2,
                "read_timeout_s": 3,
            },
            "clock": {"synchronised": str(self.clock_flag)},
            "status": {"listen": f"127.0.0.1:{self._status_port}"},
        }
        for name, secret in (("local", _LOCAL_PASSWORD), ("hub", HUB_PASSWORD)):
            file = self.directory / f"{name}.password"
            file.touch(mode=0o600)
            file.write_text(secret)
            tables[name]["password_file"] = str(file)
        for name, entries in self._changes.items():
            tables[name].update(entries)
        # JSON's strings, numbers, booleans and lists of strings are TOML's as well.
        lines = (
            f"[{name}]\n"
            + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
            for name, table in tables.items()
        )
        self.config_file.write_text("\n".join(lines))
        self.clock_flag.touch()

    def agent_command(self, *words: str) -> list[str]:
        """The command line of the agent's program with this station's configuration."""
        command = [sys.executable, "-m", "unisat_agent", "--config", str(self.config_file), *words]
        return command if self._disk is None else self._disk.inside(command)

    def start_agent(
        self, *, environment: Mapping[str, str] | None = None, wait: bool = True
    ) -> float:
        """Starts the agent.

        Args:
            environment: Variables to add, as libfaketime's.
            wait: Until it reads the port, or awaits it where it is unplugged.

        Returns:
            The seconds it took.
        """
        assert self.agent is None, "the agent is running"
        self.spool.parent.mkdir(exist_ok=True)
        self._agents += 1
        started = time.monotonic()
        self.agent = Process(
            [program("setpriv"), "--pdeathsig", "KILL", "--", *self.agent_command("run")],
            self.directory / f"agent{self._agents}.log",
            environment=environment,
        )
        if wait:
            self.wait_status(self._settled, "the agent to read the port")
        return time.monotonic() - started

    def _settled(self, status: Mapping[str, Any]) -> bool:
        plugged = self.link.exists()
        return all(port["state"].lower() == "reading" or not plugged for port in status["ports"])

    def stop_agent(self) -> float:
        """SIGTERM; returns the seconds until it has ended, and insists on exit code 0."""
        assert self.agent is not None, "the agent is not running"
        process, self.agent = self.agent, None
        started = time.monotonic()
        code = process.end(signal.SIGTERM)
        seconds = time.monotonic() - started
        if code != 0:
            raise OracleError(f"the agent's exit code was {code}: {process.tail()}")
        return seconds

    def kill_agent(self, *, examine: bool = True) -> None:
        """Kill -9, and a look into the spool it leaves (see the module's text)."""
        if self.agent is None:
            return
        process, self.agent = self.agent, None
        process.end(signal.SIGKILL)
        if examine:
            self._excuse_uncommitted()

    def _excuse_uncommitted(self) -> None:
        flying = [satellite for satellite in self.satellites if satellite.process.running()]
        if not flying:
            return
        last = self.last_committed()
        for satellite in flying:
            keys = list(satellite.entries())
            # A package that the spool does not know may be followed by one whose journal line is
            # not written yet: the satellite writes it after the bytes.
            following = keys[keys.index(last) + 1 :] if last in keys else keys
            satellite.excused.update(following)
            if keys:
                position = satellite.devices.index(keys[-1][0])
                wrapped = position + 1 == len(satellite.devices)
                satellite.excused.add(
                    (satellite.devices[0 if wrapped else position + 1], keys[-1][1] + wrapped)
                )

    def last_committed(self) -> Key | None:
        """The package committed last, from a copy of a dead agent's spool."""
        found = self._last_row()
        return None if found is None else (found[0], found[1]["packet"])

    def last_committed_fields(self) -> dict[str, Any]:
        """The content of the package committed last, likewise."""
        found = self._last_row()
        assert found is not None, "nothing was committed"
        return found[1]

    def _last_row(self) -> tuple[str, dict[str, Any]] | None:
        folder = self._disk.outside() if self._disk else self.spool.parent
        with tempfile.TemporaryDirectory() as scratch:
            for file in folder.glob("spool.db*"):
                shutil.copy(file, scratch)
            if not (copy := Path(scratch, "spool.db")).exists():
                return None
            with contextlib.closing(sqlite3.connect(copy)) as database:
                found = database.execute(
                    "SELECT dev_id, payload FROM package WHERE seq > 0 ORDER BY seq DESC LIMIT 1"
                ).fetchone()
        return None if found is None else (found[0], json.loads(found[1]))

    def cli(self, *words: str, deadline_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Runs a command of the agent's program to its end."""
        return subprocess.run(
            self.agent_command(*words),
            check=False,
            capture_output=True,
            text=True,
            timeout=deadline_s,
            cwd=self.directory,
        )

    def get(self, path: str) -> str:
        """An answer of the agent's HTTP face."""
        url = f"http://127.0.0.1:{self._status_port}{path}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                text: str = answer.read().decode()
        except urllib.error.HTTPError as error:
            text = error.read().decode()
        return text

    def status(self) -> dict[str, Any]:
        """The agent's /status."""
        status: dict[str, Any] = json.loads(self.get("/status"))
        return status

    def wait_status(
        self,
        condition: Callable[[dict[str, Any]], object],
        why: str,
        deadline_s: float = _START_S,
        step_s: float = 0.05,
    ) -> dict[str, Any]:
        """Waits until the condition is true of /status, and returns that status."""
        last: dict[str, Any] = {}

        def look() -> bool:
            assert self.agent is not None, "the agent is not running"
            if not self.agent.running():
                raise OracleError(f"the agent has ended: {self.agent.tail()}")
            last.clear()
            last.update(self.status())
            return bool(condition(last))

        wait_until(look, deadline_s, lambda: f"{why}; status {last}; log {self.log_tail()}", step_s)
        return last

    @property
    def disk(self) -> SmallDisk:
        """The spool's own disk, where the station was made with one."""
        assert self._disk is not None, "the station was made without spool_mb"
        return self._disk

    def log_tail(self) -> str:
        """The end of the agent's log."""
        return self.agent.tail() if self.agent is not None else "(not running)"

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        pattern = re.compile(rf"^{re.escape(name)}(?:{{.*}})? (\S+)$", re.MULTILINE)
        return sum(float(value) for value in pattern.findall(self.get("/metrics")))

    # The satellite

    def provision_hub(self, *devices: str) -> None:
        """Makes the station's account on the hub, and the collections of all its devices.

        Args:
            devices: To add to those that the hub knows.
        """
        self._hub_devices += devices
        self.hub.provision_hub("station", HUB_PASSWORD, self._hub_devices, bucket=self.bucket)

    @contextlib.contextmanager
    def satellite(
        self,
        *,
        devices: int = 2,
        interval_s: float = 0.4,
        count: int | None = None,
        seed: int = 1,
        faults: Sequence[str] = (),
    ) -> Iterator[Satellite]:
        """A satellite that sends until the block ends, under devIDs that the hub is told first.

        Args:
            devices: How many devIDs.
            interval_s: Seconds between two packages of a device.
            count: Ends by itself after so many packages in all.
            seed: Of the simulator.
            faults: Of the simulator.
        """
        number = len(self.satellites) + 1
        names = tuple(f"sat{number}-{index}" for index in range(1, devices + 1))
        self.provision_hub(*names)
        journal = self.directory / f"journal{number}"
        words = ["--link", str(self.link), "--journal", str(journal), "--seed", str(seed)]
        words += ["--devices", ",".join(names), "--interval", str(interval_s)]
        words += ["--count", str(count)] if count is not None else []
        words += ["--faults", ",".join(faults)] if faults else []
        process = Process(
            [
                *(program("setpriv"), "--pdeathsig", "KILL", "--"),
                *(sys.executable, "-m", "unisat_agent", "simulate", *words),
            ],
            self.directory / f"satellite{number}.log",
        )
        satellite = Satellite(names, journal, process)
        self.satellites.append(satellite)
        try:
            wait_until(
                lambda: self.link.exists() or not process.running(), 30, "the satellite's line"
            )
            yield satellite
            if count is not None:
                wait_until(lambda: not process.running(), 600, "the satellite to have sent all")
        except BaseException:
            process.end(signal.SIGKILL)
            raise
        if process.end(signal.SIGTERM) != 0:
            raise OracleError(f"the satellite failed: {process.tail()}")

    # The end of a round

    def pending(self) -> int:
        """How many packages wait, over both sinks."""
        return sum(int(sink["pending"]) for sink in self.status()["sinks"].values())

    def drain(self, deadline_s: float = 180.0) -> float:
        """Waits until nothing is pending; returns the seconds it took."""
        started = time.monotonic()
        self.wait_status(
            lambda status: not any(sink["pending"] for sink in status["sinks"].values()),
            "nothing to be pending",
            deadline_s,
        )
        return time.monotonic() - started

    def drain_backlog(self, deadline_s: float = 180.0) -> None:
        """Waits until nothing older than a few seconds is pending, while a satellite sends."""
        self.wait_status(
            lambda status: all(sink["oldest_s"] < 3 for sink in status["sinks"].values()),
            "the backlog to be gone",
            deadline_s,
        )

    def client(self, kinto: Kinto) -> Any:
        """The administrator's kinto-http client for this station's bucket."""
        return kinto.client().clone(bucket=self.bucket)

    def records(self, kinto: Kinto, *devices: str) -> list[dict[str, Any]]:
        """The records in one of its Kintos: of these devices, or of all its satellites."""
        wanted = devices or [name for satellite in self.satellites for name in satellite.devices]
        return read_records(self.client(kinto), wanted)

    def judge(self) -> Judgement:
        """Compares all that was sent with all that is stored; the satellites must be silent."""
        journal: dict[Key, Entry] = {}
        excusable: set[Key] = set()
        for satellite in self.satellites:
            journal |= satellite.entries()
            excusable |= satellite.excused
        local, hub = self.records(self.local), self.records(self.hub)
        there = {(r["devID"], r["packet"]) for r in (*local, *hub)}
        missing = {key for key in excusable - there if key in journal and journal[key].expected}
        for key in missing:
            journal[key] = replace(journal[key], expected=None, fault="agent killed")
        return Judgement(
            judge(journal, local, hub), len(missing), (*_unequal(local, hub), *_gaps(local, hub))
        )

    def send_fresh_package(self) -> None:
        """One package of a fresh device must arrive in both Kintos: it is alive, not only right."""
        if self.agent is None:
            self.start_agent(wait=False)
        with self.satellite(devices=1, count=1) as fresh:
            self.wait_status(
                lambda status: (status["last_record"] or {}).get("devID") == fresh.devices[0],
                "the fresh package to be committed",
            )
        self.drain()

    def prove_life(self) -> Judgement:
        """Sends the fresh package, then judges all; it must be good."""
        self.send_fresh_package()
        judgement = self.judge()
        judgement.insist()
        return judgement


def _unequal(local: Sequence[Record], hub: Sequence[Record]) -> Iterator[str]:
    """Records that only one has, or that differ, in their times as well."""
    kept: list[dict[str, Record]] = [
        {r["id"]: {k: v for k, v in r.items() if k not in _BY_THE_SERVER} for r in records}
        for records in (local, hub)
    ]
    for name, only in (
        ("locally", kept[0].keys() - kept[1].keys()),
        ("on the hub", kept[1].keys() - kept[0].keys()),
    ):
        if only:
            yield f"{len(only)} records are only {name}"
    different = [name for name in kept[0].keys() & kept[1].keys() if kept[0][name] != kept[1][name]]
    if different:
        name = different[0]
        yield f"{len(different)} differ, as {kept[0][name]} and {kept[1][name]}"


def _gaps(local: Sequence[Record], hub: Sequence[Record]) -> Iterator[str]:
    """Seqs that are missing below the highest of their epoch, or are there twice."""
    for place, records in (("local", local), ("hub", hub)):
        counts = Counter((r["epoch"], r["seq"]) for r in records)
        for epoch in {epoch for epoch, _ in counts}:
            have = [seq for name, seq in counts if name == epoch]
            absent = sorted(set(range(1, max(have) + 1)) - set(have))
            if absent:
                yield f"{place}: seqs {absent[:5]} of {len(absent)} are missing"
        twice = [key for key, count in counts.items() if count > 1]
        if twice:
            yield f"{place}: {len(twice)} seqs are there twice, as {twice[0]}"


MakeStation = Callable[..., Station]


class SmallDisk:
    """A tmpfs of a given size in a mount namespace of its own, gone with its keeper process."""

    def __init__(self, directory: Path, megabytes: int) -> None:
        if os.geteuid() != 0:
            raise PermissionError("a small disk for the spool can only be mounted by root")
        directory.mkdir()
        self._directory = directory
        mount = f"mount -t tmpfs -o size={megabytes}m,mode=0755 unisat-rig '{directory}'"
        self._keeper = subprocess.Popen(
            [
                *(program("setpriv"), "--pdeathsig", "KILL", "--"),
                *(program("unshare"), "--mount", "--propagation", "private", "--"),
                *("sh", "-c", f"{mount} && echo mounted && exec sleep infinity"),
            ],
            stdout=subprocess.PIPE,
        )
        assert self._keeper.stdout is not None
        if self._keeper.stdout.readline() != b"mounted\n":
            raise RuntimeError(f"can't mount a tmpfs on {directory}")

    def inside(self, command: Sequence[str]) -> list[str]:
        """The command as it runs with the disk mounted."""
        namespace = f"--mount=/proc/{self._keeper.pid}/ns/mnt"
        return [program("nsenter"), namespace, "--wdns=/", "--", *command]

    def outside(self) -> Path:
        """The disk's directory as this process reaches it."""
        return Path(f"/proc/{self._keeper.pid}/root{self._directory}")

    def close(self) -> None:
        """Ends the keeper: with the last process inside, the disk goes."""
        self._keeper.kill()
        self._keeper.communicate()
