"""The running agent: what it tells systemd and its operator, and how it fails and ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from rig import reserve_port
from rig.cable import Cable
from rig.scripted import HANG, Reply, ScriptedServer
from rig.wait import wait_until
from unisat_agent import __version__, service, spool_tools, systemd, worker
from unisat_agent.config import Config, PortSettings, SinkSettings
from unisat_agent.errors import SpoolBusyError, SpoolCorruptError, SpoolError
from unisat_agent.face import Face, FaceError
from unisat_agent.service import EXIT_SPOOL_DAMAGED, Service
from unisat_agent.worker import Worker

PACKAGE = b"\r\ndevID=u01\r\ntemperature=1\r\nhumidity=2\r\npressure=3\r\npm25=4\r\n\r\n"
WAIT_S = 30.0


@dataclass
class FakeClock:
    """A host's clock that a test sets."""

    right: bool = True
    wall: int = 1_700_000_000_000
    uptime: int = 50_000
    boot_id: str = "boot-a"

    def wall_ms(self) -> int:
        return self.wall

    def uptime_ms(self) -> int:
        return self.uptime

    def synchronised(self) -> bool:
        return self.right


@dataclass
class Site:
    """A cable, two scripted Kintos, and a configuration for them."""

    folder: Path
    cable: Cable
    servers: dict[str, ScriptedServer]
    config: Config
    clock: FakeClock = field(default_factory=FakeClock)

    def get(self, page: str) -> tuple[int, str]:
        host, port = self.config.listen
        try:
            with urllib.request.urlopen(f"http://{host}:{port}{page}", timeout=WAIT_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def status(self) -> Any:
        return json.loads(self.get("/status")[1])

    def health(self) -> tuple[int, str, list[str]]:
        code, text = self.get("/healthz")
        body = json.loads(text)
        return code, body["health"], body["problems"]

    def metrics(self) -> dict[str, float]:
        """Samples by name and label values, as "unisat_agent_acks_total hub"."""
        return {
            " ".join((sample.name.removeprefix("unisat_agent_"), *sample.labels.values())): (
                sample.value
            )
            for family in text_string_to_metric_families(self.get("/metrics")[1])
            for sample in family.samples
        }

    def send(self, data: bytes = PACKAGE) -> None:
        assert self.cable.write(data) == len(data)

    def delivered(self, count: int, *sides: str) -> None:
        wait_until(
            lambda: all(
                len(self.servers[side].records("u01")) == count
                for side in sides or tuple(self.servers)
            ),
            WAIT_S,
            lambda: f"{count} records, {[s.tree for s in self.servers.values()]}",
        )


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(service, "TICK_S", 0.02)
    monkeypatch.setattr(worker, "RESTART_FIRST_S", 0.01)
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    with (
        tempfile.TemporaryDirectory() as name,
        ScriptedServer() as local,
        ScriptedServer() as hub,
        reserve_port() as holder,
    ):
        folder = Path(name)
        cable = Cable(folder / "usb-UniSat")
        config = Config(
            path=folder / "agent.toml",
            station="almaty",
            devices=frozenset(),
            spool_path=folder / "spool.db",
            spool_max_bytes=16 * 1024 * 1024,
            history_days=7.0,
            ports=(PortSettings(port=str(cable.name)),),
            local=SinkSettings("local", local.url, "agent", "x", read_timeout_s=60.0),
            hub=SinkSettings("hub", hub.url, "almaty", "y", read_timeout_s=60.0),
            clock_synchronised="always",
            hold_s=0.0,
            listen=("127.0.0.1", holder.getsockname()[1]),
        )
        yield Site(folder, cable, {"local": local, "hub": hub}, config)
        cable.close()


@contextlib.contextmanager
def running(site: Site) -> Iterator[Service]:
    """The agent in threads of this process, until the block ends."""
    made = Service(site.config, site.clock)
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(made.run()))
    thread.start()
    try:
        wait_until(lambda: site.get("/healthz"), WAIT_S, "the agent to answer")
        yield made
    finally:
        made._stop.set()
        thread.join(WAIT_S)
        assert not thread.is_alive()
    assert codes == [made._exit]


