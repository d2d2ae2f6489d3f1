"""The whole telemetry path in one minute: `make demo`.

A simulated satellite (a process, on a pty) → the agent (a process) → a local Kinto and a hub (two
processes, memory backend). Between the agent and the hub stands a valve. On the way the hub is cut
off for a while, and the cable is pulled once. At the end the judge compares what the satellite sent
with what both Kintos hold; its verdict is the last line, and the exit code is 0 when every package
is in both exactly once.

Exit codes: 0 all well, 1 not, 2 could not begin, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final, TypeVar

from kinto_http import KintoException

from rig import reserve_port
from rig.judge import Verdict, judge, read_journal, read_records
from rig.kinto import BUCKET, Kinto, KintoError
from rig.valve import Mode, Valve
from unisat_agent.satellite import Entry

STATION: Final = "demo"
READER: Final = "reader"
DEV_IDS: Final = ("sim01", "sim02")
INTERVAL_S: Final = 1.25
FAULTS: Final = "garbage,nan,missing,crlf"
FLOW_S: Final = 11.0
CUT_S: Final = 12.0
# The agent waits out a back-off before it finds the hub back, mostly a few seconds. The end of the
# demo waits for the longest one.
DRAIN_S: Final = 20.0
END_S: Final = 45.0
UNPLUGGED_S: Final = 3.0
SETTLE_S: Final = 4.0
_TICK_S: Final = 0.25
_PLAIN_EVERY_S: Final = 3.0
_STOPPED: Final = 130

Status = dict[str, Any]
_Part = TypeVar("_Part")


class DemoError(Exception):
    """The demo can't go on; one sentence that says why and what to do."""


class RefusedError(DemoError):
    """The demo can't even begin."""


class StoppedError(BaseException):
    """Ctrl-C, or an end asked for in another way."""


class Stopper:
    """Turns signals into StoppedError, but not where that would leave a process behind."""

    def __init__(self) -> None:
        self._held = False
        self._asked = False

    def install(self) -> None:
        """Takes the signals that ask for an end."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def ignore(self) -> None:
        """From now on the parts are being ended: another Ctrl-C must not leave half of them."""
        self._held = True

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Puts off the end while a process is started and noted."""
        self._held = True
        yield
        self._held = False
        if self._asked:
            raise StoppedError

    def _on_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - signal's
        self._asked = True
        if not self._held:
            raise StoppedError


# --- one demo at a time -------------------------------------------------------------------------


def lock_path() -> Path:
    """Where a running demo of this user leaves its mark."""
    return Path(tempfile.gettempdir()) / f"unisat-demo-{os.getuid()}.lock"


