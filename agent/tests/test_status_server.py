"""The pages of a running agent: /healthz, /status and /metrics."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import socket
from dataclasses import replace

import pytest

from rig.replies import Reply
from rig.site import PACKAGE, WAIT_S, Site, running
from rig.wait import wait_until
from unisat_agent.service.app import Service
from unisat_agent.service.http import StatusServer, StatusServerError, json_page
from unisat_agent.version import running_version


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
            "bytes": pytest.approx(1_100_000, rel=0.2),
            "disk_free": pytest.approx(shutil.disk_usage(site.folder).free, rel=0.5),
            "last_seq": 1,
            "waiting_for_room": 0,
            "quarantined": 0,
        }
        (port,) = status.pop("ports")
        (device,) = port.pop("devices")
        (opened,) = port.pop("open")
        assert opened["stored"]
        assert (device["devID"], device["packages"]) == ("u01", 1)
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
        retention = {"records": 0, "deleted": 0, "days": 90.0, "full_in_days": None}
        assert status.pop("retention") == retention
        assert status == {
            "station": "almaty",
            "version": running_version(),
            "health": "ok",
            "problems": [],
            "clock": {"synchronised": True, "waiting_for_time": 0, "steps": 0},
            "update": None,
        }

    def test_metrics_count_what_happens(self, site: Site) -> None:
        with running(site):
            site.send(b"\r\ndevID=u01\r\ntemperature=nan\r\npm25=4\r\n\r\n")
            for sink in site.servers:
                wait_until(
                    lambda sink=sink: site.metrics().get(f"acks_total {sink}"),  # type: ignore[misc]
                    WAIT_S,
                    "an ack",
                )
            site.cable.unplug()
            site.cable.plug(elsewhere=True)
            wait_until(
                lambda: site.metrics()[f"reconnects_total {site.cable.name}"] == 1,
                WAIT_S,
                "the reconnect",
            )
            found = site.metrics()
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
            "acks_total hub": 1,
            "retries_total local": 0,
            "retries_total hub": 0,
            "thread_restarts_total store": 0,
            "thread_restarts_total sync": 0,
            "thread_restarts_total serial-0": 0,
        }
        assert {name: found[name] for name in expected} == expected
        assert found["spool_bytes"] > 1000
        assert found["spool_wal_bytes"] > 1000
        assert found["disk_free_bytes"] > 1000
        assert 0 <= found["last_package_age_seconds u01"] < WAIT_S
        assert found["process_resident_memory_bytes"] > 1_000_000

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
        assert json.loads(text) == {
            "pages": ["/healthz", "/metrics", "/records", "/refused", "/status", "/table"]
        }

    def test_spool_that_can_not_be_read_is_503(self, site: Site) -> None:
        agent = Service(site.config, site.clock)
        with StatusServer(site.config.listen, agent.reporter.routes()):
            agent.spool.close()
            for page in ("/healthz", "/status", "/metrics"):
                code, text = site.get(page)
                assert code == 503
                assert json.loads(text)["health"] == "failed"

    def test_address_that_is_taken(self, site: Site) -> None:
        with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
            site.config = replace(site.config, listen=taken.getsockname())
            agent = Service(site.config, site.clock)
            with pytest.raises(StatusServerError, match="already in use: does another"):
                agent.run()
            agent.spool.close()

    @pytest.mark.parametrize("page", ["/healthz", "/status", "/metrics"])
    def test_head_is_the_page_without_its_body(self, site: Site, page: str) -> None:
        agent = Service(site.config, site.clock)
        with StatusServer(site.config.listen, agent.reporter.routes()):
            connection = http.client.HTTPConnection(*site.config.listen, timeout=WAIT_S)
            with contextlib.closing(connection):
                connection.request("HEAD", page)
                answer = connection.getresponse()
                assert (answer.status, answer.read()) == (200, b"")
                assert int(answer.headers["Content-Length"]) > 10
        agent.spool.close()

    def test_query_is_handed_to_the_route(self, site: Site) -> None:
        with StatusServer(site.config.listen, {"/echo": lambda query: json_page(dict(query))}):
            assert json.loads(site.get("/echo?a=1&b=x%20y")[1]) == {"a": "1", "b": "x y"}
