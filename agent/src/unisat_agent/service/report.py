"""What the agent tells about itself: the snapshot of its parts, and the pages made of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus

from unisat_agent.clock import Clock
from unisat_agent.config.model import Config
from unisat_agent.delivery.courier import Courier
from unisat_agent.delivery.reconciling import Reconciling
from unisat_agent.delivery.retaining import Retaining
from unisat_agent.delivery.retention import Kept
from unisat_agent.serial.intake import Intake
from unisat_agent.serial.reader import PortReader
from unisat_agent.service import metrics, status
from unisat_agent.service.fleet import update_file, update_of
from unisat_agent.service.forecast import full_in_days
from unisat_agent.service.health import Word, assess
from unisat_agent.service.http import Page, Route, json_page
from unisat_agent.service.intervals import Intervals
from unisat_agent.service.notices import read_notices
from unisat_agent.service.records import spool_routes
from unisat_agent.service.snapshot import (
    IntakeSnapshot,
    Obstacle,
    PortSnapshot,
    ReconcileSnapshot,
    RetentionSnapshot,
    SinkSnapshot,
    Snapshot,
    SpoolSnapshot,
    WorkerSnapshot,
    disk_free,
)
from unisat_agent.service.supervisor import Worker
from unisat_agent.spool.files import set_aside_copies, wal_bytes
from unisat_agent.spool.queue import Spool
from unisat_agent.troubles import Troubles
from unisat_agent.version import running_version

HUB_AWAY_S = 2 * 86_400.0


@dataclass(frozen=True, slots=True)
class Reporter:
    """Looks at the parts of a running agent; any thread may ask.

    Attributes:
        config: What the agent was told.
        clock: The host's.
        spool: The spool.
        intake: What comes in.
        readers: The ports.
        couriers: The sinks, with the connection of each.
        workers: The threads.
        reconciling: None without a hub.
        retaining: The size of the local Kinto.
        troubles: Of the agent as a whole.
        intervals: How often the devices send.
        clock_steps: How often the wall clock was stepped.
    """

    config: Config
    clock: Clock
    spool: Spool
    intake: Intake
    readers: Sequence[PortReader]
    couriers: Sequence[Courier]
    workers: Sequence[Worker]
    reconciling: Reconciling | None
    retaining: Retaining
    troubles: Troubles
    intervals: Intervals
    clock_steps: Callable[[], int]

    def routes(self) -> dict[str, Route]:
        """The pages of the status server."""
        own = {"/healthz": self._healthz, "/status": self._status, "/metrics": self._metrics}
        return own | spool_routes(self.config.spool_path, self.snapshot)

    def _healthz(self, _: Mapping[str, str]) -> Page:
        health = assess(self.snapshot())
        failed = health.word is Word.FAILED
        return json_page(
            {"health": health.word.value, "problems": list(health.problems)},
            HTTPStatus.SERVICE_UNAVAILABLE if failed else HTTPStatus.OK,
        )

    def _status(self, _: Mapping[str, str]) -> Page:
        update = update_of(update_file(self.config.notices))
        return json_page(status.document(self.snapshot(), update))

    def _metrics(self, _: Mapping[str, str]) -> Page:
        return Page(metrics.exposition(self.snapshot()), metrics.CONTENT_TYPE)

    def snapshot(self) -> Snapshot:
        """The agent at this moment.

        Raises:
            SpoolError: The spool can't be read.
        """
        last = self.spool.last_row
        return replace(
            self.line_snapshot(),
            station=self.config.station,
            version=running_version(),
            synchronised=self.clock.synchronised(),
            hold_s=self.config.hold_s if self.config.hub is not None else 0.0,
            clock_steps=self.clock_steps(),
            intake=self._intake_snapshot(),
            spool=self._spool_snapshot(),
            sinks=tuple(self._sink_snapshot(courier) for courier in self.couriers),
            workers=tuple(
                WorkerSnapshot(worker.name, worker.restarts, worker.failure, worker.stalled)
                for worker in self.workers
            ),
            reconcile=_reconcile_snapshot(self.reconciling),
            retention=self._retention_snapshot(),
            troubles=tuple(self.troubles.current()),
            notices=read_notices(self.config.notices),
            last_record=last.record() if last else None,
        )

    def line_snapshot(self) -> Snapshot:
        """The serial side alone, for which nothing need be asked of the spool."""
        return Snapshot(
            ports=tuple(
                replace(port, devices=self.intervals.filled(port.devices))
                for port in map(_port_snapshot, self.readers)
            ),
            usual_s=self.intervals.usual(),
            expected=self.config.devices,
            interval_s=self.config.interval_s,
        )

    def _intake_snapshot(self) -> IntakeSnapshot:
        intake = self.intake
        return IntakeSnapshot(
            packages=dict(intake.packages),
            bad_lines=dict(intake.bad_lines),
            missing=dict(intake.missing),
            fast=dict(intake.fast),
            dropped=intake.dropped,
            waiting=intake.waiting,
            troubles=tuple(intake.notices.current()),
        )

    def _spool_snapshot(self) -> SpoolSnapshot:
        return SpoolSnapshot(
            path=str(self.config.spool_path),
            epoch=str(self.spool.epoch),
            bytes=self.spool.used_bytes(),
            last_seq=self.spool.last_seq,
            quarantined=self.spool.quarantined(),
            unsynced=self.spool.unsynced,
            disk_free=disk_free(self.config.spool_path.parent),
            wal_bytes=wal_bytes(self.config.spool_path),
            heard_once=tuple(self.spool.heard_once()),
            set_aside=tuple(map(str, set_aside_copies(self.config.spool_path))),
        )

    def _sink_snapshot(self, courier: Courier) -> SinkSnapshot:
        return SinkSnapshot(
            name=courier.name,
            state=courier.standing.state.value,
            pending=self.spool.pending(courier.name),
            oldest_s=self._oldest_s(courier.name),
            acked=courier.standing.figures.acked,
            retries=courier.standing.figures.retries,
            dead=self.spool.dead_by_reason(courier.name),
            requests=courier.requests.figures(),
            troubles=tuple(courier.standing.notices.current()),
        )

    def _retention_snapshot(self) -> RetentionSnapshot:
        retaining = self.retaining
        kept = retaining.kept
        if kept is None:
            return RetentionSnapshot(days=self.config.keep_days)
        obstacle = self._obstacle(kept)
        free = disk_free(self.config.spool_path.parent)
        full = None
        if free is not None:
            full = full_in_days(
                free,
                kept.records,
                self._intervals_s(),
                self.config.keep_days if obstacle is Obstacle.NONE else None,
                retaining.max_records,
            )
        return RetentionSnapshot(
            kept.records, retaining.deleted, self.config.keep_days, obstacle, kept.problem, full
        )

    def _intervals_s(self) -> list[float]:
        """How often those devices send that are expected, or were heard since the start."""
        ports = self.line_snapshot().ports
        names = {device.dev_id for port in ports for device in port.devices}
        usual = self.intervals.usual()
        return [usual[name] for name in names | self.config.devices if name in usual]

    def _obstacle(self, kept: Kept) -> Obstacle:
        if not self.retaining.may_delete:
            return Obstacle.NO_HUB
        if not kept.able:
            return Obstacle.NO_PLUGIN
        # A hub that has been away for so long may stay away.
        away = self.config.hub is not None and self._oldest_s("hub") > HUB_AWAY_S
        return Obstacle.HUB_AWAY if away else Obstacle.NONE

    def _oldest_s(self, sink: str) -> float:
        """The age of the oldest package that the sink has not acknowledged, in seconds."""
        found = self.spool.oldest_waiting(sink, self.clock.boot_id)
        if found is None:
            return 0.0
        since_ms, is_uptime = found
        now_ms = self.clock.uptime_ms() if is_uptime else self.clock.wall_ms()
        return max(0.0, (now_ms - since_ms) / 1000)


def _port_snapshot(reader: PortReader) -> PortSnapshot:
    port = reader.status()
    return PortSnapshot(
        name=port.name,
        state=port.state.value,
        device=port.device,
        detail=port.detail,
        bytes=port.bytes,
        reconnects=port.reconnects,
        heard=port.ports,
        devices=port.devices,
    )


def _reconcile_snapshot(state: Reconciling | None) -> ReconcileSnapshot:
    if state is None:
        return ReconcileSnapshot()
    if state.last is None:
        return ReconcileSnapshot(failure=state.failure)
    return ReconcileSnapshot(
        report=str(state.last),
        problems=tuple(state.last.problems),
        gaps=dict(state.last.gaps),
        failure=state.failure,
    )
