"""Who is right about a secret: the host, the controller, or nobody yet."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import station_facts
import station_secrets
import yaml
from unisat_card import variables

from conftest import PROJECT


def plugin() -> ModuleType:
    """The action plugin, which has the name of its module."""
    file = PROJECT / "playbooks/action_plugins/station_secrets.py"
    spec = importlib.util.spec_from_file_location("station_secrets_action", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


NAME = "kinto_admin_password"
HUB = "agent_hub_password"


@pytest.mark.parametrize(
    ("name", "found", "copy", "of_card", "wanted"),
    [
        (NAME, "host's", "copy", False, "host's"),
        (NAME, "", "copy", False, "copy"),
        (NAME, "host's", "", False, "host's"),
        (HUB, "host's", "keeper's", False, "keeper's"),
        (HUB, "card's", "old", True, "card's"),
        (HUB, "", "keeper's", True, "keeper's"),
    ],
)
def test_who_is_right(name: str, found: str, copy: str, of_card: bool, wanted: str) -> None:
    decide = plugin().decide
    assert decide([name], {name: found}, {name: copy}, of_card=of_card) == {name: wanted}


def test_what_nobody_has_is_made_once_for_each() -> None:
    made = plugin().decide([NAME, HUB], {}, {}, of_card=False)
    assert len(set(made.values())) == 2
    assert all(len(secret) == 32 and secret.isalnum() for secret in made.values())


def test_secrets_are_found_where_earlier_versions_left_them(tmp_path: Path) -> None:
    (tmp_path / "etc/unisat-kinto").mkdir(parents=True)
    (tmp_path / "etc/unisat-kinto/secrets.env").write_text(
        "KINTO_STORAGE_URL=postgresql+psycopg2://kinto:a%2Fb@/kinto?host=/run/postgresql\n"
        "KINTO_PERMISSION_URL=x\nKINTO_USERID_HMAC_SECRET=c%2Fd\n"
    )
    (tmp_path / "etc/unisat-agent/credentials").mkdir(parents=True)
    (tmp_path / "etc/unisat-agent/credentials/local.password").write_text("local\n")
    names = [*station_secrets.IN_USE, NAME]
    assert station_secrets.find(tmp_path, names) == {
        "kinto_database_password": "a/b",
        "kinto_hmac_secret": "c%2Fd",
        "kinto_agent_password": "local",
    }


def test_the_hosts_own_copy_goes_first_and_the_cards_hub_password_before_all(
    tmp_path: Path,
) -> None:
    folder = tmp_path / station_secrets.FOLDER
    folder.mkdir(parents=True)
    for name in ("kinto_agent_password", HUB, "hub_password"):
        (folder / name).write_text(f"{name} of the host\n")
    (tmp_path / station_secrets.CREDENTIALS).mkdir(parents=True)
    for name in ("local", "hub"):
        (tmp_path / station_secrets.CREDENTIALS / f"{name}.password").write_text("in use\n")
    found = station_secrets.find(tmp_path, ["kinto_agent_password", HUB])
    assert found == {
        "kinto_agent_password": "kinto_agent_password of the host",
        HUB: "hub_password of the host",
    }


@pytest.mark.parametrize(
    ("owner", "program", "wanted"),
    [("", True, "card"), ("", False, "controller"), ("controller\n", True, "controller")],
)
def test_who_owns_a_station(tmp_path: Path, owner: str, program: bool, wanted: str) -> None:
    (tmp_path / "var/lib/unisat-station").mkdir(parents=True)
    if owner:
        (tmp_path / "var/lib/unisat-station/owner").write_text(owner)
    if program:
        (tmp_path / "usr/local/sbin").mkdir(parents=True)
        (tmp_path / "usr/local/sbin/unisat-station").touch()
    assert station_facts.station(tmp_path)["owner"] == wanted


def test_a_card_may_name_several_ports_and_a_hub_without_encryption() -> None:
    found = variables({"serial.port": ["/dev/a", "/dev/b"], "hub.url": "http://192.168.1.2/v1"})
    assert found["agent_serial"] == [{"port": "/dev/a"}, {"port": "/dev/b"}]
    # Without it role agent refuses the address, and the station could not be updated.
    assert found["agent_hub_plain_http"] is True


def test_a_cards_settings_become_variables_that_the_roles_know() -> None:
    found = variables(
        {
            "station.name": "school-7",
            "station.devices": [],
            "serial.port": "auto",
            "serial.baud": 9600,
            "hub.url": "https://hub.example.org/v1",
            "hub.password": "(taken over)",
            "hub.ca": "PEM",
            "wifi.name": "Class",
        }
    )
    assert found == {
        "base_hostname": "school-7",
        "agent_station_name": "school-7",
        "agent_hub_url": "https://hub.example.org/v1",
        "agent_serial": [{"port": "auto", "baud": 9600}],
        "agent_options": {"hub": {"ca_file": "/etc/unisat-agent/hub.pem"}},
    }
    options: set[str] = set()
    for role in ("agent", "base"):
        spec = yaml.safe_load((PROJECT / f"roles/{role}/meta/argument_specs.yml").read_text())
        options |= set(spec["argument_specs"]["main"]["options"])
    assert set(found) <= options
