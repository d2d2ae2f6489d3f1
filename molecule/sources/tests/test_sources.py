"""Kinto's image from each of its three places, and in the other engine.

Each test goes on from the one before.
"""

from __future__ import annotations

import json
import re
from email.parser import HeaderParser
from typing import Any

import pytest

import outside
from outside import BUILD, INVENTORY, PROJECT, run

HOST, PODMAN = "sources-hub", "sources-podman"
ENGINES = {HOST: "docker", PODMAN: "podman"}
REGISTRY = "127.0.0.1:5001"
# Beside the one that Debian starts, which asks for a password.
REGISTRY_SETTINGS = json.dumps(
    {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": "/var/lib/docker/registry"}},
        "http": {"addr": REGISTRY},
    }
)


def inside(*command: str, host: str = HOST) -> str:
    """Run a program in the test host and return what it prints."""
    return outside.inside(host, *command)


def converge(host: str = HOST, **variables: Any) -> int:
    """Run the roles again with other variables; returns how many things they changed."""
    playbook = f"{PROJECT}/molecule/sources/converge.yml"
    extra = ("--limit", host, "--extra-vars", json.dumps(variables))
    said = run("ansible-playbook", "--inventory", INVENTORY, *extra, playbook)
    print(said)
    found = re.search(rf"^{host}\s+: ok=\d+ +changed=(\d+) ", said, re.MULTILINE)
    assert found
    return int(found[1])


def container(host: str = HOST) -> dict[str, Any]:
    """What the engine says of the container that runs."""
    said = inside(ENGINES[host], "inspect", "--type", "container", "unisat-kinto", host=host)
    found: list[dict[str, Any]] = json.loads(said)
    return found[0]


def images() -> dict[str, str]:
    """Id of each image of Kinto's, by tag."""
    said = inside("docker", "image", "ls", "--format", "{{.Tag}} {{.ID}}", "unisat-kinto")
    return dict(line.split() for line in said.splitlines())


def answers(host: str = HOST) -> None:
    """Check that Kinto, its database and its cache answer."""
    fetch = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1]).read().decode())"
    said = inside("python3", "-c", fetch, "http://127.0.0.1:8888/v1/__heartbeat__", host=host)
    assert all(value is True for value in json.loads(said).values()), said


REQUEST = """
import base64, json, sys, urllib.error, urllib.request
method, path, who, body = json.load(sys.stdin)
request = urllib.request.Request("http://127.0.0.1:8888/v1" + path, method=method,
    data=body and json.dumps(body).encode(), headers={"Content-Type": "application/json"})
if who:
    request.add_header("Authorization", "Basic " + base64.b64encode(who.encode()).decode())
try:
    with urllib.request.urlopen(request, timeout=30) as answer:
        print(json.dumps([answer.status, json.load(answer)]))
except urllib.error.HTTPError as error:
    print(json.dumps([error.code, None]))
"""


def ask(method: str, path: str, who: str = "", body: Any = None) -> tuple[int, Any]:
    """Ask Kinto as `user:password`; returns status and answer."""
    said = outside.inside(
        HOST, "python3", "-c", REQUEST, stdin=json.dumps([method, path, who, body])
    )
    code, answer = json.loads(said)
    return code, answer


def admin() -> str:
    file = BUILD / "sources" / "secrets" / HOST / "kinto_admin_password"
    return f"admin:{file.read_text().strip()}"


def test_archive() -> None:
    answers()
    found = container()
    assert found["Config"]["User"] == "10001:10001"
    assert found["HostConfig"]["ReadonlyRootfs"] is True
    assert [cap.upper() for cap in found["HostConfig"]["CapDrop"]] == ["ALL"]
    assert any("no-new-privileges" in option for option in found["HostConfig"]["SecurityOpt"])
    assert not found["HostConfig"]["CapAdd"]
    names = [entry.split("=")[0] for entry in found["Config"]["Env"]]
    assert "KINTO_STORAGE_URL" in names
    assert len(images()) == 1


@pytest.mark.parametrize(
    "program", ["/bin/sh", "/usr/bin/pip", "/usr/bin/apt", "/usr/bin/dpkg", "/usr/bin/gcc"]
)
def test_nothing_is_left_that_builds_or_installs(program: str) -> None:
    look = f"import os, sys; sys.exit(os.path.exists({program!r}))"
    inside("docker", "exec", "unisat-kinto", "/usr/bin/python3", "-c", look)


def test_it_says_which_of_debian_s_packages_it_holds() -> None:
    read = "print(open('/var/lib/dpkg/status').read())"
    said = inside("docker", "exec", "unisat-kinto", "/usr/bin/python3", "-c", read)
    packages = [
        dict(HeaderParser().parsestr(paragraph)) for paragraph in said.strip().split("\n\n")
    ]
    assert {"libc6", "libssl3t64", "python3.13-minimal"} <= {item["Package"] for item in packages}
    for item in packages:
        assert item["Status"] == "install ok installed"
        assert item["Version"]


def test_no_other_account_can_be_made() -> None:
    assert ask("PUT", "/accounts/mallory", body={"data": {"password": "x"}})[0] in {401, 403}


def test_podman_runs_it_as_docker_does() -> None:
    answers(PODMAN)
    found = container(PODMAN)
    assert found["Config"]["User"] == "10001:10001"
    assert found["HostConfig"]["ReadonlyRootfs"] is True
    assert found["EffectiveCaps"] in ([], None)
    assert inside("systemctl", "--failed", "--no-legend", "--plain", host=PODMAN) == ""
    assert converge(PODMAN) == 0


