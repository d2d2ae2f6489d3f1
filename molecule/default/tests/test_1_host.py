"""Each host after the first run: what runs, what listens, what is closed, and who can read what."""

from __future__ import annotations

import json
import re
import socket
import stat
import tomllib
from pathlib import Path

import pytest
import testinfra
from testinfra.host import Host

from conftest import HOSTS, HUB, PUBLISHERS, address, secret
from outside import BUILD, inside, run

SERVICES = [
    *("avahi-daemon", "chrony", "docker", "memcached", "postgresql", "ssh"),
    *("unattended-upgrades", "unisat-firewall", "unisat-kinto"),
]


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest) -> Host:
    return testinfra.get_host(f"docker://{request.param}")


@pytest.fixture
def name(host: Host) -> str:
    return str(host.backend.get_hostname())


def major(host: Host) -> int:
    return 15 if host.system_info.codename == "bookworm" else 17


def test_all_units_are_well(host: Host) -> None:
    assert host.run("systemctl --failed --no-legend --plain").stdout == ""
    assert host.run("systemctl is-system-running").stdout.strip() == "running"


def test_services_run_now_and_at_boot(host: Host, name: str) -> None:
    for service in [*SERVICES, *(["unisat-agent"] if name in PUBLISHERS else [])]:
        assert host.service(service).is_running, service
        assert host.service(service).is_enabled, service


def test_exactly_the_allowed_sockets_listen(host: Host, name: str) -> None:
    allowed = {("tcp", "0.0.0.0:22"), ("tcp", "[::]:22"), ("tcp", "127.0.0.1:5432"),
               ("tcp", "127.0.0.1:11211"), ("tcp", "127.0.0.1:8888")}  # fmt: skip
    ports = (80, 443) if name == HUB else (80,)
    allowed |= {("tcp", f"{address}:{port}") for address in ("0.0.0.0", "[::]") for port in ports}
    # The live stream, and the figures of nginx and PostgreSQL; the agent's status.
    own = (8889, 9113, 9187) if name == HUB else (8890,)
    allowed |= {("tcp", f"127.0.0.1:{port}") for port in own}
    found = set()
    for line in host.run(
        "ss --no-header --numeric --listening --tcp --udp --processes"
    ).stdout.splitlines():
        kind, _, _, _, address, _, *process = line.split()
        if address.startswith("127.0.0.11:"):
            continue  # the name service that the machine outside gives to its containers
        if "avahi-daemon" in "".join(process):
            continue  # asks from ports of its own; what is not 5353 is closed by the firewall
        found.add((kind, address))
    assert found == allowed


def test_the_firewall_lets_nothing_else_in(host: Host, name: str) -> None:
    def reaches(port: int) -> bool:
        try:
            with socket.create_connection((address(name), port), timeout=2):
                return True
        except ConnectionRefusedError:
            return True  # nobody listens, but the way is open
        except TimeoutError:
            return False

    open_ports = [port for port in (22, 80, 443, 5432, 8888, 8890, 11211, 2375) if reaches(port)]
    assert open_ports == ([22, 80, 443] if name == HUB else [22, 80])


def test_the_firewall_leaves_other_tables_alone(host: Host) -> None:
    assert host.run("nft add table inet somebody").rc == 0
    assert host.run("systemctl reload unisat-firewall && systemctl restart unisat-firewall").rc == 0
    tables = host.run("nft list tables").stdout
    host.run("nft delete table inet somebody")
    assert "inet somebody" in tables
    assert "inet unisat" in tables


def test_postgresql_keeps_its_promises(host: Host, name: str) -> None:
    promises = {"fsync", "synchronous_commit", "full_page_writes", "data_checksums"}
    wanted = dict.fromkeys(promises, "on") | {
        "password_encryption": "scram-sha-256",
        "listen_addresses": "127.0.0.1",
        "wal_compression": "zstd",
        "checkpoint_timeout": "7200",
    }
    query = "select json_object_agg(name, setting) from pg_settings"
    settings = json.loads(
        inside(name, "su", "postgres", "-c", f"psql --tuples-only --command '{query}'")
    )
    assert {key: settings[key] for key in wanted} == wanted
    assert settings["server_version_num"].startswith(str(major(host)))


