"""`unisat-agent check`: tries everything that an operator could have got wrong.

Each finding is one line: ok, or what is wrong and the mend. Nothing is changed, but for a file
that is written beside the spool and removed again.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unisat_agent import spool_tools
from unisat_agent.clock import SystemClock
from unisat_agent.config import Config, PortSettings, SinkSettings
from unisat_agent.errors import SpoolError
from unisat_agent.kinto import KintoClient, TransportError
from unisat_agent.ports import PortError, PortMissingError, list_ports, open_port, probe
from unisat_agent.reader import AUTO
from unisat_agent.spool_repair import set_aside

FREE_MIN_BYTES = 200 * 1024 * 1024
STATUS_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried."""

    ok: bool
    subject: str
    text: str

    def __str__(self) -> str:
        return f"{'ok  ' if self.ok else 'FAIL'} {self.subject}: {self.text}"


def running_status(config: Config) -> dict[str, Any] | None:
    """/status of the running agent, or None where none answers."""
    host, port = config.listen
    # A proxy that the environment names is for the world outside.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"http://{host}:{port}/status", timeout=STATUS_TIMEOUT_S) as answer:
            found = json.load(answer)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def check(config: Config, listen_s: float) -> Iterator[Finding]:
    """Tries the ports, the clock, the disk, the spool and both Kintos.

    Args:
        config: A valid configuration.
        listen_s: How long to listen on each port for a package.
    """
    status = running_status(config)
    yield Finding(True, "configuration", f"{config.path} is valid")
    if status is None:
        yield _listen(config.listen)
        for port in config.ports:
            yield _port(port, listen_s)
    else:
        yield Finding(True, "agent", f"is running, version {status.get('version')}")
        for held in status.get("ports", []):
            reading = held.get("state") == "reading"
            yield Finding(reading, f"port {held.get('name')}", str(held.get("detail")))
    yield _clock(config)
    yield _disk(config.spool_path.parent)
    yield _spool(config)
    for sink in config.sinks:
        yield from _sink(sink, sorted(config.devices))


def _listen(address: tuple[str, int]) -> Finding:
    """Whether the agent could answer on its status address."""
    where = f"{address[0]}:{address[1]}"
    try:
        with socket.create_server(address):
            return Finding(True, "status", f"{where} is free, no agent is running")
    except OSError as error:
        return Finding(
            False,
            "status",
            f"{where} can't be used: {error.strerror}: choose another [status] listen",
        )


def _port(settings: PortSettings, listen_s: float) -> Finding:
    if settings.port == AUTO:
        return _auto(settings, listen_s)
    subject = f"port {settings.port}"
    try:
        with open_port(settings.port, settings) as port:
            heard = probe(port, listen_s)
    except PortMissingError as error:
        return Finding(False, subject, f"{error}; {_speakers(settings, listen_s)}")
    except PortError as error:
        return Finding(False, subject, str(error))
    return Finding(bool(heard.packages), subject, str(heard))


def _auto(settings: PortSettings, listen_s: float) -> Finding:
    said: list[str] = []
    for info in list_ports(settings.candidates):
        try:
            with open_port(info.device, settings) as port:
                heard = probe(port, listen_s)
        except PortError as error:
            said.append(f"{info}: {error}")
            continue
        if heard.packages:
            return Finding(True, "port auto", f"{info}: {heard}")
        said.append(f"{info}: {heard}")
    return Finding(
        False, "port auto", "; ".join(said) or "there is no serial port: plug the device in"
    )


def _speakers(settings: PortSettings, listen_s: float) -> str:
    """Which of the ports that exist speak PSoTT."""
    speaking: list[str] = []
    for info in list_ports(settings.candidates):
        try:
            with open_port(info.device, settings) as port:
                if probe(port, listen_s).packages:
                    speaking.append(str(info))
        except PortError:
            continue
    return f"PSoTT is spoken on: {', '.join(speaking) or 'none of them'}"


def _clock(config: Config) -> Finding:
    if SystemClock(config.clock_synchronised).synchronised():
        return Finding(True, "clock", "is synchronised")
    return Finding(
        False,
        "clock",
        "is not synchronised: connect the network or a time server (chronyc sources); packages "
        "are stored all the same and their times corrected later",
    )


def _disk(folder: Path) -> Finding:
    try:
        free = shutil.disk_usage(folder).free
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return Finding(
            False,
            "disk",
            f"{folder} can't be written: {error.strerror}: "
            f"create it, or run this as the agent's user (sudo -u unisat)",
        )
    text = f"{folder} has {free // 2**20} MB free"
    if free < FREE_MIN_BYTES:
        return Finding(False, "disk", f"{text}: free at least {FREE_MIN_BYTES // 2**20} MB")
    return Finding(True, "disk", text)


def _spool(config: Config) -> Finding:
    path = config.spool_path
    if not path.exists():
        return Finding(True, "spool", f"{path} will be made at the first start")
    try:
        wrong = spool_tools.check(path)
        counts = spool_tools.count(path)
    except SpoolError as error:
        return Finding(False, "spool", str(error))
    if wrong:
        return Finding(
            False,
            "spool",
            f"{path} is damaged ({wrong[0]}): restart the agent, it sets it aside by itself",
        )
    aside = set_aside(path)
    if aside:
        return Finding(False, "spool", f"a damaged one was set aside as {aside[-1]}")
    return Finding(True, "spool", ", ".join(f"{number} {name}" for name, number in counts.items()))


def _sink(sink: SinkSettings, devices: list[str]) -> Iterator[Finding]:
    with KintoClient(sink) as client:
        try:
            yield from _kinto(client, devices)
        except TransportError as error:
            yield Finding(False, sink.name, str(error))


def _kinto(client: KintoClient, devices: list[str]) -> Iterator[Finding]:
    sink = client.settings
    root = client.request("GET", "/")
    if root.status not in {200, 401} or not isinstance(root.body, dict):
        yield Finding(False, sink.name, f"{sink.url}: is no Kinto ({root.words()})")
        return
    user = root.body.get("user")
    if root.status == 200 and "settings" not in root.body:
        yield Finding(False, sink.name, f"{sink.url}: is no Kinto (it tells no settings)")
        return
    if not isinstance(user, dict):
        yield Finding(
            False,
            sink.name,
            f"{sink.url} refuses the account {sink.user}: correct the user, or the password",
        )
        return
    yield Finding(True, sink.name, f"{sink.url} accepts {user.get('id')}")
    if not client.alive():
        yield Finding(
            False, sink.name, f"{sink.url}/__heartbeat__: a database of it does not answer"
        )
    for dev_id in devices:
        yield _collection(client, dev_id)
    if sink.name == "hub" and sink.url.startswith("http://") and not _is_loopback(sink.url):
        yield Finding(
            True, sink.name, "the password goes over the network unencrypted: prefer https://"
        )


def _collection(client: KintoClient, dev_id: str) -> Finding:
    sink = client.settings
    subject = f"{sink.name} {dev_id}"
    answer = client.request("GET", f"/buckets/{sink.bucket}/collections/{dev_id}")
    if answer.status == 200:
        return Finding(True, subject, "is there")
    if answer.status in {403, 404} and sink.name == "local":
        # The agent makes it.
        return Finding(True, subject, "will be made with the first record")
    return Finding(
        False,
        subject,
        f"the account {sink.user} has no access to {sink.bucket}/{dev_id} ({answer.words()}): "
        f"the operator of the server must grant it",
    )


def _is_loopback(url: str) -> bool:
    return any(url.startswith(f"http://{host}") for host in ("127.", "localhost", "[::1]"))
