"""Signals: SIGTERM and SIGINT end the agent in order, a frozen process goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from rig.replies import HANG
from rig.site import PACKAGE, WAIT_S, Site, Systemd
from rig.wait import wait_until
from unisat_agent.signals import SignalThread
from unisat_agent.spool import tools as spool_tools

HANDLED = frozenset({signal.SIGUSR1, signal.SIGUSR2})


@pytest.fixture
def process(site: Site, systemd_: Systemd) -> Iterator[subprocess.Popen[bytes]]:
    site.write_config()
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
    site: Site, systemd_: Systemd, process: subprocess.Popen[bytes]
) -> None:
    wait_until(lambda: site.get("/healthz"), WAIT_S, "the agent to answer")
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=WAIT_S)
    assert process.returncode == 0


def test_frozen_process_goes_on(
    site: Site, systemd_: Systemd, process: subprocess.Popen[bytes]
) -> None:
    wait_until(lambda: site.get("/healthz"), WAIT_S, "the agent to answer")
    for number in range(3):
        process.send_signal(signal.SIGSTOP)
        # Longer than a round of its loop; the test's own process can't see a frozen one's clock.
        threading.Event().wait(1.3)
        process.send_signal(signal.SIGCONT)
        site.send()
        site.delivered(number + 1)
    assert process.poll() is None
    assert "STOPPING=1" not in systemd_.heard


def reads(site: Site, station: str) -> bool:
    """Whether an agent of this name reads its port."""
    status = site.status()
    return bool(status["station"] == station and status["ports"][0]["state"] == "reading")


def test_sighup_takes_up_another_configuration_and_refuses_a_wrong_one(
    site: Site, systemd_: Systemd, process: subprocess.Popen[bytes]
) -> None:
    wait_until(lambda: reads(site, "publisher"), WAIT_S, "the agent to read")
    good = site.config.path.read_text()
    site.config.path.write_text(good + "[nonsense]\n")
    process.send_signal(signal.SIGHUP)
    wait_until(lambda: "[nonsense]: unknown table" in str(site.health()), WAIT_S, "the refusal")
    site.send()
    site.delivered(1)
    site.config.path.write_text(good)
    process.send_signal(signal.SIGHUP)
    wait_until(lambda: "nonsense" not in str(site.health()), WAIT_S, "the refusal to be over")
    site.config.path.write_text(good.replace("[station]", '[station]\nname = "shymkent"'))
    process.send_signal(signal.SIGHUP)
    wait_until(lambda: reads(site, "shymkent"), WAIT_S, "the new configuration")
    site.send()
    site.delivered(2)
    assert process.poll() is None
    assert "STOPPING=1" not in systemd_.heard
    assert systemd_.heard.count("READY=1") == 2


class TestSignalThread:
    def test_hands_on_each_signal_and_restores_the_mask(self) -> None:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        heard: list[signal.Signals] = []
        with SignalThread(HANDLED, heard.append):
            os.kill(os.getpid(), signal.SIGUSR2)
            wait_until(lambda: heard == [signal.SIGUSR2], WAIT_S, "the first")
            os.kill(os.getpid(), signal.SIGUSR1)
            wait_until(lambda: heard[1:] == [signal.SIGUSR1], WAIT_S, "the second")
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before

    def test_ends_without_a_signal(self) -> None:
        heard: list[signal.Signals] = []
        with SignalThread(HANDLED, heard.append):
            pass
        assert heard == []
