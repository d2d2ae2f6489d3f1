"""The running parts, and the script that is played with them."""

from __future__ import annotations

import json
import secrets
import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

from rig import reserve_port
from rig.agent_config import write_config
from rig.demo.ending import DemoError, RefusedError, Stopper
from rig.demo.panel import Fault, Faults, Panel
from rig.demo.screen import DEV_IDS, Scene, Screen, Tally
from rig.judge import Verdict, judge, read_journal, read_records
from rig.kinto import BUCKET, Kinto
from rig.page import PageServer, is_built
from rig.processes import Process
from rig.valve import Mode, Valve

STATION: Final = "demo"
READER: Final = "reader"
INTERVAL_S: Final = 1.25
FAULTS: Final = ("--faults", "garbage,nan,missing,crlf")
# With buttons nothing is wrong until one is pressed, and then it is seen soon.
QUIET: Final = ("--probability", "0.5")
FLOW_S: Final = 11.0
CUT_S: Final = 12.0
# The agent waits out a back-off before it finds the hub back, mostly a few seconds. The end of the
# demo waits for the longest one.
DRAIN_S: Final = 20.0
END_S: Final = 45.0
UNPLUGGED_S: Final = 3.0
SETTLE_S: Final = 4.0
_TICK_S: Final = 0.25
# What systemd gives a service is not for the demo.
_HIDDEN: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "CREDENTIALS_DIRECTORY")

_Part = TypeVar("_Part")


