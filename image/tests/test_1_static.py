"""The image as a file: what must be on it, and what must not. Nothing is booted."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest

from card import Card
from conftest import PROJECT, figure

# Pi 3, 3B+, 4B, CM4: as the firmware asks for them.
DEVICE_TREES = {
    "bcm2837-rpi-3-b.dtb", "bcm2837-rpi-3-b-plus.dtb", "bcm2711-rpi-4-b.dtb",
    "bcm2711-rpi-cm4-io.dtb",
}  # fmt: skip
DEVICE_TREES_OF_RASPBERRY = {
    "bcm2710-rpi-3-b.dtb", "bcm2710-rpi-3-b-plus.dtb", "bcm2711-rpi-4-b.dtb",
    "bcm2711-rpi-cm4.dtb",
}  # fmt: skip
FIRMWARE = {"bootcode.bin", "start.elf", "fixup.dat", "start4.elf", "fixup4.dat"}
MAX_BYTES = 3900 << 20


@pytest.fixture(scope="module")
def card(image: Path) -> Card:
    return Card(image)


@pytest.fixture(scope="module")
def root(card: Card, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What people, roles and builds write to, copied out of the root partition."""
    folder = tmp_path_factory.mktemp("root")
    there = {top: card.debugfs(f"ls -p /{top}").decode() for top in ("", "var", "var/lib")}
    for top in ("etc", "home", "root", "tmp", "opt", "srv", "usr/local", "var/cache", "var/lib/apt",
                "var/lib/dbus", "var/lib/systemd", "var/lib/unisat-station",
                "var/lib/unisat-agent", "var/log", "var/tmp"):  # fmt: skip
        above, _, name = top.rpartition("/")
        if above in there and f"/{name}/" not in there[above]:
            continue
        (to := folder / above).mkdir(parents=True, exist_ok=True)
        card.debugfs(f"rdump /{top} {to}")
    return folder


def files(folder: Path) -> list[Path]:
    """All regular files below a folder."""
    return [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]


def test_both_file_systems_are_clean(card: Card, tmp_path: Path) -> None:
    card.check(tmp_path)


def test_it_fits_the_smallest_card(card: Card) -> None:
    size = card.path.stat().st_size
    figure(f"image: {size / 1e9:.2f} GB")
    assert size < MAX_BYTES


def test_the_boot_partition_has_what_the_four_boards_need(card: Card) -> None:
    names = set(card.names())
    assert names >= FIRMWARE
    assert names >= DEVICE_TREES or names >= DEVICE_TREES_OF_RASPBERRY
    assert any(name.startswith(("vmlinuz", "kernel8.img")) for name in names)
    assert any(name.startswith(("initrd", "initramfs8")) for name in names)


def test_the_firmware_is_told_what_to_start(card: Card) -> None:
    config, names = card.read("config.txt"), card.names()
    assert "arm_64bit=1" in config or "kernel=vmlinuz" in config or "kernel8.img" in names
    for word in ("kernel", "initramfs"):
        for name in re.findall(rf"^{word}[= ](\S+)", config, re.MULTILINE):
            assert name in names, f"config.txt starts {name}, which is not there"
    cmdline = card.read("cmdline.txt")
    assert len(cmdline.strip().splitlines()) == 1
    assert "rootwait" in cmdline
    assert re.search(r"\broot=(LABEL|PARTUUID)=", cmdline)
    assert "init=" not in cmdline
    assert re.findall(r"\bconsole=(\S+)", cmdline) == ["tty1"], "the UART is the satellite's"


def test_there_is_a_file_to_edit_and_no_complaint(card: Card) -> None:
    template = PROJECT / "roles/station/files/unisat.toml"
    assert card.read("unisat.toml").replace("\r\n", "\n") == template.read_text()
    assert "unisat-errors.txt" not in card.names()


def test_the_card_is_spared(root: Path) -> None:
    fstab = (root / "etc/fstab").read_text()
    lines = [line.split() for line in fstab.splitlines() if line and line[0] != "#"]
    options = {line[1]: line[3].split(",") for line in lines}
    assert "noatime" in options["/"]
    assert {"noatime", "nofail"} <= set(options["/boot/firmware"])
    assert not [line for line in lines if line[2] == "swap"]


def test_no_update_writes_over_what_a_pi_starts_from(root: Path) -> None:
    settings = "\n".join(path.read_text() for path in files(root / "etc/apt/apt.conf.d"))
    assert 'Unattended-Upgrade "1"' in settings
    for package in ("linux-", "raspi-", "initramfs-tools", "docker"):
        assert f'"{package}' in settings


def test_it_has_no_identity_yet(root: Path) -> None:
    machine_id = root / "etc/machine-id"
    # Any word in it would have a person asked who is not there.
    assert machine_id.read_text() == ""
    assert list((root / "etc/ssh").glob("ssh_host_*")) == []
    assert not (root / "var/lib/systemd/random-seed").exists()
    assert not (root / "var/lib/systemd/credential.secret").exists()


def test_nobody_can_log_in_yet(root: Path) -> None:
    for line in (root / "etc/shadow").read_text().splitlines():
        name, password = line.split(":")[:2]
        assert password[:1] in {"*", "!"}, f"{name} has a password"
    assert [path for path in files(root) if path.name.startswith("authorized_keys")] == []


def test_there_is_no_secret(root: Path) -> None:
    private = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")
    for path in files(root):
        if path.stat().st_size < 1 << 20:
            assert not private.search(path.read_bytes()), path
    secrets = root / "var/lib/unisat-station/secrets"
    assert not secrets.exists() or files(secrets) == []
    credentials = root / "etc/unisat-agent/credentials"
    assert not credentials.exists() or files(credentials) == []
    assert not (root / "etc/unisat-kinto/secrets.env").exists()
    assert not list((root / "var/lib/unisat-agent").glob("spool*"))


def test_nothing_of_the_build_is_left(card: Card, root: Path) -> None:
    assert not [path for path in files(root / "var/lib/apt/lists") if path.name != "lock"]
    assert not list((root / "var/cache/apt/archives").glob("*.deb"))
    assert not list((root / "var/cache/apt").glob("*.bin"))
    for folder in ("tmp", "var/tmp"):
        assert not list((root / folder).iterdir()), folder
    assert b"/policy-rc.d/" not in card.debugfs("ls -p /usr/sbin")
    assert not (root / "root/.ansible").exists()
    assert not list((root / "etc/apt/apt.conf.d").glob("*proxy*"))
    assert not list((root / "etc/dpkg/dpkg.cfg.d").glob("*unsafe*"))
    assert not [path for path in files(root / "var/log") if path.suffix in {".gz", ".1"}]
    resolv = root / "etc/resolv.conf"
    assert resolv.is_symlink() or not resolv.exists() or "nameserver" not in resolv.read_text()


def test_it_does_not_say_where_it_was_built(root: Path) -> None:
    for path in files(root):
        if path.stat().st_size < 1 << 20:
            assert str(PROJECT).encode() not in path.read_bytes(), path
    for name in ("hostname", "hosts", "mailname"):
        if (path := root / "etc" / name).exists():
            assert os.uname().nodename not in path.read_text().split(), path


def test_the_file_to_run_as_root_is_roots(root: Path) -> None:
    for path in (*files(root / "usr/local/sbin"), *files(root / "usr/local/lib")):
        state = path.stat()
        assert (state.st_uid, state.st_mode & stat.S_IWOTH) == (0, 0), path