# psycopg2 itself, for here the database is the question.
CONNECT = """
import psycopg2
def attempt(**how):
    try:
        psycopg2.connect(dbname="kinto", **how).close()
        return "in"
    except psycopg2.OperationalError:
        return "refused"
print([attempt(user="kinto", host=host, password=password)
       for host in ("/run/postgresql", "127.0.0.1") for password in ({right!r}, "wrong", "")])
"""


def test_postgresql_asks_for_the_password(name: str) -> None:
    script = CONNECT.format(right=secret(name, "kinto_database_password"))
    assert inside(name, "python3", "-", stdin=script).strip() == str(
        ["in", "refused", "refused"] * 2
    )


STATS = r"""
import socket
server = socket.create_connection(("127.0.0.1", 11211), 5)
server.sendall(b"stats\r\n")
said = b""
while not said.endswith(b"END\r\n"):
    said += server.recv(9999)
print(said.decode())
"""


def test_memcached_is_bounded_and_answers(name: str) -> None:
    assert f"limit_maxbytes {64 << 20}" in inside(name, "python3", "-", stdin=STATS)


def test_docker_limits_logs_and_outlives_its_daemon(name: str) -> None:
    said = json.loads(inside(name, "docker", "info", "--format", "{{json .}}"))
    assert said["LoggingDriver"] == "json-file"
    assert json.loads(inside(name, "cat", "/etc/docker/daemon.json"))["log-opts"]["max-size"]
    # Kinto's goes to the journal, which is bounded too, and not to a file of docker's besides.
    container = json.loads(inside(name, "docker", "inspect", "unisat-kinto"))[0]
    assert container["HostConfig"]["LogConfig"]["Type"] == "none"


def test_kintos_unit_is_confined(host: Host) -> None:
    said = host.run("systemd-analyze security --no-pager unisat-kinto").stdout
    found = re.search(r"exposure level for unisat-kinto.service: ([\d.]+)", said)
    assert found
    assert float(found[1]) <= 2.5, said


def test_the_clock_is_watched_and_not_touched(host: Host) -> None:
    assert "chronyd -F 1 -x" in host.run("ps ax -o args").stdout


def test_passwords_open_ssh_until_somebody_came_in_by_key(host: Host, name: str) -> None:
    # prepare.yml gives root of default-trixie a key as well, by which nobody comes in.
    settings = host.run("sshd -T").stdout.splitlines()
    assert f"passwordauthentication {'no' if name == 'default-bookworm' else 'yes'}" in settings
    assert "permitrootlogin without-password" in settings
    assert "permitemptypasswords no" in settings


def ssh(name: str, user: str, *options: str, askpass: Path | None = None) -> str:
    """What `id` says to somebody who logs in, or why ssh lets nobody in."""
    settings = {"UserKnownHostsFile": "/dev/null", "StrictHostKeyChecking": "no",
                "IdentitiesOnly": "yes", "LogLevel": "ERROR", "ConnectTimeout": "10"}  # fmt: skip
    return run(
        *("env", f"SSH_ASKPASS={askpass}", "SSH_ASKPASS_REQUIRE=force", "ssh", "-F", "/dev/null"),
        *(f"-o{key}={value}" for key, value in settings.items()),
        *(*options, f"{user}@{address(name)}", "id -un; sudo -n id -un"),
        check=False,
    )


def test_the_operator_still_gets_in_and_may_do_everything() -> None:
    assert ssh("default-bookworm", "pi", "-i", f"{BUILD}/operator") == "pi\nroot\n"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("default-bookworm", "teacher@{}: Permission denied (publickey)."),
        ("default-trixie", "teacher"),  # where the operator would have no other way in
    ],
)
def test_a_password_is_refused_where_the_operator_has_a_key(
    name: str, said: str, tmp_path: Path
) -> None:
    askpass = tmp_path / "askpass"
    askpass.write_text("#!/bin/sh\necho a-word-to-remember\n")
    askpass.chmod(0o700)
    inside(name, "useradd", "--create-home", "teacher")
    inside(name, "chpasswd", stdin="teacher:a-word-to-remember")
    answer = ssh(name, "teacher", "-oPubkeyAuthentication=no", askpass=askpass)
    inside(name, "userdel", "--remove", "teacher")
    assert answer.splitlines()[0] == said.format(address(name))


