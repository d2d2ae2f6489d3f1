"""The metrics for Prometheus: a snapshot as text, made when it is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from unisat_agent.delivery.requests import BUCKETS_S
from unisat_agent.serial.status import merged
from unisat_agent.service.snapshot import SinkSnapshot, Snapshot

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX = "unisat_agent_"


def exposition(snapshot: Snapshot) -> bytes:
    """The snapshot in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Families(snapshot))
    ProcessCollector(registry=registry)
    return generate_latest(registry)


class _Families(Collector):
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        snapshot = self._snapshot
        yield from _intake(snapshot)
        yield from _spool(snapshot)
        yield from _sinks(snapshot)
        yield _counter("reconnects", "Times that a port was opened again", "port",
                       {port.name: port.reconnects for port in snapshot.ports})  # fmt: skip
        yield _counter("thread_restarts", "Threads that failed and were started again", "thread",
                       {worker.name: worker.restarts for worker in snapshot.workers})  # fmt: skip


def _intake(snapshot: Snapshot) -> Iterator[Metric]:
    intake = snapshot.intake
    devices = merged(device for port in snapshot.ports for device in port.devices)
    yield _gauges("last_package_age_seconds", "Age of the last package", "device",
                  {device.dev_id: device.age_s for device in devices})  # fmt: skip
    yield _counter("packages", "Packages stored in the spool", "device", intake.packages)
    yield _counter("bad_lines", "Lines put into quarantine", "reason", intake.bad_lines)
    yield _counter("missing_fields", "Packages without a required field", "field", intake.missing)
    yield _counter("fast_packages", "Packages sooner than the push interval", "device", intake.fast)
    yield _total("dropped_packages", "Lost for want of any room", intake.dropped)
    yield _gauge("memory_packages", "Packages waiting for room in the spool", intake.waiting)


def _spool(snapshot: Snapshot) -> Iterator[Metric]:
    spool = snapshot.spool
    yield _gauge("spool_bytes", "Bytes of the spool in use", spool.bytes)
    yield _gauge("spool_wal_bytes", "Bytes of the spool's write-ahead log", spool.wal_bytes)
    if spool.disk_free is not None:
        yield _gauge("disk_free_bytes", "Bytes free on the disk of the spool", spool.disk_free)
    if snapshot.retention.full_in_days is not None:
        yield _gauge("disk_full_days", "Forecast: days until the disk is full",
                     snapshot.retention.full_in_days)  # fmt: skip
    yield _gauge("local_records", "Records in the local Kinto", snapshot.retention.records)
    yield _total("retired_records", "Records that the local Kinto let go",
                 snapshot.retention.deleted)  # fmt: skip
    yield _gauge("quarantined_lines", "Lines kept in quarantine", spool.quarantined)
    yield _gauge("clock_synchronised", "1 when the wall clock is right", int(snapshot.synchronised))
    yield _gauge("unsynced_packages", "Packages whose time is not known yet", spool.unsynced)
    yield _total("clock_steps", "Jumps of the wall clock", snapshot.clock_steps)


def _sinks(snapshot: Snapshot) -> Iterator[Metric]:
    sinks = snapshot.sinks
    yield _gauges("pending_packages", "Packages that the sink has not acknowledged", "sink",
                  {sink.name: sink.pending for sink in sinks})  # fmt: skip
    yield _gauges("oldest_unacknowledged_seconds", "Age of the oldest of them", "sink",
                  {sink.name: sink.oldest_s for sink in sinks})  # fmt: skip
    yield _counter("acks", "Packages that the sink acknowledged", "sink",
                   {sink.name: sink.acked for sink in sinks})  # fmt: skip
    yield _counter("retries", "Batches that had to be sent again", "sink",
                   {sink.name: sink.retries for sink in sinks})  # fmt: skip
    dead = GaugeMetricFamily(
        f"{_PREFIX}dead_letters", "Packages that the sink refused", labels=["sink", "reason"]
    )
    for sink in sinks:
        for reason, count in sink.dead.items():
            dead.add_metric([sink.name, reason], count)
    yield dead
    yield from _requests(sinks)
    yield _gauges("seq_gaps", "Numbers of this spool that a sink lacks for good", "sink",
                  snapshot.reconcile.gaps)  # fmt: skip


def _requests(sinks: Iterable[SinkSnapshot]) -> Iterator[Metric]:
    answers = CounterMetricFamily(
        f"{_PREFIX}requests", "Requests to the sink, by HTTP status", labels=["sink", "status"]
    )
    durations = HistogramMetricFamily(
        f"{_PREFIX}request_seconds", "How long requests to the sink took", labels=["sink"]
    )
    for sink in sinks:
        for status, count in sorted(sink.requests.by_status.items()):
            answers.add_metric([sink.name, status], count)
        counts = accumulate(sink.requests.by_duration)
        buckets = zip((*map(str, BUCKETS_S), "+Inf"), counts, strict=True)
        durations.add_metric([sink.name], list(buckets), sink.requests.seconds)
    yield answers
    yield durations


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{_PREFIX}{name}", text, value=value)


def _gauges(name: str, text: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"{_PREFIX}{name}", text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _total(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"{_PREFIX}{name}", text, value=value)


def _counter(name: str, text: str, label: str, values: Mapping[str, float]) -> CounterMetricFamily:
    family = CounterMetricFamily(f"{_PREFIX}{name}", text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
