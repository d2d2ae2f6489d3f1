"""Kinto's image from each of its three places; each test goes on from the one before."""

from __future__ import annotations

import json
import re
from typing import Any

import outside
import pytest
from outside import INVENTORY, PROJECT, run

HOST = "sources-hub"
REGISTRY = "127.0.0.1:5001"
# Beside the one that Debian starts, which asks for a password.
REGISTRY_SETTINGS = json.dumps(
    {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": "/var/lib/docker/registry"}},
        "http": {"addr": REGISTRY},
    }
)


def inside(*command: str) -> str:
    """Run a program in the test host and return what it prints."""
    return outside.inside(HOST, *command)


def converge(**variables: str) -> int:
    """Run the roles again with other variables; returns how many things they changed."""
    extra = [f"--extra-vars={key}={value}" for key, value in variables.items()]
    playbook = f"{PROJECT}/molecule/sources/converge.yml"
    said = run("ansible-playbook", "--inventory", INVENTORY, *extra, playbook)
    print(said)
    found = re.search(rf"^{HOST}\s+: ok=\d+ +changed=(\d+) ", said, re.MULTILINE)
    assert found
    return int(found[1])


def container() -> dict[str, Any]:
    """What docker says of the container that runs."""
    found: list[dict[str, Any]] = json.loads(inside("docker", "inspect", "unisat-kinto"))
    return found[0]


def images() -> dict[str, str]:
    """Id of each image of Kinto's, by tag."""
    said = inside("docker", "image", "ls", "--format", "{{.Tag}} {{.ID}}", "unisat-kinto")
    return dict(line.split() for line in said.splitlines())


def answers() -> None:
    """Check that Kinto, its database and its cache answer on the port of a hub."""
    fetch = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1]).read().decode())"
    said = inside("python3", "-c", fetch, "http://127.0.0.1:80/v1/__heartbeat__")
    assert all(value is True for value in json.loads(said).values()), said


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


@pytest.mark.parametrize("program", ["/bin/sh", "/usr/bin/pip", "/usr/bin/apt", "/usr/bin/gcc"])
def test_nothing_is_left_that_builds_or_installs(program: str) -> None:
    look = f"import os, sys; sys.exit(os.path.exists({program!r}))"
    inside("docker", "exec", "unisat-kinto", "/usr/bin/python3", "-c", look)


def test_no_other_account_can_be_made() -> None:
    put = (
        "import sys, urllib.request as u, urllib.error as e\n"
        "r = u.Request('http://127.0.0.1:80/v1/accounts/mallory', method='PUT',"
        ' data=b\'{"data": {"password": "x"}}\','
        " headers={'Content-Type': 'application/json'})\n"
        "try: print(u.urlopen(r).status)\n"
        "except e.HTTPError as error: print(error.code)"
    )
    assert inside("python3", "-c", put).strip() in {"401", "403"}


def test_built_on_the_host() -> None:
    before = container()["Config"]["Image"]
    built = {"kinto_image_source": "build", "kinto_image_revision": "test"}
    assert converge(**built) > 0
    answers()
    assert container()["Config"]["Image"] != before
    assert images()["previous"] == images()[before.split(":")[1]]
    assert converge(**built) == 0


def test_pulled_by_digest() -> None:
    inside("apt-get", "install", "--yes", "--quiet", "docker-registry")
    inside("sh", "-c", f"printf '%s' '{REGISTRY_SETTINGS}' >/root/registry.yml")
    inside("systemd-run", "docker-registry", "serve", "/root/registry.yml")
    archived = images()["previous"]
    inside("docker", "tag", "unisat-kinto:previous", f"{REGISTRY}/unisat-kinto:1")
    pushed = inside("docker", "push", f"{REGISTRY}/unisat-kinto:1")
    digest = re.search("digest: (sha256:([0-9a-f]{12})[0-9a-f]{52})", pushed)
    assert digest
    pulled = {
        "kinto_image_source": "pull",
        "kinto_image_reference": f"{REGISTRY}/unisat-kinto@{digest[1]}",
    }
    assert converge(**pulled) > 0
    answers()
    assert container()["Config"]["Image"] == f"unisat-kinto:{digest[2]}"
    assert images()[digest[2]] == archived
    assert converge(**pulled) == 0
