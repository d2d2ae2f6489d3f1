"""Child processes of the rig: started, watched and ended in one way; and where their files go."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

ADMIN = "postgres"
_PREFIX = "unisat-rig-"


class MissingProgramError(RuntimeError):
    """A program of the system that the rig needs is not installed."""


def program(name: str) -> str:
    """The path of a program of the system.

    Raises:
        MissingProgramError: with the Debian package to install.
    """
    if found := shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"):
        return found
    raise MissingProgramError(f"{name} is not installed: sudo apt-get install {name}")


def sweep() -> None:
    """Removes the directories of runs whose process is gone."""
    for directory in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        pid = directory.name.removeprefix(_PREFIX).split("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            shutil.rmtree(directory, ignore_errors=True)


def run_directory() -> Path:
    """A fresh directory that every user may enter, swept by a later run if this one dies."""
    directory = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
    directory.chmod(0o755)
    return directory


def children(pid: int) -> list[int]:
    """The direct children of a process; empty when it is gone."""
    found: list[int] = []
    for task in Path("/proc", str(pid), "task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(word) for word in task.read_text().split()]
    return found


def unprivileged(pdeathsig: str) -> list[str]:
    """Words to put before a command so that it isn't root and doesn't outlive this process."""
    words = [program("setpriv"), "--pdeathsig", pdeathsig]
    if os.geteuid() == 0:
        words += [f"--reuid={ADMIN}", f"--regid={ADMIN}", "--init-groups"]
    return [*words, "--"]


class Process:
    """One program as a child process with its output in a file.

    Args:
        command: Its words.
        log: The file that its output is added to; its folder is the working directory.
        environment: Variables to set, or with None to leave out.
        own_session: Whether a Ctrl-C at the terminal is not for it.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        environment: Mapping[str, str | None] | None = None,
        own_session: bool = False,
    ) -> None:
        self.log = log
        self._output: IO[bytes] = log.open("ab")
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
            env={
                name: value
                for name, value in {**os.environ, **(environment or {})}.items()
                if value is not None
            },
            start_new_session=own_session,
        )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def send(self, number: signal.Signals) -> None:
        """Sends a signal, if it runs."""
        self._process.send_signal(number)

    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def end(self, number: signal.Signals, deadline_s: float = 30.0) -> int:
        """Sends a signal and waits for the end; SIGKILL when the deadline has passed.

        Returns:
            The exit code, negative for a signal.
        """
        if self.running():
            self._process.send_signal(number)
        try:
            self._process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._output.close()
        return self._process.returncode

    def tail(self) -> str:
        """The end of its output, for error messages."""
        try:
            return self.log.read_text(errors="replace")[-2000:]
        except OSError:
            return "(it wrote no log)"


def alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie that someone else has to collect."""
    try:
        state = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
