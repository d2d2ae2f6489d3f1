"""Kinto's figures for Prometheus, made by one thread at a time.

Kinto makes a figure when it is counted for the first time. Of two requests that come at the same
time after a start, each would make it, and the second one got a 500 for that, after what it sent
had been stored.
"""

from __future__ import annotations

import threading
from functools import wraps
from typing import Any

_lock = threading.RLock()


def one_at_a_time() -> None:
    """Makes Kinto's service do so; more than once makes no difference."""
    from kinto.plugins.prometheus import PrometheusService  # noqa: PLC0415 - it may be left out

    for name in ("timer", "observe", "count"):
        method = getattr(PrometheusService, name)
        if not hasattr(method, "__wrapped__"):
            setattr(PrometheusService, name, _locked(method))


def _locked(method: Any) -> Any:
    @wraps(method)
    def call(*args: Any, **rest: Any) -> Any:
        with _lock:
            return method(*args, **rest)

    return call
