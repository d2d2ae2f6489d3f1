"""Each command as an operator types it: what it prints, and with which code it ends."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from rig import reserve_port
from rig.cable import Cable
from rig.replies import CLOSE, PORTAL, Reply
from rig.scripted import ScriptedServer
from unisat_agent.cli import check as checking
from unisat_agent.cli import main as cli
from unisat_agent.cli import ports as cli_ports
from unisat_agent.clock import ClockState
from unisat_agent.config.model import PortSettings
from unisat_agent.record import Stamp
from unisat_agent.serial import ports
from unisat_agent.spool.quarantine import Quarantined
from unisat_agent.spool.queue import Spool
from unisat_agent.spool.repair import Salvage, open_spool
from unisat_agent.spool.schema import SINKS

PACKAGE = b"\r\ndevID=u01\r\npm25=4\r\n\r\n"


class Desk:
    """An operator's place: a configuration, two Kintos, a cable, a spool."""

    def __init__(
        self, folder: Path, capsys: pytest.CaptureFixture[str], servers: list[ScriptedServer]
    ) -> None:
        self.folder = folder
        self.spool = folder / "spool.db"
        self.cable = Cable(folder / "usb-UniSat")
        self.local, self.hub = servers
        self._capsys = capsys
        self._status = reserve_port()
        self.listen: int = self._status.getsockname()[1]
        secret = folder / "password"
        secret.touch(mode=0o600)
        secret.write_text("secret")
        self.write()

    def write(self, clock: str = "always", port: str = "", hub: str = "") -> None:
        table = 'user = "me"\npassword_file = "{0}/password"\nread_timeout_s = 0.5\n'
        (self.folder / "agent.toml").write_text(
            f'[station]\ndevices = ["u01"]\n[spool]\npath = "{self.spool}"\n'
            f'[[serial]]\nport = "{port or self.cable.name}"\ncandidates = ["{self.cable.name}"]\n'
            f'[local]\nurl = "{self.local.url}"\n{table.format(self.folder)}'
            f'[hub]\nurl = "{hub or self.hub.url}"\n{table.format(self.folder)}'
            f'[clock]\nsynchronised = "{clock}"\n[status]\nlisten = "127.0.0.1:{self.listen}"\n'
        )

    def run(self, *words: str) -> tuple[int, str, str]:
        """Code, output, errors."""
        self._capsys.readouterr()
        code = cli.main(["--config", str(self.folder / "agent.toml"), *words])
        said = self._capsys.readouterr()
        return code, said.out, said.err

    def failing(self, *words: str) -> str:
        """The one line of a command that fails."""
        code, out, err = self.run(*words)
        assert (code, out) == (1, "")
        (line,) = err.splitlines()
        assert line.startswith("unisat-agent: ")
        return line

    def fill(self, count: int = 3, refused: int = 0) -> list[uuid.UUID]:
        spool = Spool(self.spool, SINKS, "boot", 1 << 24)
        stamp = Stamp(1_661_000_000_000, 5_000, "boot", ClockState.SYNCED)
        rows = [spool.append("u01", json.dumps({"n": n}), stamp, []) for n in range(count)]
        for row in rows[:refused]:
            spool.bury("hub", row, "refused", "400 why")
        spool.close()
        return [row.record_id for row in rows]

    def check(self) -> tuple[int, dict[str, str], dict[str, str]]:
        """The code, what is well and what is not."""
        self.cable.write(PACKAGE * 2)
        code, out, err = self.run("check", "--listen", "0.5")
        assert err == ""
        lines = out.splitlines()
        found = [(line[:4], *line[5:].split(": ", 1)) for line in lines]
        assert all(mark in {"ok  ", "FAIL"} for mark, *_ in found)
        return (
            code,
            {subject: text for mark, subject, text in found if mark == "ok  "},
            {subject: text for mark, subject, text in found if mark == "FAIL"},
        )

    def close(self) -> None:
        self.cable.close()
        self._status.close()