class Systemd:
    """Listens where services say how they are."""

    def __init__(self, listener: socket.socket) -> None:
        self.heard: list[str] = []
        self._listener = listener
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while word := self._listener.recv(4096).decode():
            self.heard.append(word)

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self._listener.getsockname())
        self._thread.join()


@pytest.fixture
def systemd_(monkeypatch: pytest.MonkeyPatch) -> Iterator[Systemd]:
    # Not pytest's folder, whose path may be too long for a socket.
    with (
        tempfile.TemporaryDirectory(prefix="unisat-notify-") as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener,
    ):
        listener.bind(f"{folder}/socket")
        monkeypatch.setenv("NOTIFY_SOCKET", f"{folder}/socket")
        made = Systemd(listener)
        yield made
        made.close()


class TestPath:
    def test_package_goes_to_both_kintos(self, site: Site) -> None:
        with running(site):
            for number in range(3):
                site.send()
                site.delivered(number + 1)

    def test_without_a_hub_there_is_no_sync_thread(self, site: Site) -> None:
        site.config = replace(site.config, hub=None)
        with running(site) as agent:
            assert [w.name for w in agent.workers] == ["store", "serial-0"]
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

    def test_is_not_fed_while_a_thread_hangs(
        self, site: Site, systemd_: Systemd, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(service, "STALL_S", 1.0)
        site.servers["hub"].then(HANG, times=None)
        with running(site) as agent:
            site.send()
            wait_until(lambda: agent.stalled() == ["sync"], WAIT_S, "the sync thread to hang")
            ticks = count_ticks(agent)
            wait_until(lambda: ticks() > 1, WAIT_S, "a round to begin with it hanging")
            fed, since = len(systemd_.heard), ticks()
            wait_until(lambda: ticks() > since + 10, WAIT_S, "some rounds")
            assert len(systemd_.heard) == fed
            code, health, problems = site.health()
            assert (code, health) == (503, "failed")
            assert "the thread sync hangs" in problems
            site.delivered(1, "local")

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


def count_ticks(agent: Service) -> Callable[[], int]:
    tick = agent._tick
    count = [0]

    def counting() -> None:
        tick()
        count[0] += 1

    agent._tick = counting  # type: ignore[method-assign]
    return lambda: count[0]


class TestPages:
    def test_health_is_good(self, site: Site) -> None:
        with running(site):
            wait_until(lambda: site.health() == (200, "ok", []), WAIT_S, "the port to be read")

    def test_status_says_what_an_operator_asks(self, site: Site) -> None:
        with running(site):
            site.send()
            site.delivered(1)
            wait_until(
                lambda: not any(s["pending"] for s in site.status()["sinks"].values()),
                WAIT_S,
                "the acknowledgements",
            )
            status = site.status()
        record = status.pop("last_record")
        assert (record["devID"], record["seq"], record["humidity"]) == ("u01", 1, 2.0)
        assert status.pop("spool") == {
            "path": str(site.config.spool_path),
            "bytes": pytest.approx(20_000, rel=1),
            "last_seq": 1,
            "waiting_for_room": 0,
            "quarantined": 0,
        }
        (port,) = status.pop("ports")
        assert port == {
            "name": str(site.cable.name),
            "state": "reading",
            "device": str(site.cable.device),
            "detail": f"reading {site.cable.name}",
            "bytes": len(PACKAGE),
            "reconnects": 0,
        }
        sinks = status.pop("sinks")
        assert sinks["local"] == sinks["hub"] == {
            "state": "delivering",
            "pending": 0,
            "oldest_s": 0.0,
            "acked": 1,
            "retries": 0,
            "dead": 0,
            "detail": "",
        }  # fmt: skip
        assert set(status.pop("reconcile")) == {"last", "failure"}
        assert status == {
            "station": "almaty",
            "version": __version__,
            "health": "ok",
            "problems": [],
            "clock": {"synchronised": True, "waiting_for_time": 0, "steps": 0},
        }

    def test_metrics_count_what_happens(self, site: Site) -> None:
        site.servers["hub"].then(Reply(400), on="PUT *")
        with running(site):
            site.send(b"\r\ndevID=u01\r\ntemperature=nan\r\npm25=4\r\n\r\n")
            wait_until(
                lambda: site.metrics().get("dead_letters refused hub"), WAIT_S, "a dead letter"
            )
            wait_until(lambda: site.metrics().get("acks_total local"), WAIT_S, "an ack")
            site.cable.unplug()
            site.cable.plug(elsewhere=True)
            wait_until(
                lambda: site.metrics()[f"reconnects_total {site.cable.name}"] == 1,
                WAIT_S,
                "the reconnect",
            )
            found = site.metrics()
            assert site.health()[:2] == (200, "degraded")
            assert "hub: 1 dead letters: unisat-agent dead list" in site.health()[2]
        expected = {
            "packages_total u01": 1,
            "bad_lines_total bad_value": 1,
            "missing_fields_total temperature": 1,
            "missing_fields_total humidity": 1,
            "missing_fields_total pressure": 1,
            "dropped_packages_total": 0,
            "memory_packages": 0,
            "quarantined_lines": 1,
            "clock_synchronised": 1,
            "unsynced_packages": 0,
            "clock_steps_total": 0,
            "pending_packages local": 0,
            "pending_packages hub": 0,
            "oldest_unacknowledged_seconds local": 0,
            "oldest_unacknowledged_seconds hub": 0,
            "acks_total local": 1,
            "acks_total hub": 0,
            "retries_total local": 0,
            "retries_total hub": 0,
            "dead_letters refused hub": 1,
            "thread_restarts_total store": 0,
            "thread_restarts_total sync": 0,
            "thread_restarts_total serial-0": 0,
        }
        assert {name: found[name] for name in expected} == expected
        assert found["spool_bytes"] > 1000

    def test_age_of_the_oldest_package(self, site: Site) -> None:
        site.servers["hub"].then(Reply(401), on="PUT *", times=None)
        with running(site):
            site.send()
            wait_until(lambda: site.status()["sinks"]["hub"]["pending"], WAIT_S, "the package")
            site.clock.uptime += 90_000
            site.clock.wall -= 10**9
            assert site.metrics()["oldest_unacknowledged_seconds hub"] == 90.0

    def test_refused_account_is_a_failure(self, site: Site) -> None:
        site.servers["hub"].then(Reply(401), on="PUT *", times=None)
        with running(site):
            site.send()
            wait_until(lambda: site.health()[0] == 503, WAIT_S, "health to turn red")
            (said,) = site.health()[2]
            assert "refuses the account almaty" in said
            assert site.status()["sinks"]["hub"]["state"] == "paused"
            site.delivered(1, "local")

    def test_threads_that_have_not_started_yet_do_not_hang(self, site: Site) -> None:
        agent = Service(site.config, site.clock)
        assert agent.stalled() == []
        agent.spool.close()

    def test_what_others_on_the_host_tell_is_passed_on(self, site: Site) -> None:
        folder = site.folder / "notices"
        site.config = replace(site.config, notices=folder)
        with running(site):
            wait_until(lambda: site.health()[1] == "ok", WAIT_S, "good health")
            folder.mkdir()
            (folder / "a").write_bytes(b"first\n\n  second \xff\n")
            (folder / "b").write_text("x" * 5000 + "\n" + "more\n" * 100)
            (folder / ".c").write_text("half wri")
            (folder / "d").mkdir()
            code, health, problems = site.health()
            assert (code, health) == (200, "degraded")
            assert problems[:3] == ["first", "second \ufffd", "x" * 300]
            assert len(problems) == 20
            for file in ("a", "b"):
                (folder / file).unlink()
            assert site.health() == (200, "ok", [])

    def test_missing_port_and_wrong_clock_are_told(self, site: Site) -> None:
        site.cable.unplug()
        site.clock.right = False
        with running(site):
            for trouble in ("there is no port", "the clock is not synchronised yet"):
                wait_until(lambda trouble=trouble: trouble in str(site.health()), WAIT_S, trouble)  # type: ignore[misc]
            assert site.health()[:2] == (200, "degraded")

    def test_unknown_page(self, site: Site) -> None:
        with running(site):
            code, text = site.get("/x")
        assert code == 404
        assert json.loads(text) == {"pages": ["/healthz", "/status", "/metrics"]}

    def test_spool_that_can_not_be_read_is_503(self, site: Site) -> None:
        agent = Service(site.config, site.clock)
        with Face(site.config.listen, agent):
            agent.spool.close()
            for page in ("/healthz", "/status", "/metrics"):
                code, text = site.get(page)
                assert code == 503
                assert json.loads(text)["health"] == "failed"

    def test_address_that_is_taken(self, site: Site) -> None:
        with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
            site.config = replace(site.config, listen=taken.getsockname())
            agent = Service(site.config, site.clock)
            with pytest.raises(FaceError, match="can't be used: Address already in use: does anot"):
                agent.run()
            agent.spool.close()


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
        agent._tick()
        agent.spool.close()
        assert agent.clock_steps == 1

    def test_history_is_not_evicted_by_a_clock_that_may_be_wrong(self, site: Site) -> None:
        agent = Service(site.config, site.clock)
        spans: list[int | None] = []

        def tidy(history_before_ms: int | None) -> int:
            spans.append(history_before_ms)
            return 0

        agent.spool.tidy = tidy  # type: ignore[method-assign]
        agent._tidy()
        site.clock.right = False
        agent._tidy()
        agent.spool.close()
        assert spans == [1_700_000_000_000 - 7 * 86_400_000, None]


class TestReconcile:
    def test_is_done_when_asked_for(self, site: Site) -> None:
        with running(site) as agent:
            site.send()
            site.delivered(1)
            said = spool_tools.ask(
                agent.spool.path, service.RECONCILE_ASKED, service.RECONCILE_ANSWER, WAIT_S
            )
            assert said is not None
            assert "records compared" in said
            assert agent.spool.note(service.RECONCILE_ASKED) is None

    def test_failure_is_told_and_ends_no_thread(self, site: Site) -> None:
        site.servers["hub"].then(Reply(503), on="HEAD *", times=None)
        with running(site) as agent:
            site.send()
            site.delivered(1)
            agent.reconciling.due_at = 0.0
            wait_until(
                lambda: any("can't count u01" in said for said in site.health()[2]),
                WAIT_S,
                "the failure",
            )
            assert [w.restarts for w in agent.workers] == [0, 0, 0]
            due_at = agent.reconciling.due_at
            site.servers["hub"].forget_scripts()
            agent.reconciling.due_at = 0.0
            wait_until(lambda: site.health()[2] == [], WAIT_S, "it to be compared again")
            assert agent.reconciling.due_at > due_at


class TestDamage:
    def test_ends_the_agent_and_the_next_start_sets_it_aside(self, site: Site) -> None:
        with running(site) as agent:
            site.send()
            site.delivered(1)
            wait_until(lambda: not agent.spool.pending("hub"), WAIT_S, "the acknowledgement")
            agent.spool._db.execute("UPDATE package SET record_id = x'00', hub = 0")
            agent.spool.recount()
            wait_until(lambda: agent._exit == EXIT_SPOOL_DAMAGED, WAIT_S, "the damage to be seen")
        with running(site):
            site.send()
            site.delivered(2)
            wait_until(lambda: len(site.health()[2]) == 1, WAIT_S, "health")
            assert "a damaged spool was set aside: " in site.health()[2][0]
            assert "spool.db.corrupt-1" in site.health()[2][0]

    def test_second_agent_is_refused(self, site: Site) -> None:
        with running(site), pytest.raises(SpoolBusyError, match="another agent has this spool"):
            Service(site.config, site.clock)


class TestWorker:
    def make(
        self, job: Callable[[Callable[[], None]], None], stop: threading.Event
    ) -> tuple[Worker, list[SpoolCorruptError]]:
        corrupt: list[SpoolCorruptError] = []
        return Worker("job", job, stop, corrupt.append), corrupt

    @pytest.mark.parametrize(
        ("error", "said"),
        [(ZeroDivisionError("x"), "ZeroDivisionError: x"), (SpoolError("no room"), "no room")],
    )
    def test_is_started_again(self, error: Exception, said: str, site: Site) -> None:
        stop = threading.Event()
        calls: list[str] = []

        def job(beat: Callable[[], None]) -> None:
            calls.append("")
            if len(calls) < 3:
                raise error
            while not stop.wait(0.01):
                beat()

        made, corrupt = self.make(job, stop)
        made.thread.start()
        wait_until(lambda: len(calls) == 3, WAIT_S, "the third life")
        assert (made.restarts, made.failure, corrupt) == (2, said, [])
        stop.set()
        made.thread.join(WAIT_S)
        assert not made.thread.is_alive()

    def test_failure_is_forgotten_once_it_works(self) -> None:
        made, _ = self.make(lambda _: None, threading.Event())
        made._failed("x")
        made.beat()
        assert made.failure == "x"
        made._failed_at -= worker.RESTART_MAX_S + 1
        made.beat()
        assert made.failure == ""

    def test_damage_is_handed_on(self, site: Site) -> None:
        stop = threading.Event()

        def job(_: Callable[[], None]) -> None:
            stop.set()
            raise SpoolCorruptError("damaged")

        made, corrupt = self.make(job, stop)
        made.thread.start()
        made.thread.join(WAIT_S)
        assert [str(error) for error in corrupt] == ["damaged"]

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
            assert [w.restarts for w in agent.workers[::2]] == [0, 0]


def broken() -> float:
    raise RuntimeError("broken")


class TestSignal:
    @pytest.fixture
    def process(self, site: Site, systemd_: Systemd) -> Iterator[subprocess.Popen[bytes]]:
        for name in ("local", "hub"):
            secret = site.folder / f"{name}.password"
            secret.touch(mode=0o600)
            secret.write_text("x")
        lines = [
            f'[spool]\npath = "{site.config.spool_path}"',
            f'[[serial]]\nport = "{site.cable.name}"',
            *(
                f'[{name}]\nurl = "{server.url}"\nuser = "u"\nread_timeout_s = 60\n'
                f'password_file = "{site.folder}/{name}.password"'
                for name, server in site.servers.items()
            ),
            '[clock]\nsynchronised = "always"',
            f'[status]\nlisten = "127.0.0.1:{site.config.listen[1]}"',
        ]
        site.config.path.write_text("\n".join(lines))
        process = subprocess.Popen(
            [sys.executable, "-m", "unisat_agent", "--config", str(site.config.path), "run"],
            stderr=subprocess.PIPE,
            env={**os.environ, "JOURNAL_STREAM": "1:1"},
        )
        yield process
        process.kill()
        process.communicate()

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_finishes_the_package_in_hand_and_waits_for_no_answer(
        self,
        site: Site,
        systemd_: Systemd,
        process: subprocess.Popen[bytes],
        number: signal.Signals,
    ) -> None:
        site.servers["hub"].then(HANG, on="POST *", times=None)
        wait_until(lambda: site.status()["ports"][0]["state"] == "reading", WAIT_S, "the port")
        site.send()
        wait_until(site.servers["hub"].batches, WAIT_S, "the hub to be silent")
        site.send(PACKAGE[:-10])
        assert site.cable.drained(WAIT_S)
        process.send_signal(number)
        wait_until(lambda: "STOPPING=1" in systemd_.heard, WAIT_S, "the end to begin")
        site.send(PACKAGE[-10:])
        # Well before the hub's time-out of 60 s
        _, log = process.communicate(timeout=WAIT_S)
        assert process.returncode == 0
        assert systemd_.heard[0] == "READY=1"
        assert spool_tools.count(site.config.spool_path)["packages"] == 2
        assert spool_tools.count(site.config.spool_path)["waiting for hub"] == 2
        lines = log.decode().splitlines()
        assert lines
        assert all(line.startswith(("<3>", "<4>", "<6>", "<7>")) for line in lines)
        assert not any("Traceback" in line for line in lines)

    def test_asked_twice_it_ends_the_same_way(
        self, site: Site, systemd_: Systemd, process: subprocess.Popen[bytes]
    ) -> None:
        wait_until(lambda: site.get("/healthz"), WAIT_S, "the agent to answer")
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=WAIT_S)
        assert process.returncode == 0
