"""A supervised thread: how it fails, and comes back."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from rig.clock import FakeClock
from rig.site import WAIT_S
from rig.wait import wait_until
from unisat_agent.errors import SpoolCorruptError, SpoolError
from unisat_agent.service.supervisor import RESTART_MAX_S, STALL_S, Beat, Worker


class TestWorker:
    def make(
        self, job: Callable[[Beat], None], stop: threading.Event, clock: FakeClock | None = None
    ) -> tuple[Worker, list[SpoolCorruptError]]:
        corrupt: list[SpoolCorruptError] = []
        clock = clock or FakeClock()
        return Worker("job", job, stop, clock, corrupt.append, restart_first_s=0.01), corrupt

    @pytest.mark.parametrize(
        ("error", "said"),
        [(ZeroDivisionError("x"), "ZeroDivisionError: x"), (SpoolError("no room"), "no room")],
    )
    def test_is_started_again(self, error: Exception, said: str) -> None:
        stop = threading.Event()
        calls: list[str] = []

        def job(beat: Beat) -> None:
            calls.append("")
            if len(calls) < 3:
                raise error
            while not stop.wait(0.01):
                beat()

        made, corrupt = self.make(job, stop)
        made.start()
        wait_until(lambda: len(calls) == 3, WAIT_S, "the third life")
        assert (made.restarts, made.failure, corrupt) == (2, said, [])
        stop.set()
        made.join(WAIT_S)
        assert not made.alive

    def test_failure_is_forgotten_once_it_works(self) -> None:
        stop, clock = threading.Event(), FakeClock()
        beats: list[Beat] = []

        def job(beat: Beat) -> None:
            beats.append(beat)
            if len(beats) == 1:
                raise SpoolError("no room")
            stop.wait()

        made, _ = self.make(job, stop, clock)
        made.start()
        wait_until(lambda: len(beats) == 2, WAIT_S, "the second life")
        made.beat()
        assert made.failure == "no room"
        clock.advance(RESTART_MAX_S + 1)
        made.beat()
        assert made.failure == ""
        stop.set()
        made.join(WAIT_S)

    def test_hangs_without_a_beat_and_not_before_it_was_started(self) -> None:
        stop, clock = threading.Event(), FakeClock()
        made, _ = self.make(lambda _: (stop.wait(), None)[1], stop, clock)
        clock.advance(STALL_S + 1)
        assert not made.stalled
        made.beat()
        made.start()
        assert not made.stalled
        clock.advance(STALL_S + 1)
        assert made.stalled
        made.beat()
        assert not made.stalled
        stop.set()
        made.join(WAIT_S)
        assert made.stalled, "a thread that ended does not work"

    def test_damage_is_handed_on(self) -> None:
        stop = threading.Event()

        def job(_: Beat) -> None:
            stop.set()
            raise SpoolCorruptError("damaged")

        made, corrupt = self.make(job, stop)
        made.start()
        made.join(WAIT_S)
        assert [str(error) for error in corrupt] == ["damaged"]
