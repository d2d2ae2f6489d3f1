"""The page server of the demo."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests

from rig import page, reserve_port
from rig.page import PageServer
from unisat_agent.service.http import StatusServer, json_page


def get(url: str, **headers: str) -> tuple[int, str]:
    """Status and body of an answer."""
    answer = requests.get(url, headers=headers, timeout=10)
    return answer.status_code, answer.text


def test_files_and_the_agents_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "BUILT", tmp_path)
    assert not page.is_built()
    (tmp_path / "index.html").write_text("the page")
    assert page.is_built()
    with reserve_port() as holder:
        address = holder.getsockname()
        routes = {"/records": lambda query: json_page(dict(query)), "/metrics": json_page}
        with PageServer(0, f"http://127.0.0.1:{address[1]}") as served:
            assert get(served.url + "records")[0] == 502
            with StatusServer(address, routes):
                assert get(served.url) == (200, "the page")
                assert get(served.url + "records?limit=3")[1].split() == [
                    "{",
                    '"limit":',
                    '"3"',
                    "}",
                ]
                assert get(served.url + "metrics")[0] == 404
                assert get(served.url + "../../etc/passwd")[0] == 404
                assert get(served.url, Host="evil.example:80")[0] == 421
