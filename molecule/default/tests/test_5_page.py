"""The web pages, asked from outside: each station's, and the network's on the hub."""

from __future__ import annotations

import http.client
import json
import ssl

import pytest

from conftest import HUB, PUBLISHERS, address

Answer = tuple[int, dict[str, str], str]


def ask(host: str, path: str, method: str = "GET", **headers: str) -> Answer:
    """Status, headers and body; the hub speaks TLS."""
    connection: http.client.HTTPConnection
    if host == HUB:
        # Whether the certificate is right is another test's.
        context = ssl._create_unverified_context()  # noqa: S323
        connection = http.client.HTTPSConnection(address(host), timeout=30, context=context)
    else:
        connection = http.client.HTTPConnection(address(host), timeout=30)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        names = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, names, answer.read().decode()
    finally:
        connection.close()


@pytest.mark.parametrize("host", [*PUBLISHERS, HUB])
def test_the_page_and_all_that_it_needs_come_from_the_host(host: str) -> None:
    status, headers, page = ask(host, "/")
    assert status == 200
    assert headers["content-type"].startswith("text/html")
    assert "unsafe" not in headers["content-security-policy"]
    assert "http" not in page.replace("http-equiv", "")
    files = [part.split('"')[0] for part in page.split('="/')[1:] if part.startswith("assets/")]
    assert files
    for file in files:
        assert ask(host, f"/{file}")[0] == 200, file


@pytest.mark.parametrize("publisher", PUBLISHERS)
def test_a_station_page_reads_the_agent_and_telemetry_and_nothing_else(publisher: str) -> None:
    status, _, body = ask(publisher, "/status")
    assert status == 200
    assert json.loads(body)["health"]
    assert ask(publisher, "/records?limit=1")[0] == 200
    assert ask(publisher, "/v1/buckets/default/latest")[0] == 200
    assert ask(publisher, "/metrics")[0] == 404
    assert ask(publisher, "/v1/accounts")[0] == 404
    assert ask(publisher, "/status", "POST")[0] == 403
    assert ask(publisher, "/v1/", "PUT")[0] == 403


@pytest.mark.parametrize("publisher", PUBLISHERS)
def test_a_foreign_name_is_not_answered(publisher: str) -> None:
    assert ask(publisher, "/status", Host="evil.example")[0] == 421
    assert ask(publisher, "/status", Host=f"{publisher}.local")[0] == 200


def test_the_network_page_knows_its_settings_and_gives_nothing_without_a_login() -> None:
    status, _, body = ask(HUB, "/network.json")
    assert status == 200
    assert json.loads(body) == {"bucket": "telemetry", "location": "coarse"}
    assert ask(HUB, "/v1/buckets/telemetry/latest")[0] == 401
    assert ask(HUB, "/", "POST")[0] == 405
