"""Figures that many threads count for the first time."""

from __future__ import annotations

import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

with warnings.catch_warnings():
    # What Kinto stands on is full of them.
    warnings.simplefilter("ignore")
    from kinto.plugins.prometheus import PrometheusService

    from unisat_kinto import metrics

THREADS = 8
NAMES = 50


def test_a_figure_is_made_once_when_many_requests_come_at_once() -> None:
    metrics.one_at_a_time()
    service = PrometheusService(prefix="together", histogram_buckets=[1.0])
    barrier = threading.Barrier(THREADS)

    def count(_: int) -> None:
        for number in range(NAMES):
            barrier.wait(60)
            service.count(f"of_{number}", unique=[("kind", "any")])
            service.timer(f"seconds_{number}", value=0.1)

    interval = sys.getswitchinterval()
    # So that they meet in every line of it.
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(THREADS) as pool:
            # Raises what a thread did.
            assert list(pool.map(count, range(THREADS))) == [None] * THREADS
    finally:
        sys.setswitchinterval(interval)
