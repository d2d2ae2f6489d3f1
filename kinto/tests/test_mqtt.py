"""`unisat-data mqtt`: the live stream for a real mosquitto, with the rights as on a hub."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from rig import reserve_port
from rig.processes import Process, program
from rig.wait import wait_until
from stream_site import Site
from test_docs_data import blocks

SETTINGS = """
listener {port} 127.0.0.1
allow_anonymous false
password_file {folder}/passwords
acl_file {folder}/rights
persistence true
persistence_location {folder}/
"""
RIGHTS = """
user bridge
topic readwrite unisat/#
topic readwrite unisat-mark/#
topic readwrite homeassistant/#
user class
topic read unisat/#
topic read homeassistant/#
"""
START_S = 30.0
HOST = "127.0.0.1"


@dataclass
class Mosquitto:
    """A broker; `bridge` publishes there and `class` reads, each with its name as the password."""

    folder: Path
    port: int
    process: Process | None = None

    def start(self) -> None:
        settings = self.folder / "mosquitto.conf"
        settings.write_text(SETTINGS.format(port=self.port, folder=self.folder))
        (self.folder / "rights").write_text(RIGHTS)
        passwords = self.folder / "passwords"
        passwords.write_text("bridge:bridge\nclass:class\n")
        subprocess.run([program("mosquitto_passwd"), "-U", str(passwords)], check=True)
        # It leaves root behind, and what it keeps is its own.
        subprocess.run(["chown", "--recursive", "mosquitto:", str(self.folder)], check=True)
        command = [program("mosquitto"), "-c", str(settings)]
        self.process = Process(command, self.folder.parent / "mosquitto.log")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        assert self.process is not None
        self.process.end(number)


@dataclass
class Subscriber:
    """What a pupil's Node-RED gets: records by device, and what was announced."""

    port: int
    records: list[dict[str, Any]] = field(default_factory=list)
    retained: dict[str, Any] = field(default_factory=dict)

    def __enter__(self) -> Self:
        self.client = paho.Client(CallbackAPIVersion.VERSION2)
        self.client.username_pw_set("class", "class")
        self.client.on_message = self._on_message
        self.client.on_connect = lambda client, *_: client.subscribe("#", 1)
        wait_until(self._connect, START_S, "the broker")
        self.client.loop_start()
        return self

    def __exit__(self, *_: object) -> None:
        gone = threading.Event()
        self.client.on_disconnect = lambda *_: gone.set()
        self.client.disconnect()
        assert gone.wait(START_S)
        self.client.loop_stop()

    def _connect(self) -> bool:
        return self.client.connect("127.0.0.1", self.port) == 0

    def _on_message(self, _: Any, __: Any, message: Any) -> None:
        if message.retain:
            self.retained[message.topic] = json.loads(message.payload)
        elif message.topic.startswith("unisat/"):
            self.records.append(json.loads(message.payload))

    @property
    def everything(self) -> list[Any]:
        return [*self.records, *self.retained.values()]

    @property
    def values(self) -> list[float]:
        return [record["temperature"] for record in self.records]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    # mosquitto's user finds its way there.
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(folder.stat().st_mode | 0o111)
    folder = tmp_path / "mosquitto"
    folder.mkdir()
    with reserve_port() as holder:
        port = holder.getsockname()[1]
    made = Mosquitto(folder, port)
    made.start()
    yield made
    made.stop()


def command(site: Site, broker: Mosquitto, user: str = "bridge") -> list[str]:
    return [
        *(sys.executable, "-m", "unisat_data", "--hub", site.hub_url, "--user", "reader"),
        *("mqtt", "--broker", f"mqtt://{user}@127.0.0.1:{broker.port}"),
    ]


def passwords(site: Site, of_broker: str = "bridge") -> dict[str, str]:
    return {"UNISAT_PASSWORD": site.reader_password, "UNISAT_BROKER_PASSWORD": of_broker}


@pytest.fixture
def bridge(site: Site, broker: Mosquitto, tmp_path: Path) -> Iterator[list[Process]]:
    """Its process; a test that ends it adds the next one."""
    log = tmp_path / "bridge.log"
    processes = [Process(command(site, broker), log, environment=passwords(site))]
    yield processes
    processes[-1].end(signal.SIGTERM)


def get_through(site: Site, subscriber: Subscriber, collection: str) -> None:
    """Returns when what is stored from now on arrives."""

    def arrives() -> bool:
        site.put(collection, -1.0)
        return bool(subscriber.records)

    wait_until(arrives, START_S, "the bridge")


