"""Where everything lies, and files that survive a power cut."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
from dataclasses import dataclass
from pathlib import Path


class RefusedError(Exception):
    """Why a bundle is not taken, as the rest of a sentence that begins with its name."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the supervisor keeps its own; everything is below `root`."""

    root: Path = Path("/")

    @property
    def state(self) -> Path:
        """The folder with all that is kept."""
        return self.root / "var/lib/unisat-update"

    @property
    def baseline(self) -> Path:
        """How the station was before the update that is under way."""
        return self.state / "before.json"

    @property
    def archive(self) -> Path:
        """The files of the version before; complete wherever there is a baseline."""
        return self.state / "before.tar.gz"

    @property
    def dump(self) -> Path:
        """Kinto's database before the update that is under way, where that migrates it."""
        return self.state / "before.dump"

    @property
    def kept_dump(self) -> Path:
        """One that may still be needed, until the next update is good."""
        return self.state / "kept.dump"

    @property
    def failure(self) -> Path:
        """What the playbook says of its failure, one line."""
        return self.state / "failure"

    @property
    def incoming(self) -> Path:
        """What was fetched, a folder for each serial number."""
        return self.state / "incoming"

    @property
    def releases(self) -> Path:
        """What was fetched, verified and unpacked, a folder for each serial number."""
        return self.state / "releases"

    @property
    def keys(self) -> Path:
        """The public keys whose signatures count."""
        return self.root / "etc/unisat-update/keys"

    @property
    def settings(self) -> Path:
        """What the role was told, and the version that it belongs to."""
        return self.root / "etc/unisat-update/settings.json"

    @property
    def station(self) -> Path:
        """What the station's settings program and its roles keep."""
        return self.root / "var/lib/unisat-station"

    @property
    def agent(self) -> Path:
        """The agent's configuration."""
        return self.root / "etc/unisat-agent/agent.toml"

    @property
    def boot(self) -> Path:
        """The boot partition, where a card has one."""
        return self.root / "boot/firmware"

    @property
    def run(self) -> Path:
        """What is gone after a restart."""
        return self.root / "run/unisat-update"


def sync_folder(folder: Path) -> None:
    """Puts the names in a folder on the disk."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def sync_all(folder: Path) -> None:
    """Puts all of the file system that a folder is on, on the disk.

    Raises:
        OSError: The disk reported an error.
    """
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # Python's os.sync has no result, and so hides a card that does not take what it is given.
        if ctypes.CDLL(None, use_errno=True).syncfs(number):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(folder))
    finally:
        os.close(number)


def make_folder(folder: Path) -> None:
    """Makes a folder that is on the disk when this returns."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def write(path: Path, text: str, mode: int = 0o600) -> None:
    """Writes a file whole or not at all, also when the power goes."""
    make_folder(path.parent)
    fresh = path.with_name(f".{path.name}.new")
    number = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(number, "w", encoding="utf-8") as file:
        os.fchmod(number, mode)
        file.write(text)
        file.flush()
        os.fsync(number)
    fresh.replace(path)
    sync_folder(path.parent)


def remove(path: Path) -> None:
    """Removes a file, if it is there, or a folder with all in it; gone also after a power cut."""
    if path.is_dir() and not path.is_symlink():
        # Under another name first: what is left of it by a power cut is taken for nothing else.
        going = path.with_name(f".{path.name}.old")
        shutil.rmtree(going, ignore_errors=True)
        path.rename(going)
        shutil.rmtree(going)
    else:
        path.unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        sync_folder(path.parent)


def free_bytes(folder: Path) -> int:
    """What is free on the disk of a folder that may be yet to be made."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
