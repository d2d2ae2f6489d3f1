"""A satellite of the rig: `unisat-agent simulate` as a process, and its journal of what it sent."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rig.judge import Key, read_journal
from rig.oracle import OracleError
from rig.processes import Process, program
from rig.wait import wait_until
from unisat_agent.simulator.satellite import Entry

SIGNAL_UNPLUG = signal.SIGUSR1
SIGNAL_PLUG = signal.SIGUSR2


@dataclass(slots=True)
class Satellite:
    """A running `unisat-agent simulate`.

    Attributes:
        devices: its devIDs, used by no other satellite of the station.
        journal: what it sent.
        excused: packages that a kill of the agent may have cost.
    """

    devices: tuple[str, ...]
    journal: Path
    process: Process
    excused: set[Key] = field(default_factory=set)

    def entries(self) -> dict[Key, Entry]:
        """The journal so far, in the order of sending."""
        return read_journal(self.journal) if self.journal.exists() else {}

    def signal(self, number: signal.Signals) -> None:
        """SIGNAL_UNPLUG or SIGNAL_PLUG."""
        os.kill(self.process.pid, number)

    def excuse_after(self, committed: Key | None) -> None:
        """Excuses what was sent after the package that the agent committed last, if any."""
        keys = list(self.entries())
        # A package that the spool does not know may be followed by one whose journal line is
        # not written yet: the satellite writes it after the bytes.
        self.excused.update(keys[keys.index(committed) + 1 :] if committed in keys else keys)
        if keys:
            position = self.devices.index(keys[-1][0])
            wrapped = position + 1 == len(self.devices)
            self.excused.add((self.devices[0 if wrapped else position + 1], keys[-1][1] + wrapped))

    @contextlib.contextmanager
    def flying(self, link: Path, *, to_the_end: bool) -> Iterator[None]:
        """Waits for its line, and ends it with the block, or lets it send all before.

        Raises:
            OracleError: It failed.
        """
        process = self.process
        try:
            wait_until(lambda: link.exists() or not process.running(), 30, "the satellite's line")
            yield
            if to_the_end:
                wait_until(lambda: not process.running(), 600, "the satellite to have sent all")
        except BaseException:
            process.end(signal.SIGKILL)
            raise
        if process.end(signal.SIGTERM) != 0:
            raise OracleError(f"the satellite failed: {process.tail()}")


def launch(
    directory: Path,
    number: int,
    link: Path,
    devices: tuple[str, ...],
    interval_s: float,
    *,
    count: int | None,
    seed: int,
    faults: Sequence[str],
) -> Satellite:
    """Starts a satellite on a line of its own; see Station.satellite."""
    journal = directory / f"journal{number}"
    words = ["--link", str(link), "--journal", str(journal), "--seed", str(seed)]
    words += ["--devices", ",".join(devices), "--interval", str(interval_s)]
    words += ["--count", str(count)] if count is not None else []
    words += ["--faults", ",".join(faults)] if faults else []
    process = Process(
        [
            *(program("setpriv"), "--pdeathsig", "KILL", "--"),
            *(sys.executable, "-m", "unisat_agent", "simulate", *words),
        ],
        directory / f"satellite{number}.log",
    )
    return Satellite(devices, journal, process)
