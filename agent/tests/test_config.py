"""Every mistake in the configuration is one line that names the file, the key and the mend."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from unisat_agent.config.load import load
from unisat_agent.config.model import Config, PortSettings, SinkSettings
from unisat_agent.config.passwords import credentials_directory
from unisat_agent.errors import ConfigError

SECRET = "correct horse"


class Site:
    """A folder with a configuration file and the password files that it names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "agent.toml"
        self.secret("local.password")
        self.secret("hub.password")

    def secret(self, name: str, text: str = SECRET + "\n", mode: int = 0o600) -> Path:
        path = self.folder / name
        path.write_text(text)
        path.chmod(mode)
        return path

    def write(self, text: str) -> None:
        self.file.write_text(text.replace("DIR", str(self.folder)))

    def load(self, text: str, credentials: Path | None = None) -> Config:
        self.write(text)
        return load(self.file, credentials)

    def problems(self, text: str, credentials: Path | None = None) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            self.load(text, credentials)
        return caught.value.problems

    def problem(self, text: str, credentials: Path | None = None) -> str:
        """The one line, without the file's name that each one begins with."""
        (line,) = self.problems(text, credentials)
        assert "\n" not in line
        assert line.startswith(f"{self.file}: ")
        return line.removeprefix(f"{self.file}: ")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


LOCAL = '[local]\npassword_file = "DIR/local.password"\n'
HUB = (
    '[hub]\nurl = "https://hub.example.org/v1"\nuser = "station"\n'
    'password_file = "DIR/hub.password"\n'
)


def test_little_is_needed(site: Site) -> None:
    config = site.load(LOCAL)
    assert config == Config(
        path=site.file,
        station="publisher",
        devices=frozenset(),
        spool_path=Path("/var/lib/unisat-agent/spool.db"),
        spool_max_bytes=1024 * 1024 * 1024,
        history_days=7.0,
        ports=(PortSettings(),),
        local=SinkSettings("local", "http://127.0.0.1:8888/v1", "agent", SECRET),
        hub=None,
        clock_synchronised="kernel",
        hold_s=600.0,
        listen=("127.0.0.1", 8890),
        keep_days=90.0,
        keep_disk_percent=50.0,
        delete_without_hub=False,
    )
    assert config.sinks == (config.local,)


def test_everything_can_be_said(site: Site) -> None:
    site.secret("ca.pem", "certificate")
    config = site.load(
        """
        [station]
        name = "almaty"
        devices = ["u01kz", "u02-b_c"]
        interval_s = 600
        [spool]
        path = "/data/spool.db"
        max_mb = 16
        history_days = 0.5
        [[serial]]
        port = "/dev/ttyACM0"
        baud = 115200
        bytesize = 7
        parity = "E"
        stopbits = 1.5
        idle_s = 2
        [[serial]]
        port = "rfc2217://127.0.0.1:4000"
        protocol = "psott"
        rtscts = true
        xonxoff = true
        dtr = false
        candidates = ["/dev/serial/by-id/*"]
        [local]
        url = "http://[::1]:8888/v1/"
        user = "other"
        password_file = "DIR/local.password"
        bucket = "sky"
        connect_timeout_s = 1
        read_timeout_s = 2.5
        batch_max = 100
        [hub]
        url = "https://hub.example.org/kinto/v1"
        user = "almaty"
        password_file = "DIR/hub.password"
        ca_file = "DIR/ca.pem"
        [retention]
        days = 30
        disk_percent = 25.5
        delete_without_hub = true
        [clock]
        synchronised = "/run/clock-is-right"
        hold_s = 0
        [status]
        listen = "127.0.0.2:1"
        notices = "/run/unisat/notices"
        """
    )
    assert config.devices == {"u01kz", "u02-b_c"}
    assert config.spool_max_bytes == 16 * 1024 * 1024
    assert config.ports[0] == PortSettings("/dev/ttyACM0", 115200, 7, "E", 1.5, 2.0)
    assert config.interval_s == 600
    assert config.ports[1] == PortSettings(
        "rfc2217://127.0.0.1:4000",
        candidates=("/dev/serial/by-id/*",),
        rtscts=True,
        xonxoff=True,
        dtr=False,
    )
    assert config.local == SinkSettings(
        "local", "http://[::1]:8888/v1", "other", SECRET, "sky", None, 1.0, 2.5, 100
    )
    assert config.hub is not None
    assert config.hub.ca_file == site.folder / "ca.pem"
    assert config.sinks == (config.local, config.hub)
    assert (config.listen, config.hold_s) == (("127.0.0.2", 1), 0.0)
    assert config.notices == Path("/run/unisat/notices")
    assert (config.keep_days, config.keep_disk_percent, config.delete_without_hub) == (
        30.0,
        25.5,
        True,
    )


