"""What the tests share: the hosts, their secrets, and questions asked from within."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PUBLISHERS = {"default-bookworm": ["u01kz"], "default-trixie": ["u02kz", "u03kz"]}
HUB = "default-hub"
HOSTS = [*PUBLISHERS, HUB]
PROJECT = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"])
BUILD = PROJECT / "build" / "molecule"
# The settings that the fleet is run with, not those that molecule makes up.
os.environ["ANSIBLE_CONFIG"] = f"{PROJECT}/ansible.cfg"


def run(*command: str, stdin: str | None = None, check: bool = True) -> str:
    """Run a program of the machine outside and return what it prints."""
    done = subprocess.run(
        command,
        input=stdin,
        check=False,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if check and done.returncode:
        pytest.fail(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}", pytrace=False)
    return done.stdout


def inside(name: str, *command: str, stdin: str | None = None, check: bool = True) -> str:
    """Run a program in a test host and return what it prints."""
    return run("docker", "exec", "--interactive", name, *command, stdin=stdin, check=check)


def secret(host: str, name: str) -> str:
    """A password that was generated for a host."""
    return (BUILD / "secrets" / host / name).read_text().strip()


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
    port = 80 if host == HUB else 8888
    url = f"http://127.0.0.1:{port}/v1/buckets/telemetry/collections/{device}/records?_limit=1000"
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


def wait_until(condition: Callable[[], object], why: str, seconds: float = 120) -> None:
    """Poll until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds} s: {why}", pytrace=False)
        time.sleep(1)


def delivered(publisher: str) -> bool:
    """Whether the agent has nothing left to deliver."""
    said = status(publisher)
    return bool(said) and all(sink["pending"] == 0 for sink in said["sinks"].values())


def note(line: str) -> None:
    """Keep a figure for the summary that molecule/run prints."""
    with (BUILD / "figures").open("a") as file:
        file.write(f"{line}\n")


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