@pytest.fixture
def desk(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with tempfile.TemporaryDirectory() as name, ScriptedServer() as a, ScriptedServer() as b:
        for server in (a, b):
            server.kinto.tree = {"telemetry": {"u01": {}}}
        made = Desk(Path(name), capsys, [a, b])
        yield made
        made.close()


class TestUsage:
    @pytest.mark.parametrize(
        "words", [[], ["nonsense"], ["spool"], ["dead", "retry", "x"], ["dead", "drop"]]
    )
    def test_wrong_command_line_is_2(self, desk: Desk, words: list[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            desk.run(*words)
        assert caught.value.code == 2

    @pytest.mark.parametrize(
        "words", [["run"], ["check"], ["status"], ["spool", "check"], ["dead", "list"]]
    )
    def test_wrong_configuration_is_2_and_a_line_for_each_problem(
        self, desk: Desk, words: list[str]
    ) -> None:
        (desk.folder / "agent.toml").write_text("[spool]\nx = 1\ny = 2\n[local]\nz = 3\n")
        code, out, err = desk.run(*words)
        assert (code, out) == (2, "")
        assert len(err.splitlines()) >= 3
        assert all(line.startswith(str(desk.folder)) for line in err.splitlines())

    def test_ctrl_c_is_130(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(cli_ports, "list_ports", interrupted)
        assert desk.run("ports")[0] == 130


class TestRun:
    def test_second_agent(self, desk: Desk) -> None:
        spool = Spool(desk.spool, SINKS, "boot", 1 << 24)
        assert "another agent has this spool: stop it first" in desk.failing("run")
        spool.close()

    def test_spool_of_a_newer_agent(self, desk: Desk) -> None:
        desk.fill(1)
        with contextlib.closing(sqlite3.connect(desk.spool)) as db, db:
            db.execute("PRAGMA user_version = 99")
        for words in (["run"], ["spool", "check"], ["dead", "list"], ["quarantine", "list"]):
            said = desk.failing(*words)
            assert f"{desk.spool}: was written by a newer agent (schema 99, this one knows" in said
            assert "install that version or a later one" in said


class TestStatus:
    def test_no_agent_runs(self, desk: Desk) -> None:
        said = desk.failing("status")
        assert f"no agent answers on 127.0.0.1:{desk.listen}: start it" in said


class TestPorts:
    def test_each_port_that_is_configured_is_described(self, desk: Desk) -> None:
        desk.cable.write(PACKAGE * 2)
        code, out, _ = desk.run("ports", "--listen", "1")
        assert code == 0
        assert f"{desk.cable.name}: PSoTT from u01" in out
        assert str(desk.cable.name) in desk.run("ports", "--listen", "0")[1]

    def test_there_is_none(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cli_ports, "list_ports", lambda _: [])
        assert desk.run("ports") == (1, "there is no serial port: plug the device in\n", "")


class TestSpool:
    def test_check(self, desk: Desk) -> None:
        desk.fill(3, refused=1)
        code, out, _ = desk.run("spool", "check")
        assert code == 0
        assert "3 packages" in out
        assert "1 dead letters" in out
        assert out.endswith(f"{desk.spool}: intact\n")

    def test_check_of_a_damaged_one(self, desk: Desk) -> None:
        desk.spool.write_bytes(b"no database" * 100)
        code, out, _ = desk.run("spool", "check")
        assert code == 1
        assert "DAMAGED: restart the agent, it sets the spool aside" in out

    def test_check_of_wrong_counts_which_a_start_would_not_see(self, desk: Desk) -> None:
        desk.fill(3)
        with contextlib.closing(sqlite3.connect(desk.spool)) as db, db:
            db.execute("UPDATE tally SET hub = 0")
        code, out, _ = desk.run("spool", "check")
        assert code == 1
        assert "the count of hub is 0, but there are 3" in out
        spool = open_spool(desk.spool, SINKS, "boot-a", 64 * 1024 * 1024)
        Salvage(spool).run()
        assert spool.pending("hub") == 3
        spool.close()

    def test_none_yet(self, desk: Desk) -> None:
        for words in (["spool", "check"], ["spool", "export"], ["dead", "list"]):
            assert "there is no spool yet" in desk.failing(*words)

    def test_export(self, desk: Desk) -> None:
        ids = desk.fill(3)
        code, out, err = desk.run("spool", "export", "--format", "jsonl")
        assert (code, err) == (0, "3 records exported\n")
        assert [json.loads(line)["id"] for line in out.splitlines()] == [str(i) for i in ids]
        file = desk.folder / "out.csv"
        assert desk.run("spool", "export", "--output", str(file))[:2] == (0, "")
        assert len(file.read_text().splitlines()) == 4

    def test_export_of_a_device_and_a_time(self, desk: Desk) -> None:
        desk.fill(3)
        export = ("spool", "export", "--format", "jsonl")
        assert desk.run(*export, "--device", "u02")[1:] == ("", "0 records exported\n")
        assert desk.run(*export, "--since", "2022-08-20", "--until", "2022-08-21")[2][0] == "3"
        assert desk.run(*export, "--since", "2022-08-20 12:53:21")[2][0] == "0"
        assert desk.run(*export, "--until", "2022-08-20T12:53:20+00:00")[2][0] == "0"

    def test_discard_of_a_device_that_does_not_exist(self, desk: Desk) -> None:
        desk.fill(3)
        assert "the spool has no rows of u02" in desk.failing("spool", "discard", "u02")
        assert desk.run("spool", "discard", "u01") == (0, "3 rows of u01 deleted\n", "")
        assert desk.run("spool", "check")[0] == 0

    def test_restore_of_a_file_that_is_not_there(self, desk: Desk) -> None:
        missing = desk.folder / "missing.db"
        assert f"{missing}: there is no such file" in desk.failing("spool", "restore", str(missing))

    def test_export_to_where_none_can_write(self, desk: Desk) -> None:
        desk.fill()
        said = desk.failing("spool", "export", "--output", str(desk.folder))
        assert "can't be written: Is a directory" in said


class TestQuarantine:
    def test_lines_with_port_reason_and_bytes(self, desk: Desk) -> None:
        desk.fill(1)
        assert desk.run("quarantine", "list") == (0, "quarantine is empty\n", "")
        spool = Spool(desk.spool, SINKS, "boot", 1 << 24)
        stamp = Stamp(1_661_000_000_000, 5_000, "boot", ClockState.SYNCED)
        bad = [Quarantined("/dev/ttyUSB0", "bad_value", b"pm25=na\xff")]
        spool.append("u01", "{}", stamp, bad)
        spool.close()
        line = "2022-08-20T12:53:20.000Z  /dev/ttyUSB0  bad value: pm25=na\\xff\n"
        assert desk.run("quarantine", "list") == (0, line, "")
        (found,) = desk.run("quarantine", "list", "--json", "--lines", "1")[1].splitlines()
        assert json.loads(found)["reason"] == "bad_value"


class TestDead:
    def test_list(self, desk: Desk) -> None:
        assert desk.fill(2)
        assert desk.run("dead", "list") == (0, "no dead letters\n", "")
        assert desk.run("dead", "list", "--json") == (0, "", "")

    def test_list_and_retry(self, desk: Desk) -> None:
        first, second, _ = desk.fill(3, refused=2)
        out = desk.run("dead", "list")[1]
        assert out.splitlines()[0] == f"{first}  u01  2022-08-20T12:53:20.000Z  hub: 400 why"
        letters = [json.loads(line) for line in desk.run("dead", "list", "--json")[1].splitlines()]
        assert [x["record"]["id"] for x in letters] == [str(first), str(second)]
        done = "1 dead letter will be delivered again\n"
        assert desk.run("dead", "retry", str(second)) == (0, done, "")
        assert f"no dead letter has the id {second}" in desk.failing("dead", "retry", str(second))
        assert desk.run("dead", "retry")[:2] == (0, done)

    def test_export_and_drop(self, desk: Desk) -> None:
        first, second, _ = desk.fill(3, refused=2)
        file = desk.folder / "dead.jsonl"
        code, out, err = desk.run("dead", "export", "--output", str(file))
        assert (code, out, err) == (0, "", "2 dead letters exported\n")
        letters = [json.loads(line) for line in file.read_text().splitlines()]
        assert [x["record"]["id"] for x in letters] == [str(first), str(second)]
        unknown = uuid.uuid4()
        assert str(unknown) in desk.failing("dead", "drop", str(first), str(unknown))
        assert desk.run("dead", "drop", str(first)) == (0, "1 dead letter given up\n", "")
        assert str(second) in desk.run("dead", "list")[1]
        assert desk.run("dead", "drop", "--all")[1] == "1 dead letter given up\n"
        assert desk.run("dead", "list")[1] == "no dead letters\n"


class TestReconcile:
    def test_without_an_agent(self, desk: Desk) -> None:
        code, out, _ = desk.run("reconcile")
        assert code == 0
        assert out.endswith("what is missing is delivered when the agent runs\n")

    def test_sink_out_of_reach(self, desk: Desk) -> None:
        desk.fill(1, refused=1)
        desk.local.kinto.tree = {"telemetry": {"u01": {}}}
        spool = Spool(desk.spool, SINKS, "boot", 1 << 24)
        spool.settle("local", [waiting.row for waiting in spool.take("local", "u01", 9)])
        spool.close()
        desk.hub.then(PORTAL, times=None)
        code, out, err = desk.run("reconcile")
        assert code == 1
        assert "not Kinto's JSON" in out + err
        desk.hub.forget_scripts()
        desk.hub.then(CLOSE, times=None)
        assert "Remote end closed connection" in desk.failing("reconcile")


class TestCheck:
    def test_offline(self, desk: Desk) -> None:
        code, out, _ = desk.run("check", "--offline")
        assert (code, out) == (0, f"{desk.folder}/agent.toml: ok\n")

    def test_all_is_well(self, desk: Desk) -> None:
        code, well, wrong = desk.check()
        assert (code, wrong) == (0, {})
        assert well[f"port {desk.cable.name}"] == "PSoTT from u01"
        assert set(well) == {
            *("configuration", "status", f"port {desk.cable.name}", "clock", "disk", "spool"),
            *("local", "local u01", "hub", "hub u01"),
        }

    def test_wrong_port_says_which_speak_psott(self, desk: Desk) -> None:
        desk.write(port="/dev/none")
        code, _, wrong = desk.check()
        assert code == 1
        assert "there is no port /dev/none" in wrong["port /dev/none"]
        assert f"PSoTT is spoken on: {desk.cable.name}" in wrong["port /dev/none"]

    def test_busy_port(self, desk: Desk) -> None:
        with ports.open_port(str(desk.cable.name), PortSettings()):
            assert "another program has" in desk.check()[2][f"port {desk.cable.name}"]

    def test_silent_port(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(desk.cable, "write", len)
        assert desk.check()[2] == {f"port {desk.cable.name}": "silent"}

    def test_denied_port(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        def denied(name: str, _: object) -> None:
            raise ports.PortDeniedError(f"user x may not open {name}: add the user to dialout")

        monkeypatch.setattr(checking, "open_port", denied)
        assert "may not open" in desk.check()[2][f"port {desk.cable.name}"]

    def test_wrong_password(self, desk: Desk) -> None:
        desk.hub.then(Reply(200, {"settings": {}}), on="GET /v1/")
        wrong = desk.check()[2]
        assert "refuses the account me: correct the user, or the password" in wrong["hub"]

    @pytest.mark.parametrize("answer", [PORTAL, Reply(404), Reply(200, {"user": {}})])
    def test_url_of_no_kinto(self, desk: Desk, answer: Reply) -> None:
        desk.hub.then(answer, times=None)
        assert set(desk.check()[2]) == {"hub"}

    def test_kinto_with_a_broken_database_is_no_end(self, desk: Desk) -> None:
        desk.hub.then(Reply(503), on="GET /v1/__heartbeat__")
        desk.hub.then(PORTAL, on="GET /v1/buckets/*")
        _, well, wrong = desk.check()
        assert "is no Kinto" not in str(wrong)
        assert set(wrong) == {"hub"}
        assert "local" in well

    def test_kinto_that_answers_503_names_the_part_that_is_down(self, desk: Desk) -> None:
        desk.local.then(Reply(503), on="GET /v1/", times=None)
        parts = {"storage": False, "permission": False, "cache": True}
        desk.local.then(Reply(503, parts), on="GET /v1/__heartbeat__")
        wrong = desk.check()[2]["local"]
        assert "its database is down: sudo systemctl status postgresql" in wrong

    def test_collection_without_access(self, desk: Desk) -> None:
        desk.hub.kinto.tree = {}
        desk.local.kinto.tree = {}
        _, well, wrong = desk.check()
        assert "the operator of the server must grant it" in wrong["hub u01"]
        assert well["local u01"] == "will be made with the first record"

    def test_clock(self, desk: Desk) -> None:
        desk.write(clock="/nowhere/flag")
        assert "is not synchronised" in desk.check()[2]["clock"]

    def test_disk(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(checking, "DISK_LOW_BYTES", 1 << 60)
        assert "free at least" in desk.check()[2]["disk"]
        desk.spool = desk.folder / "none" / "spool.db"
        desk.write()
        assert "can't be written: No such file or directory" in desk.check()[2]["disk"]

    def test_damaged_spool(self, desk: Desk) -> None:
        desk.spool.write_bytes(b"no database" * 100)
        assert "is damaged" in desk.check()[2]["spool"]
