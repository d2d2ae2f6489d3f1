"""Mistakes in the inventory stop site.yml before any host is asked, each with its sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from unisat_agent_config import by_variable
from unisat_inventory import mistake, specs, unknown

from conftest import Play

# Nothing answers there, and nothing may be asked.
STATION = "{ansible_host: 127.0.0.1, ansible_port: 1, agent_hub_url: none, agent_devices: [u01kz]"
INVENTORY = f"publishers:\n  hosts:\n    pi1: {STATION}"


def test_a_right_inventory_passes_and_the_host_is_asked(play: Play) -> None:
    vaulted = "my_token: !vault |\n        $ANSIBLE_VAULT;1.1;AES256\n        00"
    code, said = play(f"{INVENTORY}}}\n  vars:\n    {vaulted}\n", "--check")
    assert code == 4
    assert "unreachable=1 failed=0" in said


def test_every_mistake_of_a_host_is_named_at_once(play: Play) -> None:
    code, said = play("""
publishers:
  hosts:
    pi1:
      agent_histroy_days: 3
      kinto_publik_read: true
      agents_device: [x]
      ansible_hots: pi
      update_gate: 3
      agent_devices: u01kz
      kinto_threads: many
      kinto_image_source: tape
      base_firewall: perhaps
""")
    assert code == 2
    for sentence in (
        "agent_histroy_days is not known: did you mean agent_history_days?",
        "kinto_publik_read is not known: did you mean kinto_public_read?",
        "agents_device is not known: did you mean agent_devices?",
        "ansible_hots is not known: did you mean ansible_host?",
        "update_gate is not known: did you mean update_gate_s?",
        "agent_devices must be a list, in square brackets, not 'u01kz'",
        "kinto_threads must be a whole number, not 'many'",
        "kinto_image_source must be one of build, pull, archive, not 'tape'",
        "base_firewall must be true or false, not 'perhaps'",
    ):
        assert sentence in said, sentence
    assert "Look at the hosts" not in said


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ("}\n    pi2: {agent_devices: [u01kz]}", "pi1 and pi2: both have u01kz in agent_devices"),
        (
            "}\n    pi2: {agent_devices: [u2], ansible_host: 127.0.0.1, ansible_port: 1}",
            "pi1 and pi2: both have 127.0.0.1 (port 1) as ansible_host",
        ),
        ("}\n    pi1: {agent_devices: [u02kz]}", "Found duplicate mapping key 'pi1'"),
        ("}\n  pi2: {agent_devices: [u02kz]}", "pi2 stands directly below publishers"),
        ("}\n      agent_devices: [u02kz]", "hosts.yml"),
    ],
)
def test_a_mistake_stops_the_run(play: Play, more: str, sentence: str) -> None:
    code, said = play(f"{INVENTORY}{more}\n")
    assert code not in {0, 4}
    assert sentence in said
    assert "Look at the hosts" not in said


def test_an_inventory_without_a_station_is_no_success(play: Play) -> None:
    code, said = play("publishers:\n  hosts: {}\n")
    assert code != 0
    assert "There is no station and no hub in" in said


def test_a_dry_run_makes_no_secret(play: Play, tmp_path: Path) -> None:
    playbook = tmp_path / "play.yml"
    playbook.write_text("""
- hosts: pi1
  gather_facts: false
  tasks:
    - ansible.builtin.debug: {msg: "{{ lookup('unisat_secret', 'a') }}"}
""")
    code, said = play(f"{INVENTORY}}}\n", "--check", playbook=str(playbook))
    assert (code, "made-by-the-first-real-run" in said) == (0, True)
    assert not (tmp_path / "secrets").exists()
    play(f"{INVENTORY}}}\n", playbook=str(playbook))
    assert (tmp_path / "secrets/pi1/a").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "secrets/.gitignore").read_text() == "*\n"


def test_what_begins_as_no_role_does_is_the_users_own() -> None:
    own = ["satellite_interval", "my_school", "__internal", "molecule_yml", "playbook_dir"]
    ansible = (
        "ssh_common_args ssh_extra_args ssh_args ssh_retries pipelining facts check_mode version"
    )
    more = "become_flags play_hosts inventory_sources ssh_executable config_file diff_mode forks"
    names = [f"ansible_{name}" for name in f"{ansible} {more}".split()]
    assert not list(unknown([*own, *names], specs()))


def test_elements_are_checked() -> None:
    spec = {"type": "list", "elements": "dict"}
    assert mistake("agent_serial", [{"port": "auto"}], spec) == ""
    assert "agent_serial, number 1, must be names with values" in mistake(
        "agent_serial", ["auto"], spec
    )


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("[[serial]] prt: unknown key, did you mean port?", "agent_serial: prt: unknown key, did"),
        ("[hub] url: must be the URL", "agent_hub_url must be the URL"),
        ("[top level] serial: port /x is given twice", "agent_serial: port /x is given twice"),
        ("[clok]: unknown table, did you mean [clock]?", "agent_options: clok: unknown table"),
        ("[hub] batch_max: must be", "agent_options: hub.batch_max: must be"),
    ],
)
def test_the_agents_sentences_name_the_variable(said: str, wanted: str) -> None:
    assert by_variable(said).startswith(wanted)
