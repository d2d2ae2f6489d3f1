"""The first boot's steps, each with a machine of the test's own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from unisat_station import first_boot, machine, secrets
from unisat_station.__main__ import main
from unisat_station.apply import Applied
from unisat_station.machine import StationError

SERVERS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


@pytest.fixture(autouse=True)
def station(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing of this machine is touched."""
    for module, name, path in (
        (machine, "NOTICES", "run/notices"),
        (machine, "ISSUE", "run/issue"),
        (machine, "CONSOLES", "consoles"),
        (secrets, "FOLDER", "secrets"),
        (secrets, "CREDENTIALS", "credentials"),
        (secrets, "KINTO", "kinto/secrets.env"),
        (first_boot, "DONE", "done"),
        (first_boot, "LOADING", "loading"),
        (first_boot, "ARCHIVE", "image.tar.gz"),
        (first_boot, "DOCKER_DATA", "docker"),
    ):
        monkeypatch.setattr(module, name, tmp_path / path)
    return tmp_path


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The commands that would have been run, and their input."""
    commands: list[str] = []

    def run(*argv: str, given: str = "", user: str | None = None) -> str:
        commands.append(" ".join(argv))
        return ""

    monkeypatch.setattr(first_boot, "run", run)
    return commands


def files(folder: Path) -> dict[str, str]:
    return {str(path): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_is_open_whatever_the_umask(tmp_path: Path) -> None:
    """The keys are read as `pi`, and the notices as `unisat`."""
    before = os.umask(0o077)
    try:
        machine.write(tmp_path / "keys/of/pi", "ssh-ed25519 AAAA\n")
    finally:
        os.umask(before)
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "keys/of").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "keys/of/pi").stat().st_mode & 0o777 == 0o644


class TestSecrets:
    def test_are_made_once_and_are_nobody_s_business(self, station: Path) -> None:
        secrets.make()
        made = files(station)
        assert len({text for text in made.values() if len(text) == 33}) == 4
        assert {path.stat().st_mode & 0o777 for path in station.rglob("*") if path.is_file()} == {
            0o600
        }
        secrets.make()
        assert files(station) == made

    def test_one_that_a_power_cut_left_empty_is_made(self) -> None:
        secrets.FOLDER.mkdir()
        (secrets.FOLDER / "kinto_hmac_secret").touch()
        assert len(secrets.secret("kinto_hmac_secret")) == 32

    def test_the_hub_s_own_password_is_kept(self) -> None:
        secrets.make()
        (secrets.CREDENTIALS / "hub.password").write_text("theirs\n")
        secrets.make()
        assert (secrets.CREDENTIALS / "hub.password").read_text() == "theirs\n"

    def test_kinto_gets_its_own(self) -> None:
        secrets.make()
        password = secrets.secret("kinto_database_password")
        url = f"postgresql+psycopg2://kinto:{password}@/kinto?host=/run/postgresql"
        assert secrets.KINTO.read_text().splitlines() == [
            f"KINTO_STORAGE_URL={url}",
            f"KINTO_PERMISSION_URL={url}",
            f"KINTO_USERID_HMAC_SECRET={secrets.secret('kinto_hmac_secret')}",
        ]


class TestKinto:
    def test_is_loaded_with_progress_and_its_archive_removed(
        self, ran: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first_boot.ARCHIVE.touch()
        fed: list[list[str]] = []
        monkeypatch.setattr(first_boot, "feed", lambda _, argv: fed.append(argv))
        first_boot.load()
        assert fed == [["docker", "load", "--quiet"]]
        assert ran == ["systemctl start docker.service"]
        assert [first_boot.ARCHIVE.exists(), first_boot.LOADING.exists()] == [False, False]

    def test_what_a_power_cut_left_of_a_load_is_not_believed(
        self, ran: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first_boot.ARCHIVE.touch()
        first_boot.DOCKER_DATA.mkdir()

        def power_cut(*_: object) -> None:
            raise StationError("cut")

        monkeypatch.setattr(first_boot, "feed", power_cut)
        with pytest.raises(StationError):
            first_boot.load()
        assert first_boot.DOCKER_DATA.exists()
        monkeypatch.setattr(first_boot, "feed", lambda *_: None)
        first_boot.load()
        assert ran[-2].startswith("systemctl stop docker")
        assert not first_boot.DOCKER_DATA.exists()

    def test_progress_is_told(self, station: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        told: list[str] = []
        monkeypatch.setattr(first_boot, "progress", lambda doing, **_: told.append(doing))
        archive = station / "archive"
        archive.write_bytes(bytes(first_boot.CHUNK * 4))
        first_boot.feed(archive, ["sh", "-c", "cat >/dev/null"])
        assert told == [f"unpacking Kinto, {percent} %" for percent in (25, 50, 75, 100)]

    def test_what_refuses_it_is_heard(self, station: Path) -> None:
        archive = station / "archive"
        archive.write_bytes(bytes(first_boot.CHUNK * 4))
        with pytest.raises(StationError, match="no room"):
            first_boot.feed(archive, ["sh", "-c", "echo no room >&2; exit 1"])


class TestFirstBoot:
    def test_failure_is_told_and_is_over_once_it_works(
        self, ran: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail() -> None:
            raise StationError("resize2fs failed: no")

        monkeypatch.setattr(first_boot, "grow", fail)
        with pytest.raises(StationError):
            first_boot.first_boot()
        notice = machine.NOTICES / "first-boot"
        assert notice.read_text() == "First boot: resize2fs failed: no; it is tried again.\n"
        assert "resize2fs failed" in machine.ISSUE.read_text()
        monkeypatch.setattr(first_boot, "grow", lambda: None)
        first_boot.first_boot()
        assert (notice.exists(), first_boot.DONE.exists()) == (False, True)
        before = list(ran)
        first_boot.first_boot()
        assert ran == before, "it is done"


class TestRun:
    def test_says_what_the_command_said_and_never_its_input(self) -> None:
        with pytest.raises(StationError, match="sh -c failed: bad luck") as caught:
            machine.run("sh", "-c", "echo bad luck >&2; exit 3", given="secret")
        assert "secret" not in str(caught.value)


@pytest.fixture
def cluster() -> Iterator[Path]:
    """A real PostgreSQL on a Unix socket of its own."""
    folder = Path("/tmp") / f"unisat-first-boot-{id(object())}"
    folder.mkdir()
    shutil.chown(folder, "postgres")
    programs = SERVERS[-1]

    def postgres(*argv: str) -> None:
        subprocess.run(argv, user="postgres", cwd="/", check=True, stdout=subprocess.DEVNULL)

    postgres(str(programs / "initdb"), "-D", f"{folder}/data", "-A", "peer", "-E", "UTF8", "-N")
    options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
    ctl = (str(programs / "pg_ctl"), "-D", f"{folder}/data", "-l", f"{folder}/log", "-w")
    postgres(*ctl, "-o", options, "start")
    yield folder
    postgres(*ctl, "-m", "immediate", "stop")
    shutil.rmtree(folder)


def test_database_is_made_and_its_password_set_again(
    cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*argv: str, given: str = "", user: str | None = None) -> str:
        if argv[0] == "systemctl":
            return ""
        argv = tuple(arg.replace("/run/postgresql", str(cluster)) for arg in argv)
        return machine.run(*argv, given=given, user=user)

    def ask(question: str) -> str:
        host = f"--host={cluster}"
        return machine.run("psql", host, "-AtX", "-c", question, "postgres", user="postgres")

    monkeypatch.setattr(first_boot, "run", run)
    first_boot.make_database()
    password = "SELECT rolpassword FROM pg_authid WHERE rolname = 'kinto'"
    before = ask(password)
    assert before.startswith("SCRAM-SHA-256")
    ask("ALTER ROLE kinto PASSWORD 'other'")
    first_boot.make_database()
    assert ask(password) != before, "another salt"
    owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'kinto'"
    assert ask(owner) == "kinto\n"
    assert secrets.secret("kinto_database_password") not in (cluster / "log").read_text()


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("192.168.1.20 10.0.0.5 fd00::1 \n", "address 192.168.1.20, 10.0.0.5\n"),
        ("\n", "no network\n"),
        ("fd00::1\n", "no network\n"),
    ],
)
def test_the_screen_shows_the_addresses_in_the_networks(
    monkeypatch: pytest.MonkeyPatch, said: str, shown: str
) -> None:
    monkeypatch.setattr(machine, "run", lambda *argv, **_: said if argv[0] == "hostname" else "")
    machine.show()
    assert machine.ISSUE.read_text().startswith(f"UniSat station \\n, {shown}")


def test_a_boot_partition_that_comes_late_is_applied_when_it_is_there(
    station: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = False
    ran: list[tuple[str, ...]] = []

    def applied() -> Applied:
        return Applied([], False, agent_changed=there, card_was_there=there)

    monkeypatch.setattr("unisat_station.apply.apply", applied)
    monkeypatch.setattr("unisat_station.imager.prepare", lambda **_: None)
    monkeypatch.setattr(machine, "CARD", station / "run/card")

    def run(*argv: str, **_: str) -> str:
        ran.append(argv)
        return ""

    monkeypatch.setattr(machine, "run", run)
    assert main(["settings"]) == 0
    assert not machine.CARD.exists()
    ran.clear()
    there = True
    assert main(["late-settings"]) == 0
    assert machine.CARD.exists()
    assert ("systemctl", "try-restart", "--no-block", "unisat-agent.service") in ran
    assert ("nmcli", "connection", "reload") in ran
