"""The records over MQTT, encrypted, as a class subscribes to them."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from conftest import HUB, Account, address, put, trust
from outside import inside, wait_until

PORT = 8883
START_S = 60


def client(password: str) -> Client:
    """As `class`; the hub is reached by its address, and its certificate names it by name."""
    made = Client(CallbackAPIVersion.VERSION2)
    context = trust()
    context.check_hostname = False
    made.tls_set_context(context)
    made.username_pw_set("class", password)
    return made


def test_a_record_comes_as_it_is_stored(accounts: dict[str, Account]) -> None:
    got: list[dict[str, Any]] = []

    def numbers() -> list[int]:
        return [record["seq"] for record in got]

    subscriber = client("one for the class")
    subscriber.on_connect = lambda connected, *_: connected.subscribe("unisat/telemetry/u01kz", 1)
    subscriber.on_message = lambda _, __, message: got.append(json.loads(message.payload))
    subscriber.connect(address(), PORT)
    subscriber.loop_start()
    try:
        assert put(accounts["almaty"], "u01kz", 800, temperature=21.0).status in {201, 412}
        wait_until(lambda: 800 in numbers(), "the record")
        # Whoever reads may not make anything up.
        subscriber.publish("unisat/telemetry/u01kz", '{"seq": 801}', 1).wait_for_publish(START_S)
        inside(HUB, "systemctl", "restart", "mosquitto")
        assert put(accounts["almaty"], "u01kz", 802, temperature=21.0).status in {201, 412}
        wait_until(lambda: 802 in numbers(), "the next one")
    finally:
        subscriber.disconnect()
        subscriber.loop_stop()
    assert 801 not in numbers()


@pytest.mark.parametrize("password", ["a guess", ""])
def test_a_wrong_password_is_refused(password: str) -> None:
    codes: list[int] = []
    told = threading.Event()

    def answered(_: Any, __: Any, ___: Any, code: Any, *____: Any) -> None:
        codes.append(code.value)
        told.set()

    subscriber = client(password)
    subscriber.on_connect = answered
    subscriber.connect(address(), PORT)
    subscriber.loop_start()
    assert told.wait(START_S)
    subscriber.disconnect()
    subscriber.loop_stop()
    assert codes[0] >= 128


def test_no_secret_is_in_a_process_list() -> None:
    assert "one for the class" not in inside(HUB, "ps", "-eww", "-o", "args")