WRONG = {
    # Unknown names, with the known one that was probably meant
    "unknown key": ("[spool]\nmax_mbs = 5", "[spool] max_mbs: unknown key, did you mean max_mb?"),
    "unlike any": ("[clock]\nxyz = 5", "[clock] xyz: unknown key, known: synchronised, hold_s"),
    "unknown table": ("[spoool]\nmax_mb = 5", "[spoool]: unknown table, did you mean [spool]?"),
    "table unlike any": ("[x]\ny = 1", "[x]: unknown table, known: clock, hub, local,"),
    "password": ('[local]\npassword = "x"', "[local] password: unknown key, did you mean"),
    "port's key": ("[[serial]]\nbaudrate = 1", "[[serial]] baudrate: unknown key, did you mean"),
    # Wrong types
    "text": ("[station]\nname = 5", "[station] name: must be a text, not 5"),
    "empty text": ('[station]\nname = ""', "[station] name: must be a text, not ''"),
    "whole number": ('[spool]\nmax_mb = "5"', "[spool] max_mb: must be a whole number from 1 to"),
    "no fraction": ("[spool]\nmax_mb = 1.5", "[spool] max_mb: must be a whole number from 1 to"),
    "no boolean": ("[spool]\nmax_mb = true", "[spool] max_mb: must be a whole number from 1 to"),
    "number": ('[clock]\nhold_s = "5"', "[clock] hold_s: must be a number from 0 to 86400"),
    "not a number": ("[clock]\nhold_s = nan", "[clock] hold_s: must be a number from 0 to 86400"),
    "infinite": ("[clock]\nhold_s = inf", "[clock] hold_s: must be a number from 0 to 86400"),
    "list": ('[station]\ndevices = "u01"', "[station] devices: must be a list of devIDs"),
    "list of texts": ("[station]\ndevices = [1]", "[station] devices: must be a list of devIDs"),
    "devID": ('[station]\ndevices = ["1u"]', "[station] devices: must be a list of devIDs"),
    "no table": ("spool = 5", "[spool] must be a table: write [spool] on a line of its own"),
    "one bracket": ('[serial]\nport = "auto"', "[top level] serial: must be one or more [["),
    "no port": ("serial = []", "[top level] serial: must be one or more [[serial]] tables"),
    "no port's table": ("serial = [5]", "[[serial]] must be a table: write [[serial]] on a line"),
    # Values out of reach
    "too small": ("[spool]\nmax_mb = 0", "[spool] max_mb: must be a whole number from 1 to"),
    "negative": ("[spool]\nhistory_days = -1", "[spool] history_days: must be a number from 0"),
    "relative path": ('[spool]\npath = "a.db"', "[spool] path: must be an absolute path"),
    "port": ('[[serial]]\nport = "ttyUSB0"', '[[serial]] port: must be "auto", a path that'),
    "port's address": ('[[serial]]\nport = "socket://host"', '[[serial]] port: must be "auto",'),
    "port's number": ('[[serial]]\nport = "socket://h:x"', '[[serial]] port: must be "auto", a'),
    "no baud": ("[[serial]]\nbaud = 0", "[[serial]] baud: must be a whole number from 50"),
    "parity": ('[[serial]]\nparity = "X"', "[[serial]] parity: must be one of N, E, O, not 'X'"),
    "stopbits": ("[[serial]]\nstopbits = 1.2", "[[serial]] stopbits: must be 1, 1.5 or 2"),
    "idle": ("[[serial]]\nidle_s = 0", "[[serial]] idle_s: must be a number from 0.1 to 3600"),
    "patterns": ("[[serial]]\ncandidates = [1]", "[[serial]] candidates: must be a list of path"),
    "protocol": ('[[serial]]\nprotocol = "nmea"', "[[serial]] protocol: must be one of psott,"),
    "flag": ("[[serial]]\ndtr = 1", "[[serial]] dtr: must be true or false, without quotes"),
    "interval": ("[station]\ninterval_s = -1", "[station] interval_s: must be a number from 0"),
    "two autos": (
        "[[serial]]\n[[serial]]\nbaud = 19200",
        "[top level] serial: port auto is given twice: remove one of the [[serial]] tables",
    ),
    "two ports": (
        '[[serial]]\nport = "/dev/a"\n[[serial]]\nport = "/dev/a"',
        "[top level] serial: port /dev/a is given twice: remove one of the [[serial]] tables",
    ),
    "clock": ('[clock]\nsynchronised = "ntp"', '[clock] synchronised: must be "kernel", "always"'),
    "listen": ('[status]\nlisten = "8890"', "[status] listen: must be a loopback address and a"),
    "listen to all": ('[status]\nlisten = "0.0.0.0:1"', "[status] listen: must be a loopback"),
    "listen to a name": ('[status]\nlisten = "localhost:1"', "[status] listen: must be a loopback"),
    "listen to IPv6": ('[status]\nlisten = "::1:8890"', "[status] listen: must be a loopback"),
    "notices": ('[status]\nnotices = "here"', "[status] notices: must be the absolute path of a"),
    "no such port": ('[status]\nlisten = "127.0.0.1:0"', "[status] listen: must be a loopback"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_mistake_is_one_line_with_its_mend(site: Site, name: str) -> None:
    text, said = WRONG[name]
    # The sinks are right; where the mistake is in [local], its table is there once.
    around = text.replace("[local]", LOCAL.strip()) if "[local]" in text else f"{text}\n{LOCAL}"
    assert site.problem(around).startswith(said)


@pytest.mark.parametrize(
    "url",
    [
        "hub.example.org/v1",
        "ftp://hub.example.org/v1",
        "https://hub.example.org",
        "https://hub.example.org/v1/buckets",
        "https:///v1",
        "https://hub.example.org:port/v1",
        "https://hub.example.org/v1?x=1",
        "https://hub.example.org/v1#x",
        "",
    ],
)
def test_url_is_of_a_kinto(site: Site, url: str) -> None:
    said = site.problem(LOCAL + HUB.replace("https://hub.example.org/v1", url))
    assert said.startswith("[hub] url: must be the URL of a Kinto, with http:// or https:// and")
    assert said.endswith(f"not {url!r}")


def test_password_in_the_url_is_refused_and_not_repeated(site: Site) -> None:
    said = site.problem(LOCAL + HUB.replace("hub.example", "me:horse@hub.example"))
    assert said.startswith("[hub] url: must be without user and password: ")
    assert "horse" not in said


def test_hub_needs_a_url_a_user_and_a_password(site: Site) -> None:
    said = [line.removeprefix(f"{site.file}: ") for line in site.problems(LOCAL + "[hub]\n")]
    assert [line.split(":")[0] for line in said] == [
        "[hub] url",
        "[hub] user",
        "[hub] password_file",
    ]
    assert all("missing" in line or "no password" in line for line in said)


def test_user_has_no_colon(site: Site) -> None:
    assert "user: must be the account's name, without a colon" in site.problem(
        LOCAL + 'user = "account:me"'
    )


def test_bucket_is_a_kinto_id(site: Site) -> None:
    assert "[local] bucket: must be letters, digits, _ and -" in site.problem(
        LOCAL + 'bucket = "a/b"'
    )


def test_hub_is_not_the_local_kinto(site: Site) -> None:
    same = HUB.replace("https://hub.example.org/v1", "http://127.0.0.1:8888/v1/")
    assert "[hub] url: is the same Kinto as [local]" in site.problem(LOCAL + same)
    assert site.load(LOCAL + same + 'bucket = "another"').hub is not None


def test_all_problems_are_told_at_once(site: Site) -> None:
    problems = site.problems(
        LOCAL + "[station]\nname = 1\n[spool]\nmax_mb = 0\nx = 1\n[hub]\nuser = 5\n[nothing]\n"
    )
    assert len(problems) == 7
    assert all(line.startswith(f"{site.file}: ") and "\n" not in line for line in problems)


def test_wrong_type_of_a_file_is_one_problem(site: Site) -> None:
    assert "[local] ca_file: must be the path of a file, not 5" in site.problem(
        LOCAL + "ca_file = 5"
    )


def test_missing_file_is_named(site: Site) -> None:
    said = site.problem(LOCAL + 'ca_file = "DIR/none.pem"')
    assert said == (
        f"[local] ca_file: {site.folder}/none.pem can't be read (No such file or directory): "
        "correct the path or create the file"
    )


class TestPassword:
    def test_from_the_systemd_credential_before_the_file(self, site: Site, tmp_path: Path) -> None:
        credentials = tmp_path / "credentials"
        credentials.mkdir()
        (credentials / "local.password").write_text("of systemd\n")
        assert site.load(LOCAL, credentials).local.password == "of systemd"
        assert site.load("", credentials).local.password == "of systemd"
        both = site.load(LOCAL + HUB, credentials)
        assert both.hub is not None
        assert both.hub.password == SECRET

    def test_folder_of_credentials_is_systemd_s_or_beside_the_configuration(
        self, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
        assert credentials_directory(site.file) is None
        beside = site.folder / "credentials"
        beside.mkdir()
        assert credentials_directory(site.file) == beside
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/unisat-agent.service")
        in_unit = Path("/run/credentials/unisat-agent.service")
        assert credentials_directory(site.file) == in_unit

    def test_missing(self, site: Site) -> None:
        said = site.problem("")
        assert said.startswith("[local] password_file: no password: name a file with mode 0600")
        assert "local.password" in said

    @pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
    def test_open_to_others(self, site: Site, mode: int) -> None:
        path = site.secret("local.password", mode=mode)
        assert site.problem(LOCAL) == (
            f"[local] password_file: {path} is open to others: run chmod 600 {path}"
        )

    def test_empty(self, site: Site) -> None:
        site.secret("local.password", "\n")
        assert "is empty: write the password into it" in site.problem(LOCAL)

    def test_not_text(self, site: Site) -> None:
        (site.folder / "local.password").write_bytes(b"\xff\xfe")
        assert "local.password can't be read" in site.problem(LOCAL)

    @pytest.mark.parametrize("name", ["none", ".", "a" * 300])
    def test_no_such_file(self, site: Site, name: str) -> None:
        said = site.problem(f'[local]\npassword_file = "DIR/{name}"')
        assert said.startswith("[local] password_file: ")
        assert "can't be read" in said

    def test_wrong_type(self, site: Site) -> None:
        assert "password_file: must be the path of a file, not 5" in site.problem(
            "[local]\npassword_file = 5"
        )

    def test_is_not_shown(self, site: Site) -> None:
        assert SECRET not in repr(site.load(LOCAL + HUB))

    def test_is_not_needed_for_everything(self, site: Site) -> None:
        site.write(HUB.replace("DIR/hub.password", "DIR/none"))
        config = load(site.file, passwords=False)
        assert (config.local.password, config.hub and config.hub.password) == ("", "")


class TestFile:
    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"agent\.toml: there is no such file: .*--config"):
            load(tmp_path / "agent.toml")

    def test_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="can't be read: Is a directory"):
            load(tmp_path)

    def test_the_way_past_a_file_for_root_is_told(self, tmp_path: Path) -> None:
        path = tmp_path / "agent.toml"
        path.touch(mode=0)
        user = os.geteuid()
        os.seteuid(65534 if user == 0 else user)  # nobody
        try:
            with pytest.raises(ConfigError, match="Permission denied; put sudo before"):
                load(path)
        finally:
            os.seteuid(user)

    def test_not_toml(self, site: Site) -> None:
        assert site.problem("[station\n").startswith("is not valid TOML: ")

    def test_not_text(self, site: Site) -> None:
        site.file.write_bytes(b"# caf\xe9\n")
        with pytest.raises(ConfigError, match="must be UTF-8 text: byte 5 is not"):
            load(site.file)
