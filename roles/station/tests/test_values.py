"""The single settings of unisat.toml: what is refused, and what becomes of those that are right."""

from __future__ import annotations

import pytest

from card import FULL, TEMPLATE, Machine, changed
from unisat_agent.config import load as agent

WIFI = TEMPLATE[TEMPLATE.index("[wifi]") :]
CASE = TEMPLATE.replace(WIFI, WIFI.replace('name = ""', 'name = "Class"', 1))


@pytest.mark.parametrize(
    ("country", "said"),
    [
        ("UK", '[wifi] country: is no country by ISO 3166: write "GB".'),
        ("qq", "[wifi] country: is no country by ISO 3166: write the two letters of your country"),
        ("GB", ""),
    ],
)
def test_a_country_is_one_of_iso_3166(machine: Machine, country: str, said: str) -> None:
    (machine.root / "usr/share/zoneinfo/iso3166.tab").write_text("# codes\nGB\tBritain (UK)\n")
    machine.card.write_text(CASE.replace('country = ""', f'country = "{country}"'))
    found = machine.boot()
    assert len(found) == bool(said)
    assert all(said in line for line in found)


@pytest.mark.parametrize("value", ["12345678", "2024-01-01", "true", "1.5"])
@pytest.mark.parametrize("key", ["password", "user", "url"])
def test_a_value_without_quotes_is_told_so_and_not_shown(
    machine: Machine, key: str, value: str
) -> None:
    machine.card.write_text(TEMPLATE.replace(f'{key} = ""', f"{key} = {value}", 1))
    (line,) = machine.boot()
    assert f"[hub] {key}: is written without quotes" in line
    assert value not in line


def test_a_hidden_network_with_a_fixed_address(machine: Machine) -> None:
    machine.card.write_text(
        CASE.replace('country = ""', 'country = "KZ"')
        .replace("hidden = false", "hidden = true")
        .replace('address = ""', 'address = "192.168.1.20/24"')
        .replace('gateway = ""', 'gateway = "192.168.1.1"')
        .replace("dns = []", 'dns = ["192.168.1.1", "fd00::1"]')
    )
    assert machine.boot() == []
    folder = machine.root / "etc/NetworkManager/system-connections"
    for name in ("unisat-wifi", "unisat-cable"):
        text = (folder / f"{name}.nmconnection").read_text()
        assert (
            "[ipv4]\nmethod=manual\naddress1=192.168.1.20/24,192.168.1.1\ndns=192.168.1.1;\n"
            in text
        )
    assert "\nhidden=true\n" in (folder / "unisat-wifi.nmconnection").read_text()
    machine.card.write_text(TEMPLATE)
    machine.boot()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("address", ["192.168.1.20", "192.168.1.300/24", "router/24"])
def test_an_address_that_is_none_is_told(machine: Machine, address: str) -> None:
    machine.card.write_text(TEMPLATE.replace('address = ""', f'address = "{address}"'))
    (line,) = machine.boot()
    assert "[network] address: write the address with the length of the network" in line


KEYFILE = "[connection]\r\nid=school\r\ntype=wifi\r\n[802-1x]\r\npassword=geheim\r\n"


def test_a_keyfile_is_taken_over_and_leaves_the_card(machine: Machine) -> None:
    machine.card.write_text(TEMPLATE)
    card = machine.card.with_name("school.nmconnection")
    card.write_text("\ufeff" + KEYFILE, newline="")
    assert machine.boot() == []
    file = machine.root / "etc/NetworkManager/system-connections/school.nmconnection"
    assert file.read_text() == KEYFILE.replace("\r\n", "\n")
    assert file.stat().st_mode & 0o777 == 0o600
    assert not card.exists()
    assert machine.boot() == []
    assert file.exists()
    card.write_text("not one")
    (line,) = machine.boot()
    assert "school.nmconnection is no keyfile of NetworkManager" in line
    assert card.exists()


def test_several_ports_with_their_own_idle_time(machine: Machine) -> None:
    ports = 'port = ["/dev/ttyUSB0", "/dev/ttyUSB1"]'
    machine.card.write_text(changed('port = "auto"', ports).replace("idle_s = 5", "idle_s = 2.5"))
    assert machine.boot() == []
    config = agent.load(machine.root / "etc/unisat-agent/agent.toml", passwords=False)
    found = [(port.port, port.baud, port.idle_s) for port in config.ports]
    assert found == [("/dev/ttyUSB0", 9600, 2.5), ("/dev/ttyUSB1", 9600, 2.5)]


def test_a_station_of_a_controller_takes_wifi_and_log_in_alone(machine: Machine) -> None:
    machine.card.write_text(FULL)
    machine.boot()
    (machine.root / "var/lib/unisat-station/owner").write_text("controller\n")
    before = {k: v for k, v in machine.state().items() if "unisat-agent" in k or "hostname" in k}
    assert machine.boot() == []
    text = machine.card.read_text().replace("school-1", "school-2").replace("KZ", "GB")
    machine.card.write_text(text.replace('name = ""', 'name = "Class"'))
    for _ in range(2):
        (line,) = machine.boot()
        assert "[station] name: this station is set up from a controller" in line
    after = {k: v for k, v in machine.state().items() if "unisat-agent" in k or "hostname" in k}
    assert after == before
    wifi = machine.root / "etc/NetworkManager/system-connections/unisat-wifi.nmconnection"
    assert wifi.exists()
    (machine.root / "var/lib/unisat-station/owner").write_text("card\n")
    assert machine.boot() == []
    assert (machine.root / "etc/hostname").read_text() == "school-2\n"
