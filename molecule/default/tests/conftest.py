"""What the tests share: the hosts, their secrets, and questions asked from within."""

from __future__ import annotations

import json
from typing import Any

import pytest

from outside import BUILD, inside, run

PUBLISHERS = {"default-bookworm": ["u01kz"], "default-trixie": ["u02kz", "u03kz"]}
HUB = "default-hub"
HOSTS = [*PUBLISHERS, HUB]


def secret(host: str, name: str) -> str:
    """A password that was generated for a host."""
    return (BUILD / "secrets" / host / name).read_text().strip()


def address(name: str) -> str:
    """Where a host is reached from outside."""
    return run(
        *("docker", "inspect", "--format"),
        *("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", name),
    ).strip()


FETCH = """
import base64, json, sys, urllib.request
url, user, password = json.loads(DATA)
found = []
while url:
    request = urllib.request.Request(url)
    basic = base64.b64encode(f"{user}:{password}".encode()).decode()
    request.add_header("Authorization", "Basic " + basic)
    with urllib.request.urlopen(request, timeout=30) as answer:
        found += json.load(answer)["data"]
        url = answer.headers.get("Next-Page")
print(json.dumps(found))
"""


def records(host: str, device: str) -> list[dict[str, Any]]:
    """All records of a device in the Kinto of a host, asked by its administrator through HTTP."""
    url = f"http://127.0.0.1:8888/v1/buckets/telemetry/collections/{device}/records?_limit=1000"
    data = json.dumps([url, "admin", secret(host, "kinto_admin_password")])
    found: list[dict[str, Any]] = json.loads(
        inside(host, "python3", "-", stdin=FETCH.replace("DATA", repr(data)))
    )
    return found


STATUS = """
import urllib.request
print(urllib.request.urlopen("http://127.0.0.1:8890/status", timeout=10).read().decode())
"""


def status(publisher: str) -> dict[str, Any]:
    """What the agent says of itself; empty while it does not answer."""
    said = inside(publisher, "python3", "-", stdin=STATUS, check=False)
    return json.loads(said) if said.startswith("{") else {}


def journal(publisher: str) -> list[dict[str, Any]]:
    """What the simulated satellite has sent and must have been stored, over all its starts."""
    lines = inside(publisher, "sh", "-c", "cat /var/lib/satellite/*.journal").splitlines()
    # A power cut may have torn the last line of one.
    entries = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
    return [entry for entry in entries if entry["expected"]]


def delivered(publisher: str) -> bool:
    """Whether the agent has nothing left to deliver."""
    said = status(publisher)
    return bool(said) and all(sink["pending"] == 0 for sink in said["sinks"].values())


@pytest.fixture(autouse=True)
def journal_on_failure(request: pytest.FixtureRequest) -> Any:
    """Print the hosts' own words when a test has failed."""
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed > failed:
        for name in HOSTS:
            print(f"--- {name}")
            print(
                inside(
                    name, "journalctl", "-b", "-p", "warning", "-n", "25", "--no-pager", check=False
                )
            )
