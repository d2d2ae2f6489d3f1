"""The live stream for MQTT: Node-RED, Home Assistant and whatever else subscribes to a broker.

Each record goes to `unisat/BUCKET/DEVICE` as JSON; the newest one of a device is retained. How far
the stream has come is retained as well, so a restart of either side misses nothing: the last
records before it may come twice.
"""

from __future__ import annotations

import contextlib
import json
import re
import ssl
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from unisat_data.hub import WAIT_FIRST_S, WAIT_MAX_S, Hub, HubError, Record

try:
    from paho.mqtt import client as paho
except ImportError:  # needed for this command only
    paho = None  # type: ignore[assignment]

DISCOVERY = "homeassistant"
ANSWER_S = 10.0
KEEP_ALIVE_S = 30
PORTS = {"mqtt": 1883, "mqtts": 8883}

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
# Home Assistant's class and unit of what PSoTT names: docs/psott.md.
_MEASUREMENTS = {
    "temperature": ("temperature", "°C"),
    "humidity": ("humidity", "%"),
    "pressure": ("atmospheric_pressure", "hPa"),
    "pm25": ("pm25", "µg/m³"),
    "pm10": ("pm10", "µg/m³"),
    "alt": ("distance", "m"),
}
# What a record says of itself, and not of the device's surroundings.
_OF_THE_RECORD = frozenset({"timestamp", "seq", "uptime", "last_modified"})


class BrokerError(Exception):
    """The broker does not answer, or does not take what it is given."""


@dataclass(frozen=True, slots=True)
class Broker:
    """Which broker, and who publishes there.

    Args:
        host: Its name or address.
        port: 1883, or 8883 with TLS, unless it says otherwise.
        tls: Whether the connection is encrypted.
        user: The account; empty for none.
        password: Its password.
        ca_file: The certificate of the broker's own authority, where it has one.
    """

    host: str
    port: int
    tls: bool = False
    user: str = ""
    password: str = field(default="", repr=False)
    ca_file: Path | None = None


def broker(url: str, password: str, ca_file: Path | None) -> Broker:
    """Reads `mqtt://user@host:port`, or `mqtts://…` with TLS.

    Raises:
        HubError: It is none.
    """
    try:
        parts = urlsplit(url if "//" in url else f"mqtt://{url}")
        if parts.scheme not in PORTS or not parts.hostname or parts.path.strip("/"):
            raise ValueError
        port = parts.port or PORTS[parts.scheme]
    except ValueError:
        raise HubError(
            f"{url} is no broker: write mqtt://user@host:1883, or mqtts:// with TLS"
        ) from None
    if parts.password:
        raise HubError("the broker's password must not stand in its address: see --help")
    user = unquote(parts.username or "")
    return Broker(parts.hostname, port, parts.scheme == "mqtts", user, password, ca_file)


def publish(hub: Hub, to: Broker, devices: list[str], discovery: str = DISCOVERY) -> None:
    """Hands on records as they come, for ever; a broker that is away is tried again.

    Args:
        hub: Whose records.
        to: Where they go.
        devices: Which devIDs; all where there are none.
        discovery: Home Assistant's prefix; empty where nothing is announced to it.

    Raises:
        HubError: The account may not read, the broker refuses the account, or paho is missing.
    """
    if paho is None:
        raise HubError("MQTT needs paho: pip install paho-mqtt, or Debian's python3-paho-mqtt")
    wait_s = WAIT_FIRST_S
    while True:
        try:
            with Session(to, hub.bucket, discovery) as session:
                wait_s = WAIT_FIRST_S
                for identity, event, record in hub.follow(devices, session.mark):
                    session.hand_on(identity, record if event == "record" else None)
        except (BrokerError, OSError):
            hub.pause(wait_s)
            wait_s = min(wait_s * 2, WAIT_MAX_S)


