"""What Raspberry Pi Imager set, beside unisat.toml."""

from __future__ import annotations

from pathlib import Path

import pytest

from unisat_station import imager
from unisat_station.machine import StationError

SAID = """#cloud-config
hostname: school
user:
  name: pi
  lock_passwd: false
  passwd: "$6$imager"
"""


@pytest.fixture(autouse=True)
def boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A boot partition as it is flashed, and a `pi` whose password unisat.toml set."""
    for name, path in (("BOOT", "boot"), ("SHADOW", "shadow"), ("WANTED", "wanted")):
        monkeypatch.setattr(imager, name, tmp_path / path)
    (tmp_path / "boot").mkdir()
    for name in imager.FILES:
        (tmp_path / "boot" / name).write_text(imager.STOCK)
    (tmp_path / "shadow").write_text("root:*:1::::::\npi:$y$ours:1::::::\n")
    return tmp_path / "boot"


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the commands were given."""
    inputs: list[str] = []

    def run(*_: str, given: str = "") -> str:
        inputs.append(given)
        return ""

    monkeypatch.setattr(imager, "run", run)
    return inputs


def test_cloud_init_stays_off_where_imager_set_nothing() -> None:
    imager.prepare(keep_password=True)
    assert not imager.WANTED.exists()


@pytest.mark.usefixtures("ran")
def test_cloud_init_runs_once_for_what_imager_set(boot: Path) -> None:
    (boot / "user-data").write_text(SAID)
    imager.prepare(keep_password=False)
    assert imager.WANTED.exists()
    imager.finish()
    imager.prepare(keep_password=False)
    assert not imager.WANTED.exists()
    (boot / "network-config").write_text("network:\n  version: 2\n")
    imager.prepare(keep_password=False)
    assert imager.WANTED.exists()


@pytest.mark.usefixtures("ran")
def test_what_was_applied_is_taken_off_the_card(boot: Path) -> None:
    for name in imager.FILES:
        (boot / name).write_text(SAID)
    imager.prepare(keep_password=False)
    held = (boot / "user-data").open("rb")
    imager.finish()
    with held:
        assert b"$6$" not in held.read(), "the blocks still say it"
    assert [(boot / name).read_text() for name in imager.FILES] == [imager.STOCK] * 2


def test_the_password_of_unisat_toml_is_put_back(boot: Path, ran: list[str]) -> None:
    (boot / "user-data").write_text(SAID)
    imager.prepare(keep_password=True)
    assert imager.WANTED.stat().st_mode & 0o777 == 0o600
    imager.SHADOW.write_text("pi:$y$cloud-init:1::::::\n")
    imager.finish()
    assert ran == ["pi:$y$ours\n"]


@pytest.mark.parametrize(
    "said",
    [SAID, "#cloud-config\nusers:\n- {name: pi, lock_passwd: false, passwd: $6$imager}\n"],
)
def test_imager_s_password_holds_where_unisat_toml_sets_none(
    boot: Path, ran: list[str], said: str
) -> None:
    (boot / "user-data").write_text(said)
    imager.prepare(keep_password=False)
    imager.finish()
    assert ran == ["pi:$6$imager\n"]


@pytest.mark.parametrize(
    "said",
    [
        SAID.replace("name: pi", "name: teacher"),
        SAID.replace("false", "true"),
        "#cloud-config\n{",
        "- 1\n",
    ],
)
def test_no_password_is_set_that_imager_has_not_set(boot: Path, ran: list[str], said: str) -> None:
    (boot / "user-data").write_text(said)
    imager.prepare(keep_password=False)
    imager.finish()
    assert ran == []


def test_what_failed_is_tried_at_the_next_start(
    boot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: str, given: str = "") -> str:
        raise StationError("chpasswd failed")

    monkeypatch.setattr(imager, "run", fail)
    (boot / "user-data").write_text(SAID)
    imager.prepare(keep_password=True)
    imager.SHADOW.write_text("pi:$y$cloud-init:1::::::\n")
    with pytest.raises(StationError):
        imager.finish()
    imager.prepare(keep_password=True)
    assert imager.WANTED.exists()
