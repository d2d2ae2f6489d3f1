"""The agent's face on loopback: /healthz for a probe, /status for people, /metrics for Prometheus.

Metrics are made from the service's own figures when they are asked for, so that there is nothing
to keep in step.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import TYPE_CHECKING, Self

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from unisat_agent.errors import AgentError, SpoolError

if TYPE_CHECKING:
    from unisat_agent.service import Service

_CONTENT_JSON = "application/json"
_CONTENT_METRICS = "text/plain; version=0.0.4; charset=utf-8"


class FaceError(AgentError):
    """The address of [status] can't be used."""


class Face:
    """The HTTP server; a context manager.

    Raises:
        FaceError: On entering, when the address is taken.
    """

    def __init__(self, listen: tuple[str, int], service: Service) -> None:
        registry = CollectorRegistry()
        registry.register(_Figures(service))

        class Handler(_Handler):
            pages = _Pages(service, registry)

        try:
            self._server = _Server(listen, Handler)
        except OSError as error:
            raise FaceError(
                f"[status] listen {listen[0]}:{listen[1]} can't be used: {error.strerror}: "
                f"does another agent run? Else choose another port"
            ) from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.2,), name="face", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """Without the base's look-up of the host's name, which may wait for a name server."""
        TCPServer.server_bind(self)


class _Pages:
    """What each path answers."""

    def __init__(self, service: Service, registry: CollectorRegistry) -> None:
        self._service = service
        self._registry = registry

    def get(self, path: str) -> tuple[int, str, bytes]:
        """Status, content type and body."""
        match path.partition("?")[0]:
            case "/healthz":
                health, problems = self._service.problems()
                body = {"health": health, "problems": problems}
                status = 503 if health == "failed" else 200
                return status, _CONTENT_JSON, _json(body)
            case "/status":
                return 200, _CONTENT_JSON, _json(self._service.status())
            case "/metrics":
                return 200, _CONTENT_METRICS, generate_latest(self._registry)
            case _:
                return 404, _CONTENT_JSON, _json({"pages": ["/healthz", "/status", "/metrics"]})


class _Handler(BaseHTTPRequestHandler):
    pages: _Pages
    timeout = 10

    def do_GET(self) -> None:
        """Answers with a page, or with 503 where the spool can't be read just now."""
        try:
            status, content_type, body = self.pages.get(self.path)
        except SpoolError as error:
            status, content_type, body = (
                503,
                _CONTENT_JSON,
                _json({"health": "failed", "problems": [str(error)]}),
            )
        with contextlib.suppress(OSError):
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Says nothing: a probe every few seconds is no news."""


class _Figures(Collector):
    """The metrics, read off the service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        service = self._service
        intake, spool = service.intake, service.spool
        yield _counter("packages", "Packages stored in the spool", "device", intake.packages)
        yield _counter("bad_lines", "Lines put into quarantine", "reason", intake.bad_lines)
        yield _counter(
            "missing_fields", "Packages without a required field", "field", intake.missing
        )
        yield _counter(
            "fast_packages", "Packages sooner than the push interval", "device", intake.fast
        )
        yield _plain_counter("dropped_packages", "Lost for want of any room", intake.dropped)
        yield _gauge("memory_packages", "Packages waiting for room in the spool", intake.waiting)
        yield _gauge("spool_bytes", "Bytes of the spool in use", spool.used_bytes())
        yield _gauge("quarantined_lines", "Lines kept in quarantine", spool.quarantined())
        yield _gauge("clock_synchronised", "1 when the wall clock is right",
                     int(service.clock.synchronised()))  # fmt: skip
        yield _gauge("unsynced_packages", "Packages whose time is not known yet", spool.unsynced)
        yield _plain_counter("clock_steps", "Jumps of the wall clock", service.clock_steps)
        couriers = service.couriers
        yield _gauges("pending_packages", "Packages that the sink has not acknowledged", "sink",
                      {c.name: spool.pending(c.name) for c in couriers})  # fmt: skip
        yield _gauges("oldest_unacknowledged_seconds", "Age of the oldest of them", "sink",
                      {c.name: service.oldest_s(c.name) for c in couriers})  # fmt: skip
        yield _counter("acks", "Packages that the sink acknowledged", "sink",
                       {c.name: c.figures.acked for c in couriers})  # fmt: skip
        yield _counter("retries", "Batches that had to be sent again", "sink",
                       {c.name: c.figures.retries for c in couriers})  # fmt: skip
        dead = GaugeMetricFamily(
            "unisat_agent_dead_letters", "Packages that the sink refused", labels=["sink", "reason"]
        )
        for courier in couriers:
            for reason, count in spool.dead_by_reason(courier.name).items():
                dead.add_metric([courier.name, reason], count)
        yield dead
        report = service.reconciling.last
        yield _gauges("seq_gaps", "Numbers of this spool that a sink lacks for good", "sink",
                      report.gaps if report else {})  # fmt: skip
        ports = [reader.status() for reader in service.readers]
        yield _counter("reconnects", "Times that a port was opened again", "port",
                       {port.name: port.reconnects for port in ports})  # fmt: skip
        yield _counter("thread_restarts", "Threads that failed and were started again", "thread",
                       {w.name: w.restarts for w in service.workers})  # fmt: skip


def _json(body: object) -> bytes:
    return json.dumps(body, indent=1).encode() + b"\n"


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"unisat_agent_{name}", text, value=value)


def _gauges(name: str, text: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"unisat_agent_{name}", text, labels=[label])
    for key, value in dict(values).items():
        family.add_metric([key], value)
    return family


def _plain_counter(name: str, text: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"unisat_agent_{name}", text, value=value)


def _counter(name: str, text: str, label: str, values: Mapping[str, float]) -> CounterMetricFamily:
    family = CounterMetricFamily(f"unisat_agent_{name}", text, labels=[label])
    for key, value in dict(values).items():
        family.add_metric([key], value)
    return family
