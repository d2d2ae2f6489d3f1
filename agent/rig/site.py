"""The agent in threads of the test's process, between a cable and two scripted Kintos."""

from __future__ import annotations

import contextlib
import json
import socket
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from rig import reserve_port
from rig.agent_config import write_config
from rig.cable import Cable
from rig.clock import FakeClock
from rig.scripted import ScriptedServer
from rig.wait import wait_until
from unisat_agent.config.model import Config, PortSettings, SinkSettings
from unisat_agent.service.app import Service

PACKAGE = b"\r\ndevID=u01\r\ntemperature=1\r\nhumidity=2\r\npressure=3\r\npm25=4\r\n\r\n"
WAIT_S = 30.0
TICK_S = 0.02


@dataclass
class Site:
    """A cable, two scripted Kintos, and a configuration for them."""

    folder: Path
    cable: Cable
    servers: dict[str, ScriptedServer]
    config: Config
    clock: FakeClock = field(default_factory=lambda: FakeClock(running=True))

    def write_config(self, *, passwords: bool = True) -> Path:
        """Writes the configuration as a file, with password files or without."""
        tables: dict[str, dict[str, object]] = {
            "station": {"devices": sorted(self.config.devices)},
            "spool": {"path": str(self.config.spool_path)},
            "[serial]": {"port": self.cable.name},
            "clock": {"synchronised": "always"},
            "status": {"listen": f"127.0.0.1:{self.config.listen[1]}"},
        }
        for sink in self.config.sinks:
            tables[sink.name] = {"url": sink.url, "user": sink.user, "read_timeout_s": 60}
        secrets = {sink.name: "x" for sink in self.config.sinks} if passwords else {}
        write_config(self.config.path, tables, secrets)
        return self.config.path

    def get(self, page: str) -> tuple[int, str]:
        """Status and body of a page of the agent."""
        host, port = self.config.listen
        try:
            with urllib.request.urlopen(f"http://{host}:{port}{page}", timeout=WAIT_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def status(self) -> Any:
        """The document of /status."""
        return json.loads(self.get("/status")[1])

    def health(self) -> tuple[int, str, list[str]]:
        """Status, word and problems of /healthz."""
        code, text = self.get("/healthz")
        body = json.loads(text)
        return code, body["health"], body["problems"]

    def metrics(self) -> dict[str, float]:
        """Samples by name and label values, as "unisat_agent_acks_total hub"."""
        return {
            " ".join((sample.name.removeprefix("unisat_agent_"), *sample.labels.values())): (
                sample.value
            )
            for family in text_string_to_metric_families(self.get("/metrics")[1])
            for sample in family.samples
        }

    def send(self, data: bytes = PACKAGE) -> None:
        """Sends from the satellite."""
        assert self.cable.write(data) == len(data)

    def delivered(self, count: int, *sides: str) -> None:
        """Waits until each of these Kintos (both) has so many records of u01."""
        wait_until(
            lambda: all(
                len(self.servers[side].records("u01")) == count
                for side in sides or tuple(self.servers)
            ),
            WAIT_S,
            lambda: f"{count} records, {[s.kinto.tree for s in self.servers.values()]}",
        )


@contextlib.contextmanager
def make_site() -> Iterator[Site]:
    """A site in a folder of its own."""
    with (
        tempfile.TemporaryDirectory() as name,
        ScriptedServer() as local,
        ScriptedServer() as hub,
        reserve_port() as holder,
    ):
        folder = Path(name)
        cable = Cable(folder / "usb-UniSat")
        config = Config(
            path=folder / "agent.toml",
            station="almaty",
            devices=frozenset({"u01"}),
            spool_path=folder / "spool.db",
            spool_max_bytes=16 * 1024 * 1024,
            history_days=7.0,
            ports=(PortSettings(port=str(cable.name)),),
            local=SinkSettings("local", local.url, "agent", "x", read_timeout_s=60.0),
            hub=SinkSettings("hub", hub.url, "almaty", "y", read_timeout_s=60.0),
            clock_synchronised="always",
            hold_s=0.0,
            listen=("127.0.0.1", holder.getsockname()[1]),
        )
        yield Site(folder, cable, {"local": local, "hub": hub}, config)
        cable.close()


@contextlib.contextmanager
def running(site: Site, kind: type[Service] = Service, exit_code: int = 0) -> Iterator[Service]:
    """The agent in threads of this process, until the block ends."""
    made = kind(site.config, site.clock, TICK_S)
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(made.run()))
    thread.start()
    try:
        wait_until(lambda: site.get("/healthz"), WAIT_S, "the agent to answer")
        yield made
    finally:
        made.stop()
        thread.join(WAIT_S)
        assert not thread.is_alive()
    assert codes == [exit_code]


class Systemd:
    """Listens where services report how they are."""

    def __init__(self, listener: socket.socket) -> None:
        self.heard: list[str] = []
        self._listener = listener
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while word := self._listener.recv(4096).decode():
            self.heard.append(word)

    def close(self) -> None:
        """Ends the listening."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self._listener.getsockname())
        self._thread.join()