class Session:
    """One connection to a broker; it begins with what is retained there.

    Attributes:
        mark: The id of the last event that the broker has; empty for none.
    """

    def __init__(self, to: Broker, bucket: str, discovery: str) -> None:
        self.mark = ""
        self._to = to
        self._root = f"unisat/{bucket}"
        self._mark_topic = f"unisat-mark/{bucket}"
        self._discovery = discovery
        self._newest: dict[str, float] = {}
        self._announced: set[tuple[str, str]] = set()
        self._refused = ""
        self._connected = threading.Event()
        self._caught_up = threading.Event()
        self._gone = threading.Event()
        self._client = _client()

    def __enter__(self) -> Self:
        client = self._client
        client.on_connect = self._on_connect
        client.on_disconnect = lambda *_: self._gone.set()
        client.on_message = self._on_message
        if self._to.user:
            client.username_pw_set(self._to.user, self._to.password)
        if self._to.tls:
            cafile = str(self._to.ca_file) if self._to.ca_file else None
            client.tls_set_context(ssl.create_default_context(cafile=cafile))
        client.connect(self._to.host, self._to.port, KEEP_ALIVE_S)
        client.loop_start()
        try:
            self._catch_up()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._close()

    def hand_on(self, identity: str, record: Record | None) -> None:
        """Publishes a record, and that the stream has come so far.

        Raises:
            BrokerError: The broker did not acknowledge it.
        """
        if record is not None:
            self._publish(record)
        if identity and identity != self.mark:
            self._send(self._mark_topic, identity, retain=True)
            self.mark = identity

    def _publish(self, record: Record) -> None:
        device = record.get("devID")
        if not isinstance(device, str) or _NAME.fullmatch(device) is None:
            return
        self._announce(device, record)
        # What was stored during an outage comes late, and is not how the device is now.
        time = _time(record)
        newest = time >= self._newest.get(device, 0.0)
        if newest:
            self._newest[device] = time
        self._send(f"{self._root}/{device}", json.dumps(record), retain=newest)

    def _catch_up(self) -> None:
        if not self._connected.wait(ANSWER_S):
            raise BrokerError("no answer")
        if self._refused:
            raise HubError(f"the broker refuses the connection: {self._refused}")
        hello = f"{self._mark_topic}/hello"
        self._client.subscribe([(f"{self._root}/+", 1), (self._mark_topic, 1), (hello, 1)])
        # It comes back behind what is retained.
        self._send(hello, "", retain=False)
        if not self._caught_up.wait(ANSWER_S):
            raise HubError(f"the broker's account may not publish to {self._mark_topic}/#")
        self._client.unsubscribe([f"{self._root}/+", self._mark_topic, hello])

    def _on_connect(self, _: Any, __: Any, ___: Any, code: Any, *____: Any) -> None:
        self._refused = "" if code == 0 else paho.connack_string(code)
        self._connected.set()

    def _on_message(self, _: Any, __: Any, message: Any) -> None:
        if message.topic == self._mark_topic:
            self.mark = self.mark or message.payload.decode("ascii", "ignore")
        elif message.topic.startswith(f"{self._root}/"):
            device = message.topic.rpartition("/")[2]
            with contextlib.suppress(ValueError):
                self._newest[device] = _time(json.loads(message.payload))
        else:
            self._caught_up.set()

    def _announce(self, device: str, record: Record) -> None:
        """Tells Home Assistant of measurements that it does not know yet."""
        if not self._discovery:
            return
        for name, value in _measurements(record):
            if (device, name) in self._announced:
                continue
            self._announced.add((device, name))
            kind, about = _entity(f"{self._root}/{device}", device, name, value)
            topic = f"{self._discovery}/{kind}/unisat_{device}/{name}/config"
            self._send(topic, json.dumps(about), retain=True)

    def _send(self, topic: str, payload: str, *, retain: bool) -> None:
        sent = self._client.publish(topic, payload, qos=1, retain=retain)
        try:
            sent.wait_for_publish(ANSWER_S)
            done = sent.is_published()
        except (RuntimeError, ValueError) as error:
            raise BrokerError(str(error)) from error
        if not done:
            raise BrokerError("no answer")

    def _close(self) -> None:
        # Its thread closes the connection when it has said good-bye.
        self._client.disconnect()
        self._gone.wait(ANSWER_S)
        self._client.loop_stop()


def _client() -> Any:
    # Debian bookworm's paho is 1.6, trixie's 2.1.
    version = getattr(paho, "CallbackAPIVersion", None)
    return paho.Client(version.VERSION2) if version else paho.Client()


def _time(record: Any) -> float:
    """The `timestamp` of a record, seconds UTC; 0 where it has none."""
    time = record.get("timestamp") if isinstance(record, dict) else None
    return float(time) if isinstance(time, int | float) else 0.0


def _measurements(record: Record) -> Iterable[tuple[str, bool | float]]:
    for name, value in record.items():
        if name not in _OF_THE_RECORD and _NAME.fullmatch(name) and isinstance(value, int | float):
            yield name, value


def _entity(topic: str, device: str, name: str, value: bool | float) -> tuple[str, dict[str, Any]]:
    """Home Assistant's kind of a measurement, and its configuration by MQTT discovery."""
    about: dict[str, Any] = {
        "name": name,
        "unique_id": f"unisat_{device}_{name}",
        "state_topic": topic,
        "device": {"identifiers": [f"unisat_{device}"], "name": device, "model": "UniSat"},
    }
    if isinstance(value, bool):
        template = f"{{{{ 'ON' if value_json['{name}'] else 'OFF' }}}}"
        return "binary_sensor", about | {"value_template": template}
    # A record may lack a measurement that others have.
    template = f"{{{{ value_json['{name}'] | default(this.state) }}}}"
    about |= {"value_template": template, "state_class": "measurement"}
    if name in _MEASUREMENTS:
        kind, unit = _MEASUREMENTS[name]
        about |= {"device_class": kind, "unit_of_measurement": unit}
    return "sensor", about
