"""Kinto in several processes, for a hub: its own server is one, and keeps one core busy.

Kinto is loaded once and the processes are copies of it, which share most of their memory. One that
ends is replaced.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gunicorn.app.base import BaseApplication
from pyramid.paster import get_app, setup_logging

# Where nginx is in front, it keeps its connections for 50 s.
KEEP_ALIVE_S = 75
CONNECTIONS = 1000
# Less than the container has for its end.
FINISH_S = 15


def share_metrics() -> None:
    """Lets the processes keep their figures in one place; to be called before Kinto is imported."""
    folder = Path(tempfile.gettempdir()) / "unisat-metrics"
    folder.mkdir(exist_ok=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)


class Workers(BaseApplication):
    """A server whose `run` ends when it is told to end.

    Args:
        ini: Kinto's settings.
        server: The section `server:main` in them: host, port, workers, threads of each.
    """

    def __init__(self, ini: str, server: Mapping[str, str]) -> None:
        self._ini = ini
        self._server = server
        super().__init__()

    def load_config(self) -> None:
        """Says how it is to run."""
        settings: dict[str, Any] = {
            "bind": f"{self._server['host']}:{self._server['port']}",
            "workers": int(self._server["workers"]),
            "threads": int(self._server["threads"]),
            "worker_class": "gthread",
            "worker_connections": CONNECTIONS,
            "keepalive": KEEP_ALIVE_S,
            "graceful_timeout": FINISH_S,
            "limit_request_line": 8190,
            "preload_app": True,
            "control_socket_disable": True,
            "loglevel": "warning",
            "when_ready": _finish_on_interrupt,
        }
        for name, value in settings.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        """Kinto, without connections: those of one process are not another's."""
        setup_logging(self._ini)
        app = get_app(self._ini)
        sessions = app.registry.storage.client.session_factory
        engine = sessions().get_bind()
        sessions.remove()
        engine.dispose()
        return app


def _finish_on_interrupt(arbiter: Any) -> None:
    """SIGINT, by which the container is stopped, would cut off the requests; SIGTERM does not."""
    signal.signal(signal.SIGINT, lambda _, frame: arbiter.signal(signal.SIGTERM, frame))
