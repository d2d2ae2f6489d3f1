"""The running agent: puts its threads together, and looks after them in one loop.

Each job has threads of its own: serial (one a port: read, decode, commit to the spool), store
(spool → local Kinto), sync (spool → hub), reconcile, retention and spool (its long tasks). A thread
that ends with an unforeseen error is started again, and takes no other with it.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable

from unisat_agent.clock import Clock, SystemClock
from unisat_agent.config.model import Config
from unisat_agent.delivery.courier import Courier
from unisat_agent.delivery.kinto import KintoClient
from unisat_agent.delivery.reconciling import Reconciling
from unisat_agent.delivery.retaining import Retaining
from unisat_agent.errors import ConfigError, SpoolCorruptError
from unisat_agent.serial.intake import Intake
from unisat_agent.serial.reader import PortReader
from unisat_agent.service.fleet import Fleet, update_file
from unisat_agent.service.health import serial_problems
from unisat_agent.service.http import StatusServer
from unisat_agent.service.intervals import Intervals
from unisat_agent.service.report import Reporter
from unisat_agent.service.snapshot import disk_size
from unisat_agent.service.supervisor import Beat, Worker
from unisat_agent.service.systemd import extend_start_timeout, notify
from unisat_agent.signals import SignalThread
from unisat_agent.spool.maintenance import Maintenance
from unisat_agent.spool.repair import mark_suspect, open_spool
from unisat_agent.troubles import Troubles
from unisat_agent.version import running_version

TICK_S = 1.0
STOP_S = 4.5
CLOCK_STEP_MS = 2000
SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})

EXIT_OK = 0
EXIT_SPOOL_DAMAGED = 3

_log = logging.getLogger(__name__)


class Service:
    """The agent as a process.

    Args:
        config: What it was told.
        clock: The host's, unless a test brings its own.
        tick_s: How often it looks after its threads.
        reload: Reads the configuration again, at SIGHUP.

    Raises:
        SpoolError: The spool can't be used; SpoolBusyError when another agent has it.
    """

    def __init__(
        self,
        config: Config,
        clock: Clock | None = None,
        tick_s: float = TICK_S,
        reload: Callable[[], Config] | None = None,
    ) -> None:
        self.config = config
        self.clock = clock or SystemClock(config.clock_synchronised)
        self.troubles = Troubles(_log, self.clock.monotonic)
        # Told in the log; what is shown of them comes from the snapshot.
        self._serial_troubles = Troubles(_log, self.clock.monotonic)
        self.clock_steps = 0
        self.successor: Config | None = None
        """The configuration to go on with: `run` ended for its sake."""
        self._reload = reload
        self._tick_s = tick_s
        self._stop = threading.Event()
        self._exit = EXIT_OK
        self._offset_ms = self._wall_offset_ms()
        self.spool = open_spool(
            config.spool_path,
            [sink.name for sink in config.sinks],
            self.clock.boot_id,
            config.spool_max_bytes,
            progress=extend_start_timeout,
        )
        self.intake = Intake(self.spool, self.clock, config.devices, self._spool_is_damaged)
        self.intervals = Intervals(self.spool, self.clock.monotonic)
        self.reconciling = None
        if config.hub is not None:
            self.reconciling = Reconciling(
                self.spool, config.local, config.hub, self.clock, self._stop, self.troubles
            )
        self.couriers = [
            Courier(
                self.spool,
                KintoClient(sink, self.clock.monotonic),
                self.clock,
                self._stop,
                hold_s=config.hold_s if sink.name == "hub" else 0.0,
                on_idle=self.reconciling.sink_is_idle if self.reconciling else None,
            )
            for sink in config.sinks
        ]
        self.workers: list[Worker] = []
        for courier, name in zip(self.couriers, ("store", "sync"), strict=False):
            self.workers.append(self._worker(name, courier.run))
        if self.reconciling is not None:
            self.workers.append(self._worker("reconcile", self.reconciling.run))
        self.retaining = Retaining(
            config,
            disk_size(config.spool_path.parent),
            self.reconciling,
            self.clock,
            self._stop,
        )
        self.workers.append(self._worker("retention", self.retaining.run))
        self.readers: list[PortReader] = []
        for number, port in enumerate(config.ports):
            worker = self._worker(f"serial-{number}", self._read_job(number))
            self.readers.append(
                PortReader(
                    port,
                    self.intake,
                    self._stop,
                    worker.beat,
                    self.clock.monotonic,
                    config.devices,
                    elsewhere=[other.port for other in config.ports if other is not port],
                )
            )
            self.workers.append(worker)
        maintenance = Maintenance(
            self.spool, self.clock, config.history_days, self._stop, self.troubles
        )
        self.workers.append(self._worker("spool", maintenance.run))
        self.reporter = Reporter(
            config,
            self.clock,
            self.spool,
            self.intake,
            self.readers,
            self.couriers,
            self.workers,
            self.reconciling,
            self.retaining,
            self.troubles,
            self.intervals,
            lambda: self.clock_steps,
        )
        self.fleet = self._fleet()

    def run(self) -> int:
        """Works until SIGTERM, SIGINT or `stop`, or until there is a `successor`.

        Returns:
            The exit code.

        Raises:
            AgentError: The status address can't be used.
        """
        with (
            SignalThread(SIGNALS, self._handle),
            StatusServer(self.config.listen, self.reporter.routes()),
        ):
            self._work()
        return self._exit

    def stop(self) -> None:
        """Asks the agent to end; may be called from any thread."""
        self._stop.set()

    def _handle(self, number: signal.Signals) -> None:
        if number != signal.SIGHUP:
            self.stop()
        elif self._reload is not None:
            self.reload(self._reload)

    def reload(self, read: Callable[[], Config]) -> None:
        """Ends `run` for a configuration that can be used and is another one; else goes on."""
        try:
            config = read()
        except ConfigError as error:
            count = len(error.problems)
            self.troubles.trouble(
                "reload",
                f"the new configuration can't be used, the agent goes on with the old one: "
                f"{error.problems[0]}{f' ({count - 1} more problems)' if count > 1 else ''}",
            )
            return
        self.troubles.over("reload", "the configuration can be used again")
        if config == self.config:
            _log.info("the configuration is the same as before")
            return
        _log.info("the configuration is another one: the agent starts again with it")
        self.successor = config
        self.stop()

    def _work(self) -> None:
        for worker in self.workers:
            worker.start()
        _log.info(
            "unisat-agent %s: station %s, %d ports, sinks: %s, spool %s",
            running_version(),
            self.config.station,
            len(self.readers),
            ", ".join(sink.name for sink in self.config.sinks),
            self.config.spool_path,
        )
        notify("READY=1")
        while not self._stop.wait(self._tick_s):
            try:
                self.tick()
            except SpoolCorruptError as error:
                self._spool_is_damaged(error)
            if not self.stalled():
                notify("WATCHDOG=1")
        notify("RELOADING=1" if self.successor else "STOPPING=1")
        self._end()

    # Looking after things

    def stalled(self) -> list[str]:
        """The threads that show no progress."""
        return [worker.name for worker in self.workers if worker.stalled]

    def tick(self) -> None:
        """What is done every TICK_S: retries what waits for room, follows the wall clock."""
        self.intake.flush()
        line = self.reporter.line_snapshot()
        self._serial_troubles.update(serial_problems(line))
        self.intervals.learn(device for port in line.ports for device in port.devices)
        offset_ms = self._wall_offset_ms()
        if abs(offset_ms - self._offset_ms) > CLOCK_STEP_MS:
            self.clock_steps += 1
            _log.warning(
                "the wall clock was stepped by %+.1f s", (offset_ms - self._offset_ms) / 1000
            )
        self._offset_ms = offset_ms

    def _wall_offset_ms(self) -> int:
        return self.clock.wall_ms() - self.clock.uptime_ms()

    def _spool_is_damaged(self, error: SpoolCorruptError) -> None:
        """Ends the process: the next start sets the file aside and salvages what it can."""
        _log.error("%s: the agent ends, to set it aside at the next start", error)
        mark_suspect(self.config.spool_path)
        self._exit = EXIT_SPOOL_DAMAGED
        self.stop()

    def _end(self) -> None:
        """Lets every thread finish the package in hand, within STOP_S."""
        for event in self.spool.news.values():
            event.set()
        end = self.clock.monotonic() + STOP_S
        for worker in self.workers:
            while worker.alive and self.clock.monotonic() < end:
                for courier in self.couriers:
                    courier.abort()
                if self.reconciling is not None:
                    self.reconciling.abort()
                self.retaining.abort()
                if self.fleet is not None:
                    self.fleet.abort()
                worker.join(0.1)
        self.intake.flush(final=True)
        if not any(worker.alive for worker in self.workers):
            self.spool.close()

    def _worker(self, name: str, job: Callable[[Beat], None]) -> Worker:
        return Worker(name, job, self._stop, self.clock, self._spool_is_damaged)

    def _fleet(self) -> Fleet | None:
        """Who tells the hub how the station is, in a thread of its own."""
        hub = self.config.hub
        if hub is None:
            return None
        fleet = Fleet(
            KintoClient(hub, self.clock.monotonic),
            hub.user,
            self.reporter.snapshot,
            update_file(self.config.notices),
            self.clock,
            self._stop,
        )
        self.workers.append(self._worker("fleet", fleet.run))
        return fleet

    def _read_job(self, number: int) -> Callable[[Beat], None]:
        return lambda _beat: self.readers[number].run()
