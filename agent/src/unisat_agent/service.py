"""The running agent: its threads, and the one loop that looks after them.

Three jobs, each in threads of its own: serial (one a port: read, decode, commit to the spool),
store (spool → local Kinto) and sync (spool → hub, and reconcile). A thread that ends with an
unforeseen error is started again, and takes no other with it.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unisat_agent import __version__
from unisat_agent.clock import Clock, SystemClock
from unisat_agent.config import Config
from unisat_agent.delivery import Courier, SinkState
from unisat_agent.errors import SpoolCorruptError, SpoolError
from unisat_agent.face import Face
from unisat_agent.intake import Intake
from unisat_agent.kinto import KintoClient, TransportError
from unisat_agent.notice import Notices
from unisat_agent.reader import PortReader, State
from unisat_agent.reconcile import Reconciler, Report
from unisat_agent.spool_repair import mark_suspect, open_spool, set_aside
from unisat_agent.systemd import notify
from unisat_agent.worker import Worker

TICK_S = 1.0
TIDY_S = 60.0
STOP_S = 4.5
RECONCILE_S = 24 * 3600.0
RECONCILE_RETRY_S = 300.0
# Longer than any request may take (config: 30 s to connect and twice 60 s to be answered), so that
# only a thread that really hangs counts as hanging.
STALL_S = 180.0
CLOCK_STEP_MS = 2000
# Of what others on the host have to tell.
NOTICES_MAX = 20
NOTICE_MAX_CHARACTERS = 300
END_SIGNALS = (signal.SIGTERM, signal.SIGINT)

EXIT_OK = 0
EXIT_SPOOL_DAMAGED = 3

RECONCILE_ASKED = "reconcile.asked"
RECONCILE_ANSWER = "reconcile.answer"

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Reconciling:
    """When the sinks were compared, and when they are to be compared next (monotonic)."""

    due_at: float = 0.0
    asked: str | None = None
    last: Report | None = None
    failure: str = ""


class Service:
    """The agent as a process.

    Args:
        config: What it was told.
        clock: The host's, unless a test brings its own.

    Raises:
        SpoolError: The spool can't be used; SpoolBusyError when another agent has it.
    """

    def __init__(self, config: Config, clock: Clock | None = None) -> None:
        self.config = config
        self.clock = clock or SystemClock(config.clock_synchronised)
        self.notices = Notices(_log)
        self.reconciling = Reconciling()
        self._stop = threading.Event()
        self._exit = EXIT_OK
        self._offset_ms = self._wall_offset_ms()
        self.clock_steps = 0
        self.spool = open_spool(
            config.spool_path,
            [sink.name for sink in config.sinks],
            self.clock.boot_id,
            config.spool_max_bytes,
        )
        self.intake = Intake(self.spool, self.clock, config.devices, self._spool_is_damaged)
        self.couriers = [
            Courier(
                self.spool,
                KintoClient(sink),
                self.clock,
                self._stop,
                hold_s=config.hold_s if sink.name == "hub" else 0.0,
                on_idle=self._maybe_reconcile if sink.name == "hub" else None,
            )
            for sink in config.sinks
        ]
        self.workers: list[Worker] = []
        for courier, name in zip(self.couriers, ("store", "sync"), strict=False):
            self.workers.append(self._worker(name, courier.run))
        self.readers: list[PortReader] = []
        for number, port in enumerate(config.ports):
            worker = self._worker(f"serial-{number}", self._read_job(number))
            self.readers.append(PortReader(port, self.intake, self._stop, worker.beat))
            self.workers.append(worker)

    def run(self) -> int:
        """Works until SIGTERM or SIGINT.

        Returns:
            The exit code.

        Raises:
            AgentError: The status address can't be used.
        """
        # Blocked in all threads, and asked for in the loop: a handler may run at any moment, also
        # while this thread holds the lock that the handler would wait for.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, END_SIGNALS)
        try:
            self._work()
        finally:
            while signal.sigtimedwait(END_SIGNALS, 0):
                pass  # Asked again while it ended.
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return self._exit

    def _work(self) -> None:
        with Face(self.config.listen, self):
            for worker in self.workers:
                worker.thread.start()
            _log.info(
                "unisat-agent %s: station %s, %d ports, sinks: %s, spool %s",
                __version__,
                self.config.station,
                len(self.readers),
                ", ".join(sink.name for sink in self.config.sinks),
                self.config.spool_path,
            )
            notify("READY=1")
            next_tidy = time.monotonic() + TIDY_S
            while not self._stop.is_set():
                if signal.sigtimedwait(END_SIGNALS, TICK_S):
                    self._stop.set()
                    break
                try:
                    self._tick()
                    if time.monotonic() >= next_tidy:
                        next_tidy = time.monotonic() + TIDY_S
                        self._tidy()
                except SpoolCorruptError as error:
                    self._spool_is_damaged(error)
                if not self.stalled():
                    notify("WATCHDOG=1")
            notify("STOPPING=1")
            self._end()

    # Looking after things

    def stalled(self) -> list[str]:
        """The threads that show no progress."""
        now = time.monotonic()
        # The pages answer a moment before the threads start, and have no trouble to tell then.
        started = [worker for worker in self.workers if worker.thread.ident is not None]
        return [
            worker.name
            for worker in started
            if now - worker.last_beat > STALL_S or not worker.thread.is_alive()
        ]

    def _tick(self) -> None:
        self.intake.flush()
        # Asked before the time is read: a clock that is set right in between is right.
        synchronised = self.clock.synchronised()
        offset_ms = self._wall_offset_ms()
        if abs(offset_ms - self._offset_ms) > CLOCK_STEP_MS:
            self.clock_steps += 1
            _log.warning(
                "the wall clock was stepped by %+.1f s", (offset_ms - self._offset_ms) / 1000
            )
        self._offset_ms = offset_ms
        if self.spool.unsynced and synchronised:
            with _spool_trouble(self.notices):
                corrected = self.spool.correct(self.clock.boot_id, offset_ms)
                _log.info("the clock is right now: the times of %d packages corrected", corrected)

    def _wall_offset_ms(self) -> int:
        return self.clock.wall_ms() - self.clock.uptime_ms()

    def _tidy(self) -> None:
        before_ms = None
        # With a clock that may be years ahead, all of the history would look old.
        if self.clock.synchronised():
            before_ms = self.clock.wall_ms() - round(self.config.history_days * 86_400_000)
        with _spool_trouble(self.notices):
            evicted = self.spool.tidy(before_ms)
            if evicted:
                _log.debug("%d packages left the history", evicted)

    def _spool_is_damaged(self, error: SpoolCorruptError) -> None:
        """Ends the process: the next start sets the file aside and salvages what it can."""
        _log.error("%s: the agent ends, to set it aside at the next start", error)
        mark_suspect(self.config.spool_path)
        self._exit = EXIT_SPOOL_DAMAGED
        self._stop.set()

    def _end(self) -> None:
        """Lets every thread finish the package in hand, within STOP_S."""
        for event in self.spool.news.values():
            event.set()
        end = time.monotonic() + STOP_S
        for worker in self.workers:
            while worker.thread.is_alive() and time.monotonic() < end:
                for courier in self.couriers:
                    courier.abort()
                worker.thread.join(0.1)
        self.intake.flush()
        if not any(worker.thread.is_alive() for worker in self.workers):
            self.spool.close()

    def _worker(self, name: str, job: Callable[[Callable[[], None]], None]) -> Worker:
        return Worker(name, job, self._stop, self._spool_is_damaged)

    def _read_job(self, number: int) -> Callable[[Callable[[], None]], None]:
        return lambda _beat: self.readers[number].run()

    # Reconciling, in the sync thread

    def _maybe_reconcile(self, was_away: bool) -> None:
        state = self.reconciling
        now = time.monotonic()
        if was_away:
            state.due_at = min(state.due_at, now)
        with _spool_trouble(self.notices):
            asked = self.spool.note(RECONCILE_ASKED)
            if asked is None and now < state.due_at:
                return
            self._reconcile(asked)

    def _reconcile(self, asked: str | None) -> None:
        state = self.reconciling
        assert self.config.hub is not None  # noqa: S101 - there is a sync thread
        sync = next(worker for worker in self.workers if worker.name == "sync")
        courier = next(courier for courier in self.couriers if courier.name == "hub")

        def between() -> None:
            sync.beat()
            # A live record does not wait for a long comparison.
            courier.step_between()

        try:
            with KintoClient(self.config.local) as local, KintoClient(self.config.hub) as hub:
                known_gaps = state.last.gaps if state.last else None
                state.last = Reconciler(self.spool, local, hub, between, known_gaps).run()
            state.failure = ""
            # Most of what can't be compared can be a little later.
            next_s = RECONCILE_RETRY_S if state.last.problems else RECONCILE_S
            state.due_at = time.monotonic() + next_s
            said = str(state.last)
        except (TransportError, ValueError) as error:
            state.failure = said = f"reconcile: {error}"
            state.due_at = time.monotonic() + RECONCILE_RETRY_S
            _log.info("%s", said)
        if asked is not None:
            self.spool.set_note(RECONCILE_ANSWER, f"{asked} {said}")
            self.spool.set_note(RECONCILE_ASKED, None)

    # Telling

    def problems(self) -> tuple[str, list[str]]:
        """The health in one word (ok, degraded, failed), and what is wrong."""
        failed = [*self.intake.notices.current(), *self.notices.current()]
        failed += [f"the thread {name} hangs" for name in self.stalled()]
        failed += [f"the thread {w.name} fails: {w.failure}" for w in self.workers if w.failure]
        degraded: list[str] = []
        for courier in self.couriers:
            said = courier.notices.current()
            (failed if courier.state is SinkState.PAUSED else degraded).extend(said)
            if dead := sum(self.spool.dead_by_reason(courier.name).values()):
                degraded.append(f"{courier.name}: {dead} dead letters: unisat-agent dead list")
        for reader in self.readers:
            status = reader.status()
            if status.state is not State.READING:
                degraded.append(f"port {status.name}: {status.detail or status.state.value}")
        if self.reconciling.failure:
            degraded.append(self.reconciling.failure)
        elif self.reconciling.last:
            degraded += [f"reconcile: {said}" for said in self.reconciling.last.problems]
        if not self.clock.synchronised():
            degraded.append("the clock is not synchronised yet: is there a time server?")
        degraded += [
            f"a damaged spool was set aside: {path}: delete it when you have no use for it"
            for path in set_aside(self.config.spool_path)
        ]
        if self.config.notices is not None:
            degraded += _told(self.config.notices)
        health = "failed" if failed else "degraded" if degraded else "ok"
        return health, failed + degraded

    def status(self) -> dict[str, Any]:
        """What /status says; README.md, "Status", has the shape."""
        health, problems = self.problems()
        last = self.spool.last_row
        return {
            "station": self.config.station,
            "version": __version__,
            "health": health,
            "problems": problems,
            "clock": {
                "synchronised": self.clock.synchronised(),
                "waiting_for_time": self.spool.unsynced,
                "steps": self.clock_steps,
            },
            "spool": {
                "path": str(self.config.spool_path),
                "bytes": self.spool.used_bytes(),
                "last_seq": self.spool.last_seq,
                "waiting_for_room": self.intake.waiting,
                "quarantined": self.spool.quarantined(),
            },
            "last_record": last.record() if last else None,
            "ports": [
                {
                    "name": status.name,
                    "state": status.state.value,
                    "device": status.device,
                    "detail": status.detail,
                    "bytes": status.bytes,
                    "reconnects": status.reconnects,
                }
                for status in (reader.status() for reader in self.readers)
            ],
            "sinks": {courier.name: self._sink_status(courier) for courier in self.couriers},
            "reconcile": {
                "last": str(self.reconciling.last) if self.reconciling.last else None,
                "failure": self.reconciling.failure or None,
            },
        }

    def _sink_status(self, courier: Courier) -> dict[str, Any]:
        return {
            "state": courier.state.value,
            "pending": self.spool.pending(courier.name),
            "oldest_s": self.oldest_s(courier.name),
            "acked": courier.figures.acked,
            "retries": courier.figures.retries,
            "dead": sum(self.spool.dead_by_reason(courier.name).values()),
            "detail": "; ".join(courier.notices.current()),
        }

    def oldest_s(self, sink: str) -> float:
        """The age of the oldest package that the sink has not acknowledged, in seconds."""
        found = self.spool.oldest_waiting(sink, self.clock.boot_id)
        if found is None:
            return 0.0
        since_ms, is_uptime = found
        now_ms = self.clock.uptime_ms() if is_uptime else self.clock.wall_ms()
        return max(0.0, (now_ms - since_ms) / 1000)


@contextlib.contextmanager
def _spool_trouble(notices: Notices) -> Iterator[None]:
    """Notes a spool that can't be used, and goes on: the next tick tries again."""
    try:
        yield
    except SpoolCorruptError:
        raise
    except SpoolError as error:
        notices.trouble("spool", str(error))
    else:
        notices.over("spool", "the spool can be used again")


def _told(folder: Path) -> list[str]:
    """The lines of the files in a folder, as many and as long as are good to read."""
    lines: list[str] = []
    with contextlib.suppress(OSError):
        for file in sorted(folder.iterdir()):
            # Hidden ones are being written. A file may go between two looks.
            if file.name.startswith(".") or not file.is_file():
                continue
            with contextlib.suppress(OSError), file.open(errors="replace") as text:
                # Read so far and no further, however long the file or a line is.
                while len(lines) < NOTICES_MAX and (line := text.readline(4096)):
                    if said := line.strip():
                        lines.append(said[:NOTICE_MAX_CHARACTERS])
    return lines