@contextlib.contextmanager
def only_demo(path: Path) -> Iterator[Callable[[Path, Sequence[int]], None]]:
    """Holds the lock file while the demo runs; yields a function that notes its processes there.

    Raises:
        RefusedError: When another demo runs, left processes behind, or the file can't be written.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise RefusedError(
            f"cannot write {path}: {error.strerror}; set TMPDIR to a folder that you can write"
        ) from error
    with os.fdopen(descriptor, "r+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = _noted(file.read())["pid"]
            raise RefusedError(
                f"another demo is running (process {pid}): end it with Ctrl-C or 'kill {pid}'"
            ) from None
        if left := _left_behind(_noted(file.read())):
            pids = " ".join(map(str, left))
            raise RefusedError(
                f"an old demo left processes behind ({path}): end them with 'kill {pids}'"
            )

        def note(directory: Path, pids: Sequence[int]) -> None:
            file.seek(0)
            file.truncate()
            json.dump({"pid": os.getpid(), "directory": str(directory), "children": pids}, file)
            file.flush()

        note(path, [])
        try:
            yield note
        finally:
            file.truncate(0)


def _noted(text: str) -> dict[str, Any]:
    with suppress(ValueError):
        noted = json.loads(text)
        if isinstance(noted, dict) and noted.keys() >= {"pid", "directory", "children"}:
            return noted
    return {"pid": "?", "directory": "", "children": []}


def _left_behind(noted: dict[str, Any]) -> list[int]:
    """Those processes of an earlier demo that still run, told by their command lines."""
    left = []
    for pid in noted["children"]:
        with suppress(OSError):
            if noted["directory"].encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                left.append(pid)
    return left


# --- what is shown ------------------------------------------------------------------------------


@dataclass(slots=True)
class Tally:
    """Reads the journal as it grows: what the satellite has sent so far."""

    path: Path
    expected: int = 0
    _offset: int = 0
    _seen: dict[tuple[str, int], bool] = field(default_factory=dict)

    def update(self) -> int:
        """Reads what is new; returns the number of packages that must be stored."""
        with suppress(FileNotFoundError), self.path.open("rb") as file:
            file.seek(self._offset)
            whole, newline, _ = file.read().rpartition(b"\n")
            self._offset += len(whole + newline)
            for line in whole.splitlines():
                entry = Entry.from_json(line.decode())
                key = (entry.dev_id, entry.packet)
                self.expected += bool(entry.expected) - self._seen.get(key, False)
                self._seen[key] = bool(entry.expected)
        return self.expected


@dataclass(slots=True)
class Scene:
    """All that one picture shows."""

    started: float
    now: str = "starting"
    sent: int = 0
    status: Status | None = None

    def sink(self, name: str, key: str) -> Any:
        """A figure of a sink, `-` while the agent has not told it."""
        return ((self.status or {}).get("sinks", {}).get(name) or {}).get(key, "-")

    def line(self) -> str:
        """The scene in one line."""
        return (
            f"{time.monotonic() - self.started:4.0f} s  sent {self.sent}, "
            f"local acknowledged {self.sink('local', 'acked')} "
            f"pending {self.sink('local', 'pending')}, "
            f"hub acknowledged {self.sink('hub', 'acked')} pending {self.sink('hub', 'pending')}, "
            f"quarantine {self._spool('quarantined')}"
        )

    def picture(self) -> list[str]:
        """The scene as lines of a terminal."""
        status = self.status or {}
        ports = ", ".join(
            f"{port.get('state', '?')} {port.get('detail') or ''}".strip()
            for port in status.get("ports", [])
        )
        return [
            f"UniSat, {time.monotonic() - self.started:.0f} s",
            f"now:  {self.now}",
            "",
            f"  satellite    {self.sent} packages sent by {' and '.join(DEV_IDS)}",
            f"  serial port  {ports or '-'}",
            f"  agent        {status.get('health', '-')}",
            f"  quarantine   {self._spool('quarantined')} bad lines",
            "",
            "               acknowledged  pending  state",
            *(
                f"  {name:<11}  {self.sink(name, 'acked'):>12}  {self.sink(name, 'pending'):>7}  "
                f"{self.sink(name, 'state')} {self.sink(name, 'detail') or ''}"
                for name in ("local", "hub")
            ),
            "",
            f"  last record  {_brief(status.get('last_record') or {})}",
        ]

    def _spool(self, key: str) -> Any:
        return (self.status or {}).get("spool", {}).get(key, "-")


def _brief(record: dict[str, Any]) -> str:
    shown = ("devID", "packet", "received_at", "temperature", "humidity", "pressure", "pm25")
    return "  ".join(f"{name}={record[name]}" for name in shown if name in record) or "-"


class Screen:
    """Redraws the picture on a terminal; prints a line now and then where there is none."""

    def __init__(self) -> None:
        self._live = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._drawn = 0
        self._said = ""
        self._next_line = 0.0

    def show(self, scene: Scene) -> None:
        """Shows the scene."""
        if not self._live:
            if scene.now != self._said:
                print(f"-- {scene.now}", flush=True)
            elif time.monotonic() < self._next_line:
                return
            print(scene.line(), flush=True)
            self._said = scene.now
            self._next_line = time.monotonic() + _PLAIN_EVERY_S
            return
        columns = shutil.get_terminal_size().columns - 1
        lines = [line[:columns] for line in scene.picture()]
        up = f"\x1b[{self._drawn}A" if self._drawn else "\x1b[?25l"
        sys.stdout.write(f"\r{up}" + "".join(f"\x1b[2K{line}\n" for line in lines))
        sys.stdout.flush()
        self._drawn = len(lines)

    def say(self, text: str) -> None:
        """Prints a text that stays."""
        self.release()
        print(text, flush=True)

    def release(self) -> None:
        """Leaves the picture as it is and gives the cursor back."""
        if self._drawn:
            sys.stdout.write("\x1b[?25h")
            sys.stdout.flush()
            self._drawn = 0


# --- the parts ----------------------------------------------------------------------------------


@dataclass(slots=True)
class Program:
    """A process of the demo, with its log."""

    name: str
    log: Path
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, name: str, directory: Path, *arguments: str) -> Program:
        """Starts a module of Python."""
        log = directory / f"{name}.log"
        hidden = {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "CREDENTIALS_DIRECTORY"}
        with log.open("ab") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env={key: value for key, value in os.environ.items() if key not in hidden},
                # A Ctrl-C at the terminal is for the demo, which ends its processes in order.
                start_new_session=True,
            )
        return cls(name, log, process)

    def check(self) -> None:
        """Raises DemoError when the process has ended."""
        if (code := self.process.poll()) is not None:
            said = self.log.read_text(errors="replace").strip().splitlines()[-15:]
            how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
            raise DemoError("\n".join([f"the {self.name} ended by itself with {how}:", *said]))

    def stop(self, timeout_s: float = 10.0) -> None:
        """Ends the process in order, or by force when it takes too long."""
        with suppress(ProcessLookupError):
            self.process.terminate()
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Demo:
    """The running parts, and the script that is played with them."""

    def __init__(
        self,
        directory: Path,
        stack: ExitStack,
        note: Callable[[Path, Sequence[int]], None],
        *,
        screen: Screen,
        stopper: Stopper,
        first_port: int,
    ) -> None:
        self._directory = directory
        self._stopper = stopper
        self._screen = screen
        self._stack = stack
        self._note = note
        self._passwords = {name: secrets.token_hex(12) for name in ("local", "hub", READER)}
        ports = [first_port and first_port + offset for offset in range(3)]
        self._local = _reserved(ports[0], lambda port: Kinto(directory, "local", port=port))
        stack.callback(self._local.close)
        self._hub = _reserved(ports[1], lambda port: Kinto(directory, "hub", port=port))
        stack.callback(self._hub.close)
        holder = stack.enter_context(_reserved(ports[2], reserve_port))
        self._status_url = f"http://127.0.0.1:{holder.getsockname()[1]}"
        self._valve = stack.enter_context(Valve("127.0.0.1", self._hub.port))
        self._journal = directory / "journal.jsonl"
        self._tally = Tally(self._journal)
        self._scene = Scene(time.monotonic())
        self._config = directory / "agent.toml"
        self._programs: list[Program] = []
        self._agent: Program | None = None
        self._satellite: Program | None = None
        self._gone_quiet = False

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
            self._agent.check()
            raise DemoError("the agent does not answer on its status port")
        self._satellite = self._run(
            "satellite", "unisat_agent.simulate", "--link", str(self._link),
            "--devices", ",".join(DEV_IDS), "--interval", str(INTERVAL_S),
            "--faults", FAULTS, "--journal", str(self._journal),
        )  # fmt: skip

    def play(self, *, forever: bool) -> Verdict:
        """Plays the script; where it goes on for ever, only StoppedError ends it.

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

        satellite.process.send_signal(signal.SIGUSR1)
        self._for("the cable is unplugged", UNPLUGGED_S)
        satellite.process.send_signal(signal.SIGUSR2)
        self._for("the cable is plugged in again", SETTLE_S)
        if not isinstance(backlog, int) or backlog < 1:
            raise DemoError(f"the hub was cut off, and yet the agent's backlog was {backlog}")
        if forever:
            while True:
                self._for("packages flow, until Ctrl-C", 3600)

        self._gone_quiet = True
        satellite.process.terminate()
        self._until(
            "the satellite falls silent: the last packages are delivered",
            lambda: satellite.process.poll() is not None and self._drained(),
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
                f"local Kinto  {self._local.url}",
                f"hub          {self._hub.url}",
                f"agent        {self._status_url}/status  /healthz  /metrics",
                f"serial port  {self._link}",
                f"records      curl -u {READER}:{self._passwords[READER]} '{records}'",
            ]
        )

    def _run(self, name: str, *arguments: str) -> Program:
        with self._stopper.hold():
            program = Program.start(name, self._directory, *arguments)
            self._stack.callback(program.stop)
            self._programs.append(program)
            self._note_processes()
        return program

    def _write_config(self) -> None:
        for sink in ("local", "hub"):
            secret = self._directory / f"{sink}.password"
            secret.touch(mode=0o600)
            secret.write_text(self._passwords[sink])
        self._config.write_text(
            f'[station]\nname = "{STATION}"\n'
            f'[spool]\npath = "{self._directory}/spool.db"\n'
            f'[[serial]]\nport = "{self._link}"\n'
            f'[local]\nurl = "{self._local.url}"\n'
            f'password_file = "{self._directory}/local.password"\n'
            f'[hub]\nurl = "http://127.0.0.1:{self._valve.port}/v1"\nuser = "{STATION}"\n'
            f'password_file = "{self._directory}/hub.password"\n'
            '[clock]\nsynchronised = "always"\n'
            f'[status]\nlisten = "{self._status_url.removeprefix("http://")}"\n'
        )

    @property
    def _link(self) -> Path:
        return self._directory / "usb-UniSat"

    def _note_processes(self) -> None:
        pids = [self._local.pid, self._hub.pid, *(one.process.pid for one in self._programs)]
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
            self._agent.check()
        if self._satellite is not None and not self._gone_quiet:
            self._satellite.check()
        self._scene.sent = self._tally.update()
        with suppress(OSError, ValueError):
            self._scene.status = _read_json(f"{self._status_url}/status")
        self._screen.show(self._scene)


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


