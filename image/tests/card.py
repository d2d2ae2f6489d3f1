"""The card: an image grown to the size of a small SD card, edited and read as on any computer."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

SECTOR_BYTES = 512
CARD_BYTES = 4 << 30
_MBR_TABLE = 446
_MBR_ENTRY_BYTES = 16


class CardError(AssertionError):
    """The card is not what it should be."""


@dataclass(frozen=True, slots=True)
class Partition:
    """Where a partition lies, in bytes."""

    start: int
    length: int


def run(*command: str, stdin: bytes | None = None, accept: tuple[int, ...] = (0,)) -> bytes:
    """Runs a program and returns what it printed.

    Raises:
        CardError: With all that it said, when its exit code is not accepted.
    """
    done = subprocess.run(command, input=stdin, check=False, capture_output=True)
    if done.returncode not in accept:
        said = (done.stdout + done.stderr).decode(errors="replace")
        raise CardError(f"{' '.join(command)}: exit {done.returncode}\n{said}")
    return done.stdout


def partitions(image: Path) -> list[Partition]:
    """The primary partitions of an MBR."""
    with image.open("rb") as file:
        sector = file.read(SECTOR_BYTES)
    if sector[510:] != b"\x55\xaa":
        raise CardError(f"{image}: there is no partition table")
    found = []
    for number in range(4):
        entry = sector[_MBR_TABLE + number * _MBR_ENTRY_BYTES :][:_MBR_ENTRY_BYTES]
        start, length = (int.from_bytes(entry[at : at + 4], "little") for at in (8, 12))
        if length:
            found.append(Partition(start * SECTOR_BYTES, length * SECTOR_BYTES))
    return found


def without_boot(table: bytes) -> bytes:
    """The table with its first partition left out; the others keep their numbers."""
    end = _MBR_TABLE + _MBR_ENTRY_BYTES
    return table[:_MBR_TABLE] + bytes(_MBR_ENTRY_BYTES) + table[end:]


class Card:
    """An image file; `boot` is its FAT partition, `root` its ext4 partition."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def flash(cls, image: Path, path: Path) -> Card:
        """Writes an image to a new card of 4 GiB; the image stays as it is."""
        run("cp", "--sparse=always", "--reflink=auto", str(image), str(path))
        with path.open("r+b") as file:
            file.truncate(CARD_BYTES)
        return cls(path)

    @property
    def table(self) -> bytes:
        """The sector with the partition table."""
        with self.path.open("rb") as file:
            return file.read(SECTOR_BYTES)

    @property
    def boot(self) -> Partition:
        """The boot partition."""
        return partitions(self.path)[0]

    @property
    def root(self) -> Partition:
        """The root partition."""
        return partitions(self.path)[1]

    @property
    def _drive(self) -> str:
        return f"{self.path}@@{self.boot.start}"

    def names(self) -> list[str]:
        """All files of the boot partition, as paths from its top."""
        listed = run("mdir", "-i", self._drive, "-/", "-b", "-a", "::").decode()
        return [line.removeprefix("::/") for line in listed.splitlines() if line.strip()]

    def read(self, name: str) -> str:
        """A text file of the boot partition."""
        return run("mtype", "-i", self._drive, f"::{name}").decode()

    def extract(self, name: str, to: Path) -> Path:
        """Copies a file of the boot partition to the host."""
        run("mcopy", "-n", "-o", "-i", self._drive, f"::{name}", str(to))
        return to

    def write(self, name: str, text: str) -> None:
        """Writes a file to the boot partition, as a person does on their own computer."""
        run("mcopy", "-D", "o", "-i", self._drive, "-", f"::{name}", stdin=text.encode())

    def debugfs(self, request: str) -> bytes:
        """Looks into the root partition without mounting it.

        Raises:
            CardError: Where it complains; its exit code is 0 then as well.
        """
        where = f"{self.path}?offset={self.root.start}"
        done = subprocess.run(["debugfs", "-R", request, where], check=False, capture_output=True)
        complaints = done.stderr.decode(errors="replace").splitlines()[1:]  # its version is first
        if done.returncode or complaints:
            raise CardError(f"debugfs {request}: {complaints}")
        return done.stdout

    def read_root(self, path: str) -> bytes:
        """A file of the root partition."""
        return self.debugfs(f"cat {path}")

    def check(self, scratch: Path) -> None:
        """Both file systems are clean.

        Raises:
            CardError: With what the checker said.
        """
        run("e2fsck", "-f", "-n", f"{self.path}?offset={self.root.start}")
        copy = scratch / "boot.fat"
        with self.path.open("rb") as image, copy.open("wb") as file:
            image.seek(self.boot.start)
            left = self.boot.length
            while left:
                piece = image.read(min(left, 1 << 20))
                if not piece:
                    raise CardError(f"{self.path} ends inside its boot partition")
                file.write(piece)
                left -= len(piece)
        try:
            run("fsck.fat", "-n", str(copy))
        finally:
            copy.unlink()
