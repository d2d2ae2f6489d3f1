"""What the station page reads of the spool: /records, /refused and /table."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from typing import Any

import pytest

from rig.site import PACKAGE, WAIT_S, Site, running
from rig.wait import wait_until

OTHER = PACKAGE.replace(b"u01", b"u02")
BAD = b"\r\ndevID=u01\r\ntemperature=<b>9</b>\r\nhumidity=2\r\npressure=3\r\npm25=4\r\n\r\n"


def ask(site: Site, page: str, code: int = 200) -> Any:
    """The JSON of a page that must answer with this code."""
    found, text = site.get(page)
    assert found == code, text
    return json.loads(text)


def seqs(site: Site, query: str) -> list[int]:
    """The numbers of the records that a query gives."""
    return [record["seq"] for record in ask(site, f"/records?{query}")["records"]]


def filled(site: Site, *packages: bytes) -> None:
    """Sends packages and waits until all are in the spool."""
    for package in packages:
        site.send(package)
    wait_until(lambda: site.status()["spool"]["last_seq"] == len(packages), WAIT_S, "the packages")


class TestRecords:
    def test_pages_go_forward_and_back(self, site: Site) -> None:
        site.config = replace(site.config, devices=frozenset({"u01", "u02"}))
        with running(site):
            assert ask(site, "/records")["records"] == []
            filled(site, PACKAGE, OTHER, PACKAGE, OTHER, PACKAGE)
            assert seqs(site, "") == [1, 2, 3, 4, 5]
            assert seqs(site, "limit=2") == [4, 5]
            assert seqs(site, "before=4&limit=2") == [2, 3]
            assert seqs(site, "after=1&limit=2") == [2, 3]
            assert seqs(site, "after=5") == []
            assert seqs(site, "device=u02") == [2, 4]
            page = ask(site, "/records?limit=1")
        (record,) = page.pop("records")
        assert (record["devID"], record["temperature"]) == ("u01", 1.0)
        assert (page["first_seq"], page["last_seq"]) == (1, 5)
        assert page["epoch"] == record["epoch"]
        assert 0 < page["disk"]["free"] < page["disk"]["total"]
        assert page["timezone"]

    def test_a_span_of_time(self, site: Site) -> None:
        with running(site):
            filled(site, PACKAGE, PACKAGE, PACKAGE)
            with sqlite3.connect(site.config.spool_path) as db:
                db.execute("UPDATE package SET received_ms = 1700000000000 + seq * 1000")
            assert seqs(site, "from=1700000002") == [2, 3]
            assert seqs(site, "to=1700000002") == [1]
            assert seqs(site, "from=1700000002&to=1700000003") == [2]
            assert seqs(site, "from=1700000009") == []

    @pytest.mark.parametrize(
        ("query", "wrong"),
        [("limit=0", "limit"), ("limit=5001", "limit"), ("after=-1", "after"), ("from=x", "from")],
    )
    def test_what_can_not_be_asked(self, site: Site, query: str, wrong: str) -> None:
        with running(site):
            assert wrong in ask(site, f"/records?{query}", 400)["error"]


class TestRefused:
    def test_bad_lines_come_with_their_bytes(self, site: Site) -> None:
        with running(site):
            filled(site, BAD, PACKAGE.replace(b"humidity=2", b"humidity=\xff"))
            page = ask(site, "/refused?limit=2")
        assert page["dead"] == []
        newest, older = page["lines"]
        assert newest["raw"] == "humidity=\\xff\\x0d"
        assert older["raw"] == "temperature=<b>9</b>\\x0d"
        assert older["port"] == str(site.cable.name)


class TestTable:
    def test_numbers_without_scripts(self, site: Site) -> None:
        with running(site):
            filled(site, PACKAGE)
            code, text = site.get("/table")
        assert code == 200
        assert "<td>u01</td>" in text
        assert "<h1>almaty: ok</h1>" in text
        assert "<script" not in text
