"""A small disk that a test can fill to the last byte."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from rig.processes import program


class SmallDisk:
    """A tmpfs of a given size in a mount namespace of its own, gone with its keeper process.

    Args:
        directory: Where it is; made here.
        megabytes: Its size.
        temporary: Whether /var/tmp is on it too.
    """

    def __init__(self, directory: Path, megabytes: int, *, temporary: bool = False) -> None:
        if os.geteuid() != 0:
            raise PermissionError("a small disk for the spool can only be mounted by root")
        directory.mkdir()
        self._directory = directory
        mount = f"mount -t tmpfs -o size={megabytes}m,mode=0755 unisat-rig '{directory}'"
        if temporary:
            mount += f" && mount --bind '{directory}' /var/tmp"
        self._keeper = subprocess.Popen(
            [
                *(program("setpriv"), "--pdeathsig", "KILL", "--"),
                *(program("unshare"), "--mount", "--propagation", "private", "--"),
                *("sh", "-c", f"{mount} && echo mounted && exec sleep infinity"),
            ],
            stdout=subprocess.PIPE,
        )
        assert self._keeper.stdout is not None
        if self._keeper.stdout.readline() != b"mounted\n":
            raise RuntimeError(f"can't mount a tmpfs on {directory}")

    def inside(self, command: Sequence[str]) -> list[str]:
        """The command as it runs with the disk mounted."""
        namespace = f"--mount=/proc/{self._keeper.pid}/ns/mnt"
        return [program("nsenter"), namespace, "--wdns=/", "--", *command]

    def outside(self) -> Path:
        """The disk's directory as this process reaches it."""
        return Path(f"/proc/{self._keeper.pid}/root{self._directory}")

    def fill(self) -> Path:
        """Leaves not one free block; returns the file that does."""
        ballast = self.outside() / "ballast"
        with ballast.open("ab", buffering=0) as file:
            for size in (65536, 4096, 512):
                with contextlib.suppress(OSError):
                    while file.write(bytes(size)) == size:
                        pass
        return ballast

    def close(self) -> None:
        """Ends the keeper: with the last process inside, the disk goes."""
        self._keeper.kill()
        self._keeper.communicate()
