"""The commands beside a running agent, by a user who may not read its passwords."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from rig.replies import CLOSE, Reply
from rig.site import PACKAGE, WAIT_S, Site, running
from rig.wait import wait_until
from unisat_agent.cli.main import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    path = site.write_config(passwords=False)

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["--config", str(path), *words])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def deliver(site: Site) -> None:
    site.send()
    site.delivered(1)
    wait_until(
        lambda: not any(sink["pending"] for sink in site.status()["sinks"].values()),
        WAIT_S,
        "the acknowledgements",
    )


class TestCheck:
    def test_asks_the_agent_what_takes_a_password(self, site: Site, run: Run) -> None:
        with running(site):
            deliver(site)
            code, out, err = run("check")
        assert (code, err) == (0, ""), out
        lines = out.splitlines()
        assert f"ok   port {site.cable.name}: reading {site.cable.name}" in lines
        for name, server in site.servers.items():
            assert f"ok   {name}: {server.url}: the agent is delivering, 0 pending" in lines

    def test_tells_what_the_agent_knows_to_be_wrong(self, site: Site, run: Run) -> None:
        site.servers["hub"].then(Reply(401), on="PUT *", times=None)
        with running(site):
            site.send()
            wait_until(lambda: site.health()[0] == 503, WAIT_S, "health to turn red")
            code, out, _ = run("check")
        assert code == 1
        wrong = [line for line in out.splitlines() if line.startswith("FAIL")]
        assert any(line.startswith("FAIL hub: ") and "paused" in line for line in wrong)
        assert any("refuses the account almaty" in line for line in wrong)

    def test_without_an_agent_says_what_it_could_not_try(self, site: Site, run: Run) -> None:
        code, out, err = run("check", "--listen", "0.2")
        assert (code, err) == (1, "")
        assert "FAIL hub: no agent is running, and this user may not read the password" in out

    def test_json(self, site: Site, run: Run) -> None:
        with running(site):
            deliver(site)
            code, out, _ = run("check", "--json")
        found = json.loads(out)
        assert (code, found["ok"]) == (0, True)
        assert {"ok", "subject", "text"} == set(found["findings"][0])


class TestProvisionedStation:
    """The passwords are where the role puts them, and $CREDENTIALS_DIRECTORY is the unit's."""

    def provision(self, site: Site) -> None:
        credentials = site.folder / "credentials"
        credentials.mkdir(mode=0o700)
        for sink in site.config.sinks:
            (credentials / f"{sink.name}.password").write_text(f"{sink.password}\n")

    def test_check_tries_the_accounts_itself(self, site: Site, run: Run) -> None:
        self.provision(site)
        with running(site):
            deliver(site)
            code, out, _ = run("check")
        assert code == 0, out
        assert f"ok   hub: {site.servers['hub'].url} accepts account:" in out

    def test_reconcile_without_an_agent(self, site: Site, run: Run) -> None:
        self.provision(site)
        code, out, _ = run("reconcile")
        assert code == 0
        assert "records compared" in out


class TestReconcile:
    def test_agent_does_it(self, site: Site, run: Run) -> None:
        with running(site):
            deliver(site)
            code, out, _ = run("reconcile")
        assert code == 0, out
        assert "records compared" in out

    def test_hub_out_of_reach_is_told_within_seconds(self, site: Site, run: Run) -> None:
        with running(site):
            deliver(site)
            site.servers["hub"].then(CLOSE, times=None)
            site.send()
            wait_until(
                lambda: site.status()["sinks"]["hub"]["state"] == "backing_off",
                WAIT_S,
                "the agent to notice",
            )
            code, out, err = run("reconcile")
        assert (code, out) == (1, "")
        assert site.servers["hub"].url in err
        assert "by itself" in err

    def test_without_an_agent_it_takes_the_passwords(self, site: Site, run: Run) -> None:
        code, _, err = run("reconcile")
        assert code == 2
        assert "no password" in err


class TestPorts:
    def test_port_that_the_agent_reads_is_listed(self, site: Site, run: Run) -> None:
        with running(site):
            deliver(site)
            code, out, _ = run("ports", "--listen", "0.2")
        assert code == 0
        assert f"{site.cable.name}: the agent reads it, {len(PACKAGE)} bytes so far" in out
        assert "another program" not in out


class TestStatus:
    def test_watch_shows_it_again_and_again_until_ctrl_c(self, site: Site) -> None:
        path = site.write_config(passwords=False)
        words = [sys.executable, "-m", "unisat_agent", "--config", str(path), "status", "--watch"]
        with running(site):
            deliver(site)
            with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout is not None
                shown = 0
                while shown < 2:
                    shown += "almaty: ok" in process.stdout.readline()
                process.send_signal(signal.SIGINT)
                assert process.wait(WAIT_S) == 130
