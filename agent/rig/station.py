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
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from rig import reserve_port
from rig.agent_config import write_config
from rig.judge import Key, Record, judge, read_records
from rig.kinto import Kinto
from rig.kintos import Kintos
from rig.oracle import Judgement, OracleError, gaps, unequal
from rig.processes import Process, program
from rig.satellite import Satellite, launch
from rig.small_disk import SmallDisk
from rig.spools import last_row
from rig.valve import Valve
from rig.wait import wait_until
from unisat_agent.simulator.satellite import SERIAL_NUMBER, Entry

_START_S = 60.0
HUB_PASSWORD = "hub-secret"
_LOCAL_PASSWORD = "local-secret"


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
        for name, entries in self._changes.items():
            tables[name].update(entries)
        passwords = {"local": _LOCAL_PASSWORD, "hub": HUB_PASSWORD}
        write_config(self.config_file, tables, passwords)
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
        """Kill -9, and a look into the spool it leaves (see rig/oracle.py)."""
        if self.agent is None:
            return
        process, self.agent = self.agent, None
        process.end(signal.SIGKILL)
        if examine:
            self._excuse_uncommitted()

    def _excuse_uncommitted(self) -> None:
        flying = [satellite for satellite in self.satellites if satellite.process.running()]
        if flying:
            last = self.last_committed()
            for satellite in flying:
                satellite.excuse_after(last)

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
        return last_row(self._disk.outside() if self._disk else self.spool.parent)

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
        """An answer of the agent's status server."""
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
        satellite = launch(
            self.directory,
            number,
            self.link,
            names,
            interval_s,
            count=count,
            seed=seed,
            faults=faults,
        )
        self.satellites.append(satellite)
        with satellite.flying(self.link, to_the_end=count is not None):
            yield satellite

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
            judge(journal, local, hub), len(missing), (*unequal(local, hub), *gaps(local, hub))
        )

    def send_fresh_package(self) -> None:
        """Packages of a fresh device must arrive in both Kintos: it is alive, not only right.

        Two, for the first is delivered with the second.
        """
        if self.agent is None:
            self.start_agent(wait=False)
        with self.satellite(devices=1, count=2) as fresh:
            wanted = (fresh.devices[0], 2)
            self.wait_status(
                lambda status: _identity(status["last_record"] or {}) == wanted,
                "the fresh packages to be committed",
            )
        self.drain()

    def prove_life(self) -> Judgement:
        """Sends the fresh package, then judges all; it must be good."""
        self.send_fresh_package()
        judgement = self.judge()
        judgement.insist()
        return judgement


def _identity(record: Record) -> tuple[object, object]:
    return record.get("devID"), record.get(SERIAL_NUMBER)


MakeStation = Callable[..., Station]
