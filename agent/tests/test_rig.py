"""The parts that the tests break: the cable, the valve, the Kinto runner, and the judge."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kinto_http
import pytest
import requests

from rig import reserve_port
from rig.cable import Cable
from rig.judge import Verdict, judge, read_journal, read_records
from rig.kinto import Kinto, KintoError
from rig.replies import RESET
from rig.scripted import ScriptedServer
from rig.valve import Mode, Valve
from unisat_agent.simulator.line import LineError
from unisat_agent.simulator.satellite import Entry

# --- the cable ----------------------------------------------------------------------------------


@pytest.fixture
def cable(tmp_path: Path) -> Iterator[Cable]:
    cable = Cable(tmp_path / "usb-UniSat")
    yield cable
    cable.close()


def opened(cable: Cable) -> int:
    return os.open(cable.name, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)


def test_bytes_go_through_the_cable_as_they_are(cable: Cable) -> None:
    everything = bytes(range(256)) + b"\r\n\n\x03\x04\x11\x13"
    descriptor = opened(cable)
    assert cable.write(everything) == len(everything)
    assert not cable.drained()
    assert os.read(descriptor, 1000) == everything
    assert cable.drained()
    os.close(descriptor)


def test_bytes_wait_for_a_reader_that_opens_later(cable: Cable) -> None:
    cable.write(b"devID=u01kz\r\n")
    first = opened(cable)
    os.close(first)
    second = opened(cable)
    assert os.read(second, 100) == b"devID=u01kz\r\n"
    os.close(second)


def test_a_full_line_does_not_block_and_tells_what_it_took(cable: Cable) -> None:
    begun = time.monotonic()
    taken = cable.write(b"x" * 1_000_000, timeout_s=0.2)
    assert time.monotonic() - begun < 5
    assert 4096 <= taken < 1_000_000
    descriptor = opened(cable)
    read = 0
    while not cable.drained():
        read += len(os.read(descriptor, 65536))
    assert read == taken
    os.close(descriptor)


def test_a_pulled_cable_loses_what_nobody_read(cable: Cable) -> None:
    descriptor = opened(cable)
    cable.write(b"half a li")
    assert not cable.drained(0.05)
    cable.unplug()
    assert cable.drained()
    assert not cable.plugged
    assert not os.path.lexists(cable.name)
    assert cable.write(b"ne\r\n") == 0
    assert os.read(descriptor, 100) == b""
    os.close(descriptor)
    cable.unplug()


def test_a_cable_comes_back_under_another_number(cable: Cable) -> None:
    before = cable.device
    cable.unplug()
    cable.plug(elsewhere=True)
    assert cable.device != before
    assert str(Path(cable.name).readlink()) == cable.device
    descriptor = opened(cable)
    cable.write(b"again")
    assert os.read(descriptor, 100) == b"again"
    os.close(descriptor)


def test_a_cable_does_not_overwrite_a_file(tmp_path: Path) -> None:
    precious = tmp_path / "usb"
    precious.write_text("precious")
    with pytest.raises(LineError, match="is not a symlink"):
        Cable(precious)
    assert precious.read_text() == "precious"


# --- Kinto, behind the valve --------------------------------------------------------------------


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kinto]:
    with Kinto(tmp_path_factory.mktemp("kinto"), "hub") as kinto:
        kinto.provision_hub("station", "secret", ["sim01", "sim02"])
        kinto.provision_reader("reader", "open")
        yield kinto


@pytest.fixture
def valve(hub: Kinto) -> Iterator[Valve]:
    with Valve("127.0.0.1", hub.port) as valve:
        yield valve


def heartbeat(valve: Valve, session: requests.Session | None = None) -> requests.Response:
    get = requests.get if session is None else session.get
    return get(f"http://127.0.0.1:{valve.port}/v1/__heartbeat__", timeout=1)


def test_an_open_valve_forwards(valve: Valve) -> None:
    assert heartbeat(valve).json()["storage"] is True


def test_a_cut_valve_refuses_and_resets(valve: Valve) -> None:
    idle = socket.create_connection(("127.0.0.1", valve.port))
    with requests.Session() as session:
        heartbeat(valve, session)
        valve.set(Mode.CUT)
        with pytest.raises(ConnectionResetError):
            idle.recv(1)
        idle.close()
        with pytest.raises(requests.ConnectionError, match="refused"):
            heartbeat(valve, session)
        valve.set(Mode.OPEN)
        assert heartbeat(valve, session).ok


def test_a_black_hole_takes_connections_and_never_answers(valve: Valve) -> None:
    with requests.Session() as session:
        heartbeat(valve, session)
        valve.set(Mode.BLACK_HOLE)
        with pytest.raises(requests.ReadTimeout):
            heartbeat(valve, session)
        with pytest.raises(requests.ReadTimeout):
            heartbeat(valve)
        valve.set(Mode.OPEN)
        assert heartbeat(valve, session).ok


def test_an_open_valve_hands_a_reset_on() -> None:
    """As of a server that was killed; it looked like 30 s of silence."""
    with ScriptedServer() as server, Valve("127.0.0.1", server.port) as valve:
        server.then(RESET)
        with socket.create_connection(("127.0.0.1", valve.port), timeout=30) as client:
            client.sendall(b"GET /v1/ HTTP/1.1\r\nHost: x\r\n\r\n")
            with pytest.raises(ConnectionResetError):
                client.recv(1)


def test_a_captive_portal_answers_every_request_with_its_page(valve: Valve) -> None:
    valve.set(Mode.HTML)
    big = requests.post(f"http://127.0.0.1:{valve.port}/v1/batch", b"x" * 3_000_000, timeout=5)
    assert (big.status_code, big.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert heartbeat(valve).text.startswith("<!DOCTYPE html>")


def test_a_valve_whose_target_is_down_closes_the_connection() -> None:
    with reserve_port() as nobody, Valve("127.0.0.1", nobody.getsockname()[1]) as valve:
        with pytest.raises(requests.ConnectionError):
            heartbeat(valve)
        assert valve.accepted == 1


def test_a_publisher_writes_its_own_collections_and_a_reader_reads(hub: Kinto) -> None:
    station = hub.client("station", "secret")
    station.create_record(data={"packet": 1}, collection="sim02")
    with pytest.raises(kinto_http.KintoException, match="403"):
        station.create_collection(id="other")
    reader = hub.client("reader", "open")
    assert [record["packet"] for record in read_records(reader, ["sim02", "none"])] == [1]
    with pytest.raises(kinto_http.KintoException, match="403"):
        reader.create_record(data={"packet": 2}, collection="sim02")


@pytest.mark.parametrize("user", [("stranger", "x"), None])
def test_nobody_else_makes_accounts(hub: Kinto, user: tuple[str, str] | None) -> None:
    answer = requests.put(
        f"{hub.url}/accounts/stranger", json={"data": {"password": "x"}}, auth=user, timeout=5
    )
    assert answer.status_code in {401, 403}


def test_a_local_kinto_lets_the_agent_make_its_collections(tmp_path: Path) -> None:
    with Kinto(tmp_path, "local") as local:
        local.provision_local("secret")
        agent = local.client("agent", "secret")
        agent.create_collection(id="sim01")
        agent.create_record(data={"packet": 1}, collection="sim01")
        port, first = local.port, local.pid
        local.kill()
        assert (local.pid, local.healthy()) == (None, False)
        local.restart()
        assert local.port == port
        assert local.pid not in {None, first}
        assert local.healthy()


def test_a_kinto_that_can_not_start_shows_its_log(tmp_path: Path) -> None:
    wrong = {"kinto.storage_backend": "kinto.core.storage.papyrus"}
    kinto = Kinto(tmp_path, "broken", settings=wrong)
    with pytest.raises(KintoError, match=r"(?s)'broken' ended while it started.*papyrus"):
        kinto.start()
    kinto.close()


def test_a_taken_port_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(OSError, match="in use"):
        reserve_port(server.getsockname()[1])


# --- the judge ----------------------------------------------------------------------------------

FIELDS: dict[str, bool | int | float] = {"packet": 1, "humidity": 20.0, "battery": True}


def sent(packet: int, expected: bool | None = True) -> Entry:
    return Entry(
        "sim01", packet, expected, FIELDS | {"packet": packet}, {"meteo": ("humidity",)}, ("pm25",)
    )


def stored(packet: int, **other: Any) -> dict[str, Any]:
    return {
        "id": f"0000-{packet}",
        "devID": "sim01",
        "timestamp": 1660918192,
        "groups": {"meteo": ["humidity"]},
        "missing": ["pm25"],
        **FIELDS,
        "packet": packet,
        **other,
    }


JOURNAL = {("sim01", packet): sent(packet) for packet in (1, 2, 3)}
ALL = [stored(1), stored(2), stored(3)]


def test_the_judge_through_a_real_kinto(hub: Kinto, tmp_path: Path) -> None:
    station = hub.client("station", "secret")
    for record in [*ALL, stored(2, id="again"), stored(4, id="0000-4", humidity=20)]:
        station.create_record(data=record, collection="sim01")
    path = tmp_path / "journal"
    lines = [entry.to_json() for entry in (*JOURNAL.values(), sent(4), sent(5))]
    path.write_text("\n".join(lines) + '\n{"devID": "sim01", "pac')
    verdict = judge(read_journal(path), read_records(hub.client("reader", "open"), ["sim01"]), [])
    assert str(verdict) == "sent=5 local=4 hub=0 duplicates=1 lost=5"
    assert verdict.mismatches == ("local: sim01 4: humidity is 20, sent was 20.0",)


def test_a_good_verdict() -> None:
    verdict = judge(JOURNAL, ALL, ALL)
    assert str(verdict) == "sent=3 local=3 hub=3 duplicates=0 lost=0"
    assert verdict.good
    assert not verdict.reason()


@pytest.mark.parametrize(
    ("local", "hub", "reason"),
    [
        (ALL, ALL[:2], "lost sim01 3"),
        (ALL[1:], ALL[:2], "lost sim01 1, sim01 3"),
        (ALL, [*ALL, stored(1, id="other")], "1 stored more than once"),
        (ALL, [*ALL[:2], stored(3, id="0000-1")], "1 stored more than once"),
        ([*ALL[:2], stored(3, timestamp=1.5)], ALL, "timestamp is 1.5, not an integer"),
        ([*ALL[:2], stored(3, battery=1)], ALL, "battery is 1, sent was True"),
        ([*ALL[:2], stored(3, humidity=20.1)], ALL, "humidity is 20.1, sent was 20.0"),
        ([*ALL[:2], stored(3, pm10=1.0)], ALL, "pm10 was never sent"),
        ([*ALL[:2], stored(3, missing=[])], ALL, "missing is [], not ['pm25']"),
        ([*ALL[:2], stored(3, groups={})], ALL, "groups are {}"),
        (ALL, [*ALL, stored(9)], "record 0000-9 was never sent"),
        (ALL, [*ALL, stored(1) | {"packet": "1"}], "was never sent"),
        (ALL, [*ALL[:2], stored(3, id="x")], "has the id 0000-3 locally, x on the hub"),
    ],
)
def test_the_judge_says_what_is_wrong(
    local: list[dict[str, Any]], hub: list[dict[str, Any]], reason: str
) -> None:
    verdict = judge(JOURNAL, local, hub)
    assert not verdict.good
    assert reason in verdict.reason()


def test_a_spoiled_package_must_not_be_stored_and_an_unknown_one_may() -> None:
    journal = JOURNAL | {("sim01", 4): sent(4, None), ("sim01", 5): sent(5, expected=False)}
    assert judge(journal, ALL, ALL).good
    assert judge(journal, [*ALL, stored(4)], [*ALL, stored(4)]).good
    assert "sim01 4 is only on the hub" in judge(journal, ALL, [*ALL, stored(4)]).reason()
    assert "5 was spoiled" in judge(journal, [*ALL, stored(5)], ALL).reason()


def test_a_later_entry_overrides_an_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_text(f"{sent(1).to_json()}\n{sent(1, None).to_json()}\n")
    assert read_journal(path)["sim01", 1].expected is None


def test_a_long_reason_is_cut_short() -> None:
    lost = tuple(("sim01", packet) for packet in range(10))
    verdict = Verdict(sent=10, local=0, hub=0, duplicates=0, lost=lost, mismatches=())
    assert verdict.reason() == "lost sim01 0, sim01 1, sim01 2 and 7 more"
