"""A tree that site.yml was run into without booting it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

BUILD = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"]) / "build" / "molecule" / "chroot"
ROOT = BUILD / "root"
SERVICES = [
    *("avahi-daemon", "chrony", "docker", "memcached", "postgresql"),
    *("unisat-agent", "unisat-firewall", "unisat-kinto"),
]


def test_nothing_runs_in_it() -> None:
    inside = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "root").resolve() == ROOT.resolve():
                inside.append((process / "cmdline").read_text())
        except OSError:
            continue  # it has just ended
    assert inside == []


@pytest.mark.parametrize("service", SERVICES)
def test_services_start_at_the_first_boot(service: str) -> None:
    # Seen from here the links lead out of the tree, so they are looked at and not followed.
    wants = (ROOT / "etc/systemd/system").glob("*.wants")
    assert any((folder / f"{service}.service").is_symlink() for folder in wants)


def test_the_machine_outside_is_as_it_was() -> None:
    files = ["/etc/hostname", "/etc/hosts", "/etc/localtime", "/proc/sys/kernel/hostname"]
    content = b"".join(Path(file).read_bytes() for file in files)
    assert hashlib.sha256(content).hexdigest() == (BUILD / "outside").read_text().split()[0]


def test_it_has_its_own_name_and_a_pi_s_boot_partition() -> None:
    assert (ROOT / "etc/hostname").read_text() == "unisat\n"
    assert "127.0.1.1 unisat" in (ROOT / "etc/hosts").read_text()
    cmdline = (ROOT / "boot/firmware/cmdline.txt").read_text()
    assert cmdline.endswith("rootwait cgroup_enable=memory cgroup_memory=1\n")
    assert not (ROOT / "run/reboot-required").exists()


def test_the_clock_will_be_set() -> None:
    """The builder may be a container; what is built is not."""
    drop_in = (ROOT / "etc/systemd/system/chrony.service.d/unisat.conf").read_text()
    assert "-F 1 -s" in drop_in
    assert "-x" not in drop_in


def test_the_database_cluster_is_made_and_empty() -> None:
    cluster = ROOT / "var/lib/postgresql/17/main"
    assert (cluster / "PG_VERSION").read_text() == "17\n"
    assert not (cluster / "postmaster.pid").exists()


def test_no_secret_is_in_it() -> None:
    secrets = [path.read_bytes().strip() for path in (BUILD / "secrets").glob("*/*")]
    for top in ("etc", "opt", "root", "srv", "usr/local", "var"):
        for folder, _, files in os.walk(ROOT / top):
            for file in files:
                path = Path(folder, file)
                if path.is_file() and not path.is_symlink() and path.stat().st_size < 50_000_000:
                    content = path.read_bytes()
                    assert not any(secret in content for secret in secrets), path