# --- the command --------------------------------------------------------------------------------


def _port(text: str) -> int:
    if not text.isdecimal() or not 1024 <= int(text) <= 65533:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 1024 to 65533")
    return int(text)


def _complain(text: str) -> None:
    sys.stdout.flush()
    sys.stderr.write(f"demo: {text}\n")


def _run(options: argparse.Namespace, screen: Screen, stopper: Stopper, stack: ExitStack) -> int:
    """Sets up, plays and judges; what it started is ended with the stack."""
    note = stack.enter_context(only_demo(lock_path()))
    directory = Path(tempfile.mkdtemp(prefix="unisat-demo-"))
    logs = stack.enter_context(ExitStack())
    logs.callback(shutil.rmtree, directory, ignore_errors=True)
    with ExitStack() as parts:
        parts.callback(screen.release)
        try:
            demo = Demo(
                directory, parts, note, screen=screen, stopper=stopper, first_port=options.port
            )
            demo.begin()
            if options.forever:
                screen.say(demo.where_to_look())
            verdict = demo.play(forever=options.forever)
        except (DemoError, KintoError, KintoException, OSError) as error:
            if isinstance(error, RefusedError):
                raise
            logs.pop_all()
            raise DemoError(f"{error}\nthe logs are in {directory}") from error
        finally:
            stopper.ignore()
    print(verdict, flush=True)
    if verdict.good:
        return 0
    logs.pop_all()
    _complain(f"{verdict.reason()}\nthe journal and the logs are in {directory}")
    return 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demo; the exit codes are in the module's text."""
    parser = argparse.ArgumentParser(
        prog="make demo", description="The whole telemetry path with a simulated satellite."
    )
    parser.add_argument("--forever", action="store_true", help="keep running until Ctrl-C")
    parser.add_argument(
        "--port",
        type=_port,
        default=0,
        help="local Kinto, hub and agent listen on this port and the next two (default: free ones)",
    )
    options = parser.parse_args(arguments)
    stopper = Stopper()
    stopper.install()
    screen = Screen()
    try:
        with ExitStack() as stack:
            return _run(options, screen, stopper, stack)
    except StoppedError:
        print("stopped", flush=True)
        return _STOPPED
    except RefusedError as error:
        _complain(str(error))
        return 2
    except (DemoError, OSError) as error:
        _complain(str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main())