def test_the_journal_and_the_watchdog_are_bounded(host: Host) -> None:
    config = host.run("systemd-analyze cat-config systemd/journald.conf").stdout
    assert "SystemMaxUse=128M" in config
    shown = host.run("systemctl show --property=RuntimeWatchdogUSec").stdout.strip()
    assert shown == "RuntimeWatchdogUSec=15s"


def test_security_updates_leave_the_engine_alone(host: Host) -> None:
    config = host.run("apt-config dump Unattended-Upgrade").stdout
    origins = re.findall(r'Origins-Pattern:: "(.*)"', config)
    assert origins
    # Raspberry Pi OS has no archive for security alone.
    allowed = ("label=Debian-Security", "origin=Raspberry Pi Foundation,")
    assert all(any(part in origin for part in allowed) for origin in origins)
    assert 'Package-Blacklist:: "docker"' in config
    assert (
        'APT::Periodic::Unattended-Upgrade "1"' in host.run("apt-config dump APT::Periodic").stdout
    )


def test_the_uart_of_the_pi_belongs_to_the_device() -> None:
    host = testinfra.get_host("docker://default-bookworm")
    cmdline = host.file("/boot/firmware/cmdline.txt").content_string
    assert cmdline == (
        "console=tty1 root=PARTUUID=1 rootfstype=ext4 fsck.repair=yes rootwait"
        " cgroup_enable=memory cgroup_memory=1\n"
    )
    config = host.file("/boot/firmware/config.txt").content_string
    assert config.startswith("dtparam=audio=on\n\n[pi4]\narm_boost=1\n")
    assert config.endswith(
        "[all]\nenable_uart=1\ndtoverlay=disable-bt\n# END UniSat: the UART belongs to the device\n"
    )
    assert host.file("/run/reboot-required").exists


# What may be read by everybody, and what programs show of themselves to everybody.
LEAKS = """
import os, pathlib, stat, subprocess, sys
secrets = [line.encode() for line in sys.stdin.read().split()]
def found(text, where):
    for secret in secrets:
        if secret in text:
            print("a secret is in", where)
found(subprocess.run(["ps", "axww", "-o", "args"], stdout=subprocess.PIPE).stdout, "ps")
found(subprocess.run(["journalctl", "--no-pager"], stdout=subprocess.PIPE).stdout, "the journal")
for top in ("/etc", "/home", "/opt", "/root", "/run", "/srv", "/tmp", "/usr/local", "/var"):
    for folder, names, files in os.walk(top):
        # Where others cannot enter, they cannot read.
        if not os.stat(folder).st_mode & 0o001:
            names[:] = []
            continue
        for name in files:
            path = pathlib.Path(folder, name)
            state = path.lstat()
            seen = state.st_mode & 0o004 or folder.startswith("/var/log")
            if stat.S_ISREG(state.st_mode) and seen and state.st_size < 50_000_000:
                found(path.read_bytes(), path)
"""


def test_no_secret_can_be_seen(name: str) -> None:
    files = [path for path in (BUILD / "secrets").glob("*/*") if path.suffix != ".pem"]
    # Of a key what is between its first line and its last; a password is one line.
    secrets = [
        line
        for path in files
        for line in path.read_text().splitlines()
        if not line.startswith("-----")
    ]
    assert len(secrets) >= 10
    assert inside(name, "python3", "-c", LEAKS, stdin="\n".join(secrets)) == ""


def test_secrets_on_the_controller_are_for_its_user_alone() -> None:
    for path in (BUILD / "secrets").glob("*/*"):
        if path.suffix == ".pem":
            continue  # a certificate, which is no secret
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


@pytest.mark.parametrize("name", PUBLISHERS)
def test_a_station_knows_its_own_settings(name: str) -> None:
    """For the updates that it fetches itself: what the inventory says, the hub's part resolved."""
    file = "/var/lib/unisat-station/inventory.json"
    assert inside(name, "stat", "--format", "%a %U", file).strip() == "600 root"
    kept = json.loads(inside(name, "cat", file))
    assert kept["inventory_hostname"] == kept["agent_station_name"] == name
    assert kept["agent_serial"] == [{"port": "/run/satellite/port"}]
    written = tomllib.loads(inside(name, "cat", "/etc/unisat-agent/agent.toml"))
    assert kept["agent_hub_url"] == written["hub"]["url"]
    assert kept["agent_hub_ca"].startswith("-----BEGIN CERTIFICATE-----")
    # An update brings an image of its own.
    assert "kinto_image_source" not in kept