class Demo:
    """The running parts, and the script that is played with them.

    Args:
        directory: Where its files lie.
        stack: Ends what it starts.
        note: Told the processes that it starts.
        screen: Where it shows what happens.
        stopper: Puts off an end while a process is started.
        first_port: The first of five ports; 0 takes free ones.
        buttons: Whether faults come from a page with buttons instead of the script.
    """

    def __init__(
        self,
        directory: Path,
        stack: ExitStack,
        note: Callable[[Path, Sequence[int]], None],
        *,
        screen: Screen,
        stopper: Stopper,
        first_port: int,
        buttons: bool,
    ) -> None:
        self._directory = directory
        self._stopper = stopper
        self._screen = screen
        self._stack = stack
        self._note = note
        self._passwords = {name: secrets.token_hex(12) for name in ("local", "hub", READER)}
        ports = [first_port and first_port + offset for offset in range(5)]
        self._local = _reserved(ports[0], lambda port: Kinto(directory, "local", port=port))
        stack.callback(self._local.close)
        self._hub = _reserved(ports[1], lambda port: Kinto(directory, "hub", port=port))
        stack.callback(self._hub.close)
        holder = stack.enter_context(_reserved(ports[2], reserve_port))
        self._status_url = f"http://127.0.0.1:{holder.getsockname()[1]}"
        self.page_url = ""
        """Where the page can be looked at; empty where it is not built."""
        if is_built():
            page = _reserved(ports[3], lambda port: PageServer(port, self._status_url))
            self.page_url = stack.enter_context(page).url
        self._valve = stack.enter_context(Valve("127.0.0.1", self._hub.port))
        self._journal = directory / "journal.jsonl"
        self._tally = Tally(self._journal)
        self._scene = Scene(time.monotonic())
        self._config = directory / "agent.toml"
        self._programs: list[Process] = []
        self._agent: Process | None = None
        self._satellite: Process | None = None
        self._gone_quiet = False
        self._clock_flag = directory / "clock-is-right"
        self._faults = Faults(self._buttons())
        self._panel: Panel | None = None
        if buttons:
            self._panel = _reserved(ports[4], lambda port: Panel(port, self._faults, self.page_url))

    def begin(self) -> None:
        """Starts everything and waits until packages can flow."""
        self._screen.show(self._scene)
        with self._stopper.hold():
            with ThreadPoolExecutor(2) as both:
                list(both.map(Kinto.start, (self._local, self._hub)))
            self._note_processes()
        self._local.provision_local(self._passwords["local"])
        self._hub.provision_hub(STATION, self._passwords["hub"], DEV_IDS)
        self._hub.provision_reader(READER, self._passwords[READER])
        self._write_config()
        self._agent = self._run("agent", "unisat_agent", "--config", str(self._config), "run")
        self._until("the agent starts", lambda: self._scene.status is not None, 20)
        if self._scene.status is None:
            _check("agent", self._agent)
            raise DemoError("the agent does not answer on its status port")
        self._satellite = self._run(
            "satellite", "unisat_agent.simulator.run", "--link", str(self._link),
            "--devices", ",".join(DEV_IDS), "--interval", str(INTERVAL_S),
            *(QUIET if self._panel else FAULTS), "--journal", str(self._journal),
        )  # fmt: skip
        if self._panel:
            # With its line it takes signals.
            self._until("the satellite starts", self._link.exists, 20)
            self._stack.enter_context(self._panel)

    def go_on(self) -> NoReturn:
        """Shows what happens until StoppedError, while faults are pressed and healed.

        Raises:
            DemoError: When a part fails.
        """
        while True:
            working = ", ".join(self._faults.working()).lower()
            self._for(working or "packages flow, until Ctrl-C", _TICK_S)

    def _buttons(self) -> list[Fault]:
        return [
            Fault(
                "nan",
                "Broken sensor (nan)",
                "Bad lines: more of them, each with its bytes and the reason. The value is missing "
                "in that package; the other values of it are stored.",
                lambda: self._signal(signal.SIGRTMIN),
                lambda: self._signal(signal.SIGRTMAX),
            ),
            Fault(
                "clock",
                "Wrong clock",
                "As after a power cut with no network: nobody vouches for the station's time. "
                "Clock: not synchronised. New packages are unsynced and wait for the hub, ten "
                "minutes at most; once healed they are corrected and sent.",
                self._clock_flag.unlink,
                self._clock_flag.touch,
            ),
            Fault(
                "cable",
                "Pulled cable",
                "The way of a package stands still at the port, and a sentence says what to do. "
                "The charts get a gap that stays: nobody heard what was sent meanwhile.",
                lambda: self._signal(signal.SIGUSR1),
                lambda: self._signal(signal.SIGUSR2),
            ),
            Fault(
                "network",
                "Network cut",
                "The way stands still at the hub, and only there: pending grows, the charts go "
                "on. Once healed, pending drains to 0 and nothing is missing at the hub.",
                lambda: self._valve.set(Mode.CUT),
                lambda: self._valve.set(Mode.OPEN),
            ),
        ]

    def _signal(self, number: signal.Signals) -> None:
        if self._satellite is not None and self._satellite.running():
            self._satellite.send(number)

    def play(self) -> Verdict:
        """Plays the script.

        Raises:
            DemoError: When a part fails.
        """
        satellite = self._satellite
        if satellite is None:
            raise DemoError("the demo has not begun")
        self._for("packages flow: device → agent → local Kinto and hub", FLOW_S)

        self._valve.set(Mode.CUT)
        self._for("the hub is cut off: the backlog grows", CUT_S)
        backlog = self._scene.sink("hub", "pending")
        self._valve.set(Mode.OPEN)
        self._until("the hub can be reached again: the backlog drains", self._drained, DRAIN_S)

        satellite.send(signal.SIGUSR1)
        self._for("the cable is unplugged", UNPLUGGED_S)
        satellite.send(signal.SIGUSR2)
        self._for("the cable is plugged in again", SETTLE_S)
        if not isinstance(backlog, int) or backlog < 1:
            raise DemoError(f"the hub was cut off, and yet the agent's backlog was {backlog}")

        self._gone_quiet = True
        satellite.send(signal.SIGTERM)
        self._until(
            "the satellite falls silent: the last packages are delivered",
            lambda: not satellite.running() and self._drained(),
            END_S,
        )
        deadline = time.monotonic() + SETTLE_S
        while not (verdict := self._judge()).good and time.monotonic() < deadline:
            # What the satellite sent last may be on its way still.
            self._for("the records are compared with what was sent", _TICK_S)
        return verdict

    def where_to_look(self) -> str:
        """The addresses of the running parts, and how to read the hub."""
        records = f"{self._hub.url}/buckets/{BUCKET}/collections/{DEV_IDS[0]}/records?_limit=3"
        return "\n".join(
            [
                f"page         {self.page_url or 'not built: make dashboard builds it'}",
                f"faults       {self._panel.url if self._panel else 'only with --forever'}",
                f"local Kinto  {self._local.url}",
                f"hub          {self._hub.url}",
                f"agent        {self._status_url}/status  /healthz  /metrics",
                f"serial port  {self._link}",
                f"records      curl -u {READER}:{self._passwords[READER]} '{records}'",
            ]
        )

    def _run(self, name: str, *arguments: str) -> Process:
        """Starts a module of Python."""
        with self._stopper.hold():
            process = Process(
                [sys.executable, "-m", *arguments],
                self._directory / f"{name}.log",
                environment=dict.fromkeys(_HIDDEN),
                # A Ctrl-C at the terminal is for the demo, which ends its processes in order.
                own_session=True,
            )
            self._stack.callback(process.end, signal.SIGTERM, 10.0)
            self._programs.append(process)
            self._note_processes()
        return process

    def _write_config(self) -> None:
        tables = {
            "station": {"name": STATION},
            "spool": {"path": f"{self._directory}/spool.db"},
            "[serial]": {"port": str(self._link)},
            "local": {"url": self._local.url},
            "hub": {"url": f"http://127.0.0.1:{self._valve.port}/v1", "user": STATION},
            "clock": {"synchronised": str(self._clock_flag)},
            "status": {"listen": self._status_url.removeprefix("http://")},
        }
        passwords = {sink: self._passwords[sink] for sink in ("local", "hub")}
        write_config(self._config, tables, passwords)
        self._clock_flag.touch()

    @property
    def _link(self) -> Path:
        return self._directory / "usb-UniSat"

    def _note_processes(self) -> None:
        pids = [self._local.pid, self._hub.pid, *(one.pid for one in self._programs)]
        self._note(self._directory, [pid for pid in pids if pid is not None])

    def _judge(self) -> Verdict:
        return judge(
            read_journal(self._journal),
            read_records(self._local.client(), DEV_IDS),
            read_records(self._hub.client(), DEV_IDS),
        )

    def _drained(self) -> bool:
        return all(self._scene.sink(name, "pending") == 0 for name in ("local", "hub"))

    def _for(self, now: str, seconds: float) -> None:
        self._until(now, lambda: False, seconds)

    def _until(self, now: str, done: Callable[[], bool], seconds: float) -> None:
        """Shows what happens until a condition holds, at most so many seconds."""
        self._scene.now = now
        deadline = time.monotonic() + seconds
        while True:
            self._look()
            if done() or (left := deadline - time.monotonic()) <= 0:
                return
            time.sleep(min(_TICK_S, left))

    def _look(self) -> None:
        """Takes in the state of all parts, and shows it."""
        for kinto in (self._local, self._hub):
            if kinto.pid is None:
                raise DemoError(f"the Kinto '{kinto.name}' ended by itself, see {kinto.log}")
        if self._agent is not None:
            _check("agent", self._agent)
        if self._satellite is not None and not self._gone_quiet:
            _check("satellite", self._satellite)
        self._scene.sent = self._tally.update()
        with suppress(OSError, ValueError):
            self._scene.status = _read_json(f"{self._status_url}/status")
        self._screen.show(self._scene)


def _check(name: str, process: Process) -> None:
    """Raises DemoError when the process has ended."""
    if (code := process.exit_code) is not None:
        tail = process.tail().strip().splitlines()[-15:]
        how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        raise DemoError("\n".join([f"the {name} ended by itself with {how}:", *tail]))


def _read_json(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - the agent's own address
        return json.load(answer)


def _reserved(port: int, make: Callable[[int], _Part]) -> _Part:
    try:
        return make(port)
    except OSError as error:
        raise RefusedError(
            f"port {port} of 127.0.0.1 cannot be used ({error.strerror}): end the program that has "
            "it, or choose others with --port"
        ) from error