def test_records_come_as_they_are_stored_and_the_newest_is_there_for_who_comes_later(
    site: Site, broker: Mosquitto, bridge: list[Process]
) -> None:
    assert bridge
    now = int(time.time())
    with Subscriber(broker.port) as subscriber:
        get_through(site, subscriber, "u02kz")
        newest = site.put("u02kz", 21.5, now)
        # As after an outage: stored later, and of before.
        late = site.put("u02kz", 19.0, now - 3600)
        wait_until(lambda: late in subscriber.records, START_S, "both")
        assert newest in subscriber.records
    with Subscriber(broker.port) as subscriber:
        wait_until(lambda: len(subscriber.retained) >= 2, START_S, "what is retained")
        announced = subscriber.retained["homeassistant/sensor/unisat_u02kz/temperature/config"]
        assert subscriber.retained["unisat/telemetry/u02kz"] == newest
    assert announced["state_topic"] == "unisat/telemetry/u02kz"
    assert announced["unit_of_measurement"] == "°C"
    assert announced["value_template"].startswith("{{ value_json['temperature']")


def test_nothing_is_missed_while_bridge_and_broker_are_away(
    site: Site, broker: Mosquitto, bridge: list[Process], tmp_path: Path
) -> None:
    with Subscriber(broker.port) as subscriber:
        get_through(site, subscriber, "u01kz")
        bridge[-1].end(signal.SIGKILL)
        missed = [site.put("u01kz", float(n), 1000 + n) for n in range(1, 6)]
        log = tmp_path / "bridge.log"
        bridge.append(Process(command(site, broker), log, environment=passwords(site)))
        wait_until(lambda: missed[-1] in subscriber.records, START_S, "what was missed")
        assert [record for record in missed if record not in subscriber.records] == []
        broker.stop()
        away = [site.put("u01kz", float(n), 1000 + n) for n in range(6, 11)]
        broker.start()
        wait_until(lambda: away[-1] in subscriber.everything, START_S, "what came meanwhile")


def test_the_commands_of_the_page_hand_on_a_record_and_print_it(
    site: Site, broker: Mosquitto, tmp_path: Path
) -> None:
    printing, handing_on = (
        block for block in blocks("sh") if "mosquitto_sub" in block or " mqtt " in block
    )
    (command,) = (line for line in handing_on.splitlines() if "unisat-data" in line)
    # The page's reader has another broker.
    command = command.replace("mqtt://user@localhost:1883", f"mqtt://bridge@{HOST}:{broker.port}")
    printing = printing.replace(
        "hub.example.org -p 8883 --capath /etc/ssl/certs", f"{HOST} -p {broker.port}"
    )
    printing = printing.replace("-P PASSWORD", "-P class").strip() + " -C 1 -W 30"
    environment = {
        **os.environ,
        **passwords(site),
        "UNISAT_HUB": site.hub_url,
        "READER": f"reader:{site.reader_password}",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    with Subscriber(broker.port) as subscriber:
        bridge = Process(
            ["sh", "-euc", f"exec {command}"], tmp_path / "log", environment=environment
        )
        try:
            get_through(site, subscriber, "u01kz")
            told = subprocess.run(
                ["sh", "-euc", printing], env=environment, capture_output=True, text=True,
                timeout=60, check=False,
            )  # fmt: skip
        finally:
            bridge.end(signal.SIGTERM)
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith("unisat/telemetry/u01kz {")


def test_who_reads_may_not_publish(site: Site, broker: Mosquitto, bridge: list[Process]) -> None:
    assert bridge
    with Subscriber(broker.port) as subscriber:
        get_through(site, subscriber, "u02kz")
        forged = subscriber.client.publish("unisat/telemetry/u02kz", '{"temperature": 99.0}', 1)
        forged.wait_for_publish(START_S)
        after = site.put("u02kz", 3.0, int(time.time()))
        wait_until(lambda: after in subscriber.records, START_S, "a true record")
        assert 99.0 not in subscriber.values


@pytest.mark.parametrize(
    ("user", "password", "sentence"),
    [("bridge", "wrong", "the broker refuses"), ("class", "class", "may not publish to")],
)
def test_a_broker_that_refuses_is_told_in_a_sentence(
    site: Site, broker: Mosquitto, user: str, password: str, sentence: str
) -> None:
    with Subscriber(broker.port):
        pass  # It answers.
    run = subprocess.run(
        command(site, broker, user), env=passwords(site, password), capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert run.returncode == 1
    assert sentence in run.stderr
    assert run.stderr.count("\n") == 1


@pytest.mark.parametrize("url", ["http://hub", "mqtt://", "mqtt://a:b@host", "mqtt://host:x"])
def test_an_address_that_is_none_is_refused(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    from unisat_data.__main__ import main  # noqa: PLC0415

    assert main(["--hub", "http://127.0.0.1:1", "mqtt", "--broker", url]) == 1
    assert "broker" in capsys.readouterr().err
