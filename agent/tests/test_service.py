"""The running agent: what it reports to systemd, and how it copes with clocks and damage."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import replace

import pytest

from rig.replies import HANG, Reply
from rig.site import WAIT_S, Site, Systemd, running
from rig.wait import wait_until
from unisat_agent.delivery.reconciling import RECONCILE_ANSWER, RECONCILE_ASKED
from unisat_agent.delivery.retaining import FIRST_S
from unisat_agent.delivery.retention import Kept
from unisat_agent.errors import SpoolBusyError, SpoolCorruptError
from unisat_agent.service import supervisor, systemd
from unisat_agent.service.app import EXIT_SPOOL_DAMAGED, Service
from unisat_agent.spool import tools as spool_tools


class Counting(Service):
    """Counts its rounds."""

    ticks = 0

    def tick(self) -> None:
        super().tick()
        self.ticks += 1


class TestPath:
    def test_package_goes_to_both_kintos(self, site: Site) -> None:
        with running(site):
            for number in range(3):
                site.send()
                site.delivered(number + 1)

    def test_without_a_hub_there_is_no_sync_thread(self, site: Site) -> None:
        site.config = replace(site.config, hub=None)
        with running(site) as agent:
            assert [w.name for w in agent.workers] == ["store", "retention", "serial-0", "spool"]
            site.send()
            site.delivered(1, "local")
            assert set(site.status()["sinks"]) == {"local"}
            assert site.health()[1] == "ok"
            assert "pending_packages hub" not in site.metrics()


class TestSystemd:
    def test_hears_ready_then_watchdog_then_stopping(self, site: Site, systemd_: Systemd) -> None:
        with running(site):
            wait_until(lambda: len(systemd_.heard) > 3, WAIT_S, "3 pings")
        wait_until(lambda: systemd_.heard[-1] == "STOPPING=1", WAIT_S, "the last word")
        pings = len(systemd_.heard) - 2
        assert systemd_.heard == ["READY=1", *["WATCHDOG=1"] * pings, "STOPPING=1"]

    def test_is_not_fed_while_a_thread_hangs(self, site: Site, systemd_: Systemd) -> None:
        site.servers["hub"].then(HANG, times=None)
        with running(site, Counting) as agent:
            assert isinstance(agent, Counting)
            site.send()
            site.delivered(1, "local")
            wait_until(lambda: site.servers["hub"].requests, WAIT_S, "the hub to be asked")
            site.clock.advance(supervisor.STALL_S)
            wait_until(lambda: agent.stalled() == ["sync"], WAIT_S, "the sync thread alone to hang")
            begun = agent.ticks
            wait_until(lambda: agent.ticks > begun + 1, WAIT_S, "a round to begin with it hanging")
            fed, since = len(systemd_.heard), agent.ticks
            wait_until(lambda: agent.ticks > since + 10, WAIT_S, "some rounds")
            assert len(systemd_.heard) == fed
            code, health, problems = site.health()
            assert (code, health) == (503, "failed")
            assert "the thread sync hangs" in problems

    def test_abstract_address(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.bind("\0unisat-test")
            monkeypatch.setenv("NOTIFY_SOCKET", "@unisat-test")
            systemd.notify("READY=1")
            assert listener.recv(100) == b"READY=1"

    def test_that_is_not_there_is_not_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
        systemd.notify("READY=1")
        monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere/socket")
        systemd.notify("READY=1")


class TestClock:
    def test_times_are_corrected_once_it_is_right(self, site: Site) -> None:
        site.clock.right = False
        site.clock.wall = 1_000
        with running(site) as agent:
            site.send()
            site.delivered(1)
            wait_until(lambda: agent.spool.pending("hub") == 0, WAIT_S, "the acknowledgement")
            assert site.status()["clock"]["waiting_for_time"] == 1
            site.clock.wall = 1_700_000_000_000
            site.clock.right = True
            wait_until(
                lambda: (
                    {
                        record["clock"]
                        for server in site.servers.values()
                        for record in server.records("u01").values()
                    }
                    == {"corrected"}
                ),
                WAIT_S,
                "both Kintos to have the right time",
            )
            status = site.status()
            assert status["clock"] == {"synchronised": True, "waiting_for_time": 0, "steps": 1}
            assert site.metrics()["clock_steps_total"] == 1
            (record,) = site.servers["hub"].records("u01").values()
            assert record["timestamp"] == 1_700_000_000

    def test_is_set_right_in_the_first_second(self, site: Site) -> None:
        agent = Service(site.config, site.clock)
        site.clock.wall += 3_600_000
        agent.tick()
        agent.spool.close()
        assert agent.clock_steps == 1


class TestReconcile:
    def test_is_done_when_asked_for(self, site: Site) -> None:
        with running(site) as agent:
            site.send()
            site.delivered(1)
            said = spool_tools.ask(agent.spool.path, RECONCILE_ASKED, RECONCILE_ANSWER, WAIT_S)
            assert said is not None
            assert "records compared" in said
            assert agent.spool.note(RECONCILE_ASKED) is None

    def test_failure_is_told_and_ends_no_thread(self, site: Site) -> None:
        site.servers["hub"].then(Reply(503), on="HEAD *", times=None)
        with running(site) as agent:
            site.send()
            site.delivered(1)
            assert agent.reconciling is not None
            agent.reconciling.hurry()
            wait_until(
                lambda: any("can't count u01" in said for said in site.health()[2]),
                WAIT_S,
                "the failure",
            )
            assert not any(w.restarts for w in agent.workers)
            site.servers["hub"].forget_scripts()
            agent.reconciling.hurry()
            wait_until(lambda: site.health()[2] == [], WAIT_S, "it to be compared again")

    def test_hub_does_not_wait_for_a_frozen_local_kinto(self, site: Site) -> None:
        """The comparison of both did: for 30 s, again and again, the hub got nothing."""
        with running(site) as agent:
            site.send()
            site.delivered(1)
            assert agent.reconciling is not None
            site.servers["local"].then(HANG, times=None)
            asked = len(site.servers["local"].requests)
            agent.reconciling.hurry()
            wait_until(
                lambda: len(site.servers["local"].requests) > asked, WAIT_S, "the comparison"
            )
            for number in range(3):
                site.send()
                site.delivered(number + 2, "hub")
            wait_until(lambda: not agent.spool.pending("hub"), WAIT_S, "the acknowledgement")
            assert agent.spool.pending("local") == 3


class TestRetention:
    def test_kinto_without_the_plugin_is_no_problem_while_there_is_room(self, site: Site) -> None:
        with running(site) as agent:
            site.send()
            site.delivered(1)
            site.clock.advance(FIRST_S)
            wait_until(lambda: agent.retaining.kept, WAIT_S, "the first look")
            assert agent.retaining.kept == Kept(able=False)
            assert not any("full" in text for text in site.health()[2])


def answers(site: Site) -> bool:
    """Whether an agent answers on the status address."""
    with contextlib.suppress(OSError):
        socket.create_connection(site.config.listen).close()
        return True
    return False


def malformed(sink: str) -> list[str]:
    raise SpoolCorruptError(f"malformed: {sink}")


class TestDamage:
    def test_ends_the_agent_and_the_next_start_sets_it_aside(self, site: Site) -> None:
        with running(site, exit_code=EXIT_SPOOL_DAMAGED) as agent:
            site.send()
            site.delivered(1)
            wait_until(lambda: not agent.spool.pending("hub"), WAIT_S, "the acknowledgement")
            agent.spool.devices_waiting = malformed  # type: ignore[method-assign]
            wait_until(lambda: not answers(site), WAIT_S, "the agent to end")
        with running(site):
            site.send()
            site.delivered(2)
            wait_until(lambda: len(site.health()[2]) == 1, WAIT_S, "health")
            assert "a damaged spool was set aside: " in site.health()[2][0]
            assert "spool.db.corrupt-1" in site.health()[2][0]

    def test_second_agent_is_refused(self, site: Site) -> None:
        with running(site), pytest.raises(SpoolBusyError, match="another agent has this spool"):
            Service(site.config, site.clock)


class TestFailingThread:
    def test_failing_takes_no_other_with_it(self, site: Site) -> None:
        with running(site) as agent:
            hub = agent.couriers[1]
            hub.step = broken  # type: ignore[method-assign]
            site.send()
            site.delivered(1, "local")
            wait_until(lambda: agent.workers[1].restarts, WAIT_S, "the thread to fail")
            code, health, problems = site.health()
            assert (code, health) == (503, "failed")
            assert "the thread sync fails: RuntimeError: broken" in problems
            site.send()
            site.delivered(2, "local")
            del hub.step
            site.delivered(2)
            assert {w.name for w in agent.workers if w.restarts} == {"sync"}


def broken() -> float:
    raise RuntimeError("broken")
