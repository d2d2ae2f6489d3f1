"""unisat.toml, from the bytes on the card to the files of the system."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from card import FULL, TEMPLATE, Machine
from unisat_agent.config import load as agent
from unisat_station.settings import decode, parse, scrubbed

NOTHING: frozenset[str] = frozenset()


class Power(BaseException):
    """The power is cut."""


@pytest.fixture
def certificate(tmp_path: Path) -> bytes:
    words = "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=hub -keyout key -out hub.pem"
    subprocess.run(words.split(), cwd=tmp_path, check=True, capture_output=True)
    return (tmp_path / "hub.pem").read_bytes()


def test_a_full_file_is_applied_and_scrubbed(machine: Machine) -> None:
    machine.card.write_text(FULL.replace("\n", "\r\n"), newline="")
    assert machine.boot() == []
    after = FULL.replace("geheim & 123", "(taken over)").replace("\n", "\r\n")
    assert machine.card.read_bytes() == after.encode()
    config = agent.load(machine.root / "etc/unisat-agent/agent.toml", passwords=False)
    assert config.station == "school-1"
    assert config.hub is not None
    assert config.hub.url == "https://hub.example.org/v1"
    assert (("chpasswd",), "pi:geheim & 123\n") in machine.commands
    credential = machine.root / "etc/unisat-agent/credentials/hub.password"
    assert credential.read_text() == "geheim & 123\n"
    before = machine.state()
    assert machine.boot() == []
    assert machine.state() == before


def test_a_mistake_keeps_that_setting_and_applies_the_others(machine: Machine) -> None:
    machine.card.write_text(FULL)
    machine.boot()
    text = machine.card.read_text()
    machine.card.write_text(text.replace("9600\n", '"fast"\n').replace("school-1", "school-2"))
    (line,) = machine.boot()
    assert "line 29: [serial] baud: write a whole number" in line
    errors = machine.root / "boot/firmware/unisat-errors.txt"
    assert errors.read_bytes() == f"{line}\r\n".encode()
    assert (machine.root / "etc/hostname").read_text() == "school-2\n"
    machine.card.write_text(text)
    assert machine.boot() == []
    assert not errors.exists()


@pytest.mark.parametrize(
    ("lost", "kept"),
    [
        ("hub_password", "etc/unisat-agent/agent.toml"),
        ("wifi_password", "etc/NetworkManager/system-connections/unisat-wifi.nmconnection"),
    ],
)
def test_a_password_that_is_lost_is_asked_for_and_the_rest_stays(
    machine: Machine, lost: str, kept: str
) -> None:
    machine.card.write_text(FULL)
    assert machine.boot() == []
    before = (machine.root / kept).read_bytes()
    (machine.root / "var/lib/unisat-station/secrets" / lost).unlink()
    (line,) = machine.boot()
    assert (
        f"[{lost.removesuffix('_password')}] password is lost: write the password there again"
        in line
    )
    assert (machine.root / kept).read_bytes() == before
    words = "new password"
    machine.card.write_text(machine.card.read_text().replace("(taken over)", words))
    assert machine.boot() == []
    assert (machine.root / "var/lib/unisat-station/secrets" / lost).read_text() == f"{words}\n"


def test_wifi_is_secured_by_the_password_given(machine: Machine) -> None:
    machine.card.write_text(FULL)
    assert machine.boot() == []
    file = machine.root / "etc/NetworkManager/system-connections/unisat-wifi.nmconnection"
    assert file.stat().st_mode & 0o777 == 0o600
    assert "ssid=115;99;104;111;111;108;45;49;\n" in file.read_text()
    assert "psk=geheim & 123\n" in file.read_text()
    radio = machine.root / "var/lib/NetworkManager/NetworkManager.state"
    assert "WirelessEnabled=true\n" in radio.read_text()


def test_a_hash_is_handed_on_as_a_hash(machine: Machine) -> None:
    crypt = "$6$salt$" + "a" * 86
    machine.card.write_text(
        TEMPLATE.replace('by password.\npassword = ""', f'by password.\npassword = "{crypt}"')
    )
    assert machine.boot() == []
    assert (("chpasswd", "--encrypted"), f"pi:{crypt}\n") in machine.commands
    assert crypt not in machine.card.read_text()


@pytest.mark.parametrize("left", [None, b"", bytes(512)])
def test_a_file_that_was_lost_comes_back_as_it_holds(machine: Machine, left: bytes | None) -> None:
    machine.card.write_text(FULL)
    assert machine.boot() == []
    before = machine.state()
    machine.card.unlink()
    if left is not None:
        machine.card.write_bytes(left)
    (line,) = machine.boot()
    assert "was missing or empty" in line
    assert tomllib.loads(machine.card.read_text()) == tomllib.loads(
        before["boot/firmware/unisat.toml"].decode()
    ) | {"hub": {"url": "https://hub.example.org/v1", "user": "", "password": "(taken over)",
                 "ca": ""},
         "wifi": {"name": "school-1", "password": "(taken over)", "country": "KZ",
                  "hidden": False}}  # fmt: skip
    machine.commands.clear()
    assert machine.boot() == []
    assert not [argv for argv, _ in machine.commands if argv[0] in {"usermod", "chpasswd"}]
    mine = ("boot/firmware/unisat.toml",)
    after = machine.state()
    assert {k: after[k] for k in after if k not in mine} == {
        k: before[k] for k in before if k not in mine
    }


def test_a_lost_file_that_cannot_be_written_is_said_to_be_so(machine: Machine) -> None:
    machine.boot()
    machine.card.unlink()
    machine.card.with_name("unisat.toml.new").mkdir()
    assert machine.boot()[-1].startswith("unisat.toml can't be written (Is a directory)")


def test_a_new_card_gets_the_template(machine: Machine) -> None:
    machine.boot()
    assert machine.card.read_text() == TEMPLATE


def test_a_line_that_is_not_there_keeps_what_it_was(machine: Machine) -> None:
    machine.card.write_text(FULL)
    machine.boot()
    kept = (machine.root / "etc/unisat-agent/agent.toml").read_text()
    machine.commands.clear()
    machine.card.write_text('[station]\ntimezone = ""\n')
    assert machine.boot() == []
    assert (machine.root / "etc/unisat-agent/agent.toml").read_text() == kept
    assert not [argv for argv, _ in machine.commands if argv[0] == "usermod"]


def test_a_certificate_that_was_taken_over_outlives_the_file(
    machine: Machine, certificate: bytes
) -> None:
    (machine.root / "boot/firmware/ours.pem").write_bytes(b"\xef\xbb\xbfours\n" + certificate)
    machine.card.write_text(FULL.replace('ca = ""', 'ca = "ours.pem"'))
    assert machine.boot() == []
    file = machine.root / "etc/unisat-agent/hub.pem"
    assert file.read_bytes() == certificate
    machine.card.unlink()
    machine.boot()
    assert machine.boot() == []
    assert "hub.pem" in (machine.root / "etc/unisat-agent/agent.toml").read_text()


def test_an_empty_certificate_is_none(machine: Machine) -> None:
    (machine.root / "boot/firmware/ours.pem").touch()
    machine.card.write_text(FULL.replace('ca = ""', 'ca = "ours.pem"'))
    (line,) = machine.boot()
    assert "[hub] ca: ours.pem is no certificate" in line


def test_slips_cost_only_their_lines(machine: Machine) -> None:
    text = FULL.replace('timezone = "Asia/Almaty"', "timezone = “Asia/Almaty”").replace(
        'language = ""', "language = en"
    )
    machine.card.write_text(text)
    lines = machine.boot()
    assert [re.sub(r".*, (line \d+: \[\w+\]).*", r"\1", line) for line in lines] == [
        "line 20: [station]", "line 22: [station]",
    ]  # fmt: skip
    assert "curly quotes" in lines[0]
    assert (machine.root / "etc/hostname").read_text() == "school-1\n"
    assert "geheim" not in machine.card.read_text()


def test_a_slip_in_the_hub_keeps_the_whole_hub(machine: Machine) -> None:
    machine.card.write_text(FULL)
    machine.boot()
    kept = (machine.root / "etc/unisat-agent/agent.toml").read_text()
    text = machine.card.read_text().replace('url = "https://hub.example.org"', "url = new.org")
    machine.card.write_text(text.replace('user = ""', 'user = "other"'))
    assert len(machine.boot()) == 1
    assert (machine.root / "etc/unisat-agent/agent.toml").read_text() == kept


def test_a_list_that_is_not_closed_is_one_slip(machine: Machine) -> None:
    machine.card.write_text(FULL.replace("devices = []", 'devices = ["u01kz"'))
    (line,) = machine.boot()
    assert "line 18: [station] is a list without its end" in line
    assert (machine.root / "etc/hostname").read_text() == "school-1\n"


def test_a_backslash_is_explained(machine: Machine) -> None:
    machine.card.write_text(TEMPLATE.replace('name = ""', 'name = "a\\d"', 1))
    (line,) = machine.boot()
    assert "single quotes" in line


@pytest.mark.parametrize(
    "content",
    [TEMPLATE.encode("utf-16"), "[station]\n# да".encode("cp1251"), "[hub\nurl = “x”\n".encode()],
)
def test_what_an_editor_spoilt_is_one_sentence(content: bytes) -> None:
    reading = parse(content, Path("/none"), Path("/"), NOTHING)
    assert len(reading.problems) == 1


@given(st.binary(max_size=300))
def test_no_bytes_raise(content: bytes) -> None:
    parse(content, Path("/none"), Path("/"), NOTHING)


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=60))
@settings(max_examples=50)
def test_scrubbing_changes_the_secret_alone(comment: str) -> None:
    content = f'# {comment}\n[hub]\npassword = "x" # {comment}\n'.encode()
    wanted = content.replace(b'password = "x"', b'password = "(taken over)"')
    assert scrubbed(content, frozenset({"hub.password"})) == wanted
    assert tomllib.loads(decode(wanted))["hub"]["password"] == "(taken over)"


def test_a_power_cut_at_any_write_is_mended_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Machine(tmp_path / "whole")
    whole.card.write_text(FULL)
    whole.boot()
    replace, cut = Path.replace, 0
    while True:
        machine = Machine(tmp_path / str(cut))
        machine.card.write_text(FULL)
        left = cut

        def until(self: Path, target: Path) -> Path:
            nonlocal left
            left -= 1
            if left < 0:
                raise Power
            return replace(self, target)

        monkeypatch.setattr(Path, "replace", until)
        try:
            machine.boot()
            break
        except Power:
            monkeypatch.setattr(Path, "replace", replace)
            assert machine.boot() == []
            state = {k: v for k, v in machine.state().items() if not k.endswith(".new")}
            assert state == whole.state()
        cut += 1
    assert cut > 8


def test_when_a_station_takes_updates(machine: Machine) -> None:
    text = TEMPLATE.replace('ring = ""', 'ring = "first"').replace('when = ""', 'when = "x"')
    machine.card.write_text(text)
    (line,) = machine.boot()
    assert '[update] when: write "manual"' in line
    kept = json.loads((machine.root / "var/lib/unisat-station/applied.json").read_text())
    assert kept["update.ring"] == "first"
    assert "update.when" not in kept