@pytest.mark.parametrize("host", ENGINES)
def test_one_that_hangs_is_restarted_and_one_that_was_stopped_is_not(host: str) -> None:
    units = "unisat-kinto", "unisat-kinto-watchdog.timer"
    inside("systemctl", "is-active", *units, host=host)
    before = container(host)["State"]["Pid"]
    inside("systemctl", "start", "unisat-kinto-watchdog", host=host)
    assert container(host)["State"]["Pid"] == before

    # With its processes: one of several that hangs, Kinto's own master replaces.
    hang = f"kill -STOP {before} $(cat /proc/{before}/task/{before}/children)"
    inside("sh", "-c", hang, host=host)
    inside("systemctl", "start", "unisat-kinto-watchdog", host=host)
    answers(host)
    assert container(host)["State"]["Pid"] != before
    inside("systemctl", "is-active", *units, host=host)

    inside("systemctl", "stop", "unisat-kinto", host=host)
    inside("systemctl", "start", "unisat-kinto-watchdog", host=host)
    said = outside.inside(host, "systemctl", "is-active", *units, check=False)
    assert said.split() == ["inactive", "inactive"]
    inside("systemctl", "start", "unisat-kinto", host=host)
    answers(host)


PUBLISHERS_LEFT: dict[str, Any] = {
    "kinto_publishers": [{"name": "astana", "password": "another-word", "devices": ["u02kz"]}]
}
ALMATY, ASTANA = "almaty:a-word-to-write-with", "astana:another-word"
RECORDS = "/buckets/telemetry/collections/{}/records"


def test_publishers_write_their_own_collections() -> None:
    record = {"data": {"temperature": 1.5}}
    assert ask("POST", RECORDS.format("u01kz"), ALMATY, record)[0] == 201
    assert ask("POST", RECORDS.format("u02kz"), ASTANA, record)[0] == 201
    assert ask("POST", RECORDS.format("u02kz"), ALMATY, record)[0] == 403
    # Else it could take away the mark by which it is found when it has left.
    own = {"data": {"password": ALMATY.partition(":")[2]}}
    assert ask("PUT", "/accounts/almaty", ALMATY, own)[0] == 403
    by_hand = {"data": {"password": "a-guest"}}
    assert ask("PUT", "/accounts/guest", admin(), by_hand)[0] == 201
    assert ask("GET", "/buckets/unisat-provisioning", ASTANA)[0] == 403


def test_built_on_the_host() -> None:
    before = container()["Config"]["Image"]
    built: dict[str, Any] = {
        "kinto_image_source": "build",
        "kinto_image_revision": "test",
        **PUBLISHERS_LEFT,
    }
    assert converge(**built) > 0
    answers()
    assert container()["Config"]["Image"] != before
    assert images()["previous"] == images()[before.split(":")[1]]
    assert converge(**built) == 0


def test_a_publisher_that_left_the_inventory_has_no_access_and_its_records_stay() -> None:
    record = {"data": {"temperature": 2.5}}
    assert ask("POST", RECORDS.format("u01kz"), ALMATY, record)[0] == 401
    assert ask("GET", "/accounts/almaty", admin())[0] == 404
    assert ask("GET", "/accounts/guest", admin())[0] == 200
    assert ask("POST", RECORDS.format("u02kz"), ASTANA, record)[0] == 201
    code, answer = ask("GET", "/buckets/telemetry/collections/u01kz", admin())
    # What the administrator may do comes from the bucket.
    assert (code, answer["permissions"]) == (200, {})
    code, answer = ask("GET", RECORDS.format("u01kz"), admin())
    assert [item["temperature"] for item in answer["data"]] == [1.5]


def test_pulled_by_digest() -> None:
    inside("apt-get", "install", "--yes", "--quiet", "docker-registry")
    inside("sh", "-c", f"printf '%s' '{REGISTRY_SETTINGS}' >/root/registry.yml")
    inside("systemd-run", "docker-registry", "serve", "/root/registry.yml")
    archived = images()["previous"]
    inside("docker", "tag", "unisat-kinto:previous", f"{REGISTRY}/unisat-kinto:1")
    pushed = inside("docker", "push", f"{REGISTRY}/unisat-kinto:1")
    digest = re.search("digest: (sha256:([0-9a-f]{12})[0-9a-f]{52})", pushed)
    assert digest
    pulled: dict[str, Any] = {
        **PUBLISHERS_LEFT,
        "kinto_image_source": "pull",
        "kinto_image_reference": f"{REGISTRY}/unisat-kinto@{digest[1]}",
    }
    assert converge(**pulled) > 0
    answers()
    assert container()["Config"]["Image"] == f"unisat-kinto:{digest[2]}"
    assert images()[digest[2]] == archived
    assert converge(**pulled) == 0

    # Another image takes its place, and what was pulled by digest before that goes.
    lines = f"FROM unisat-kinto:{digest[2]}\nLABEL another=1\n"
    build = "docker", "build", "--tag", f"{REGISTRY}/unisat-kinto:2", "-"
    outside.inside(HOST, "env", "DOCKER_BUILDKIT=0", *build, stdin=lines)
    pushed = inside("docker", "push", f"{REGISTRY}/unisat-kinto:2")
    second = re.search("digest: (sha256:([0-9a-f]{12})[0-9a-f]{52})", pushed)
    assert second
    pulled["kinto_image_reference"] = f"{REGISTRY}/unisat-kinto@{second[1]}"
    assert converge(**pulled) > 0
    answers()
    assert container()["Config"]["Image"] == f"unisat-kinto:{second[2]}"
