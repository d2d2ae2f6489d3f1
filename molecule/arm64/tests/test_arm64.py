"""The Kinto image for a Raspberry Pi answers, as far as that can be seen without one."""

from __future__ import annotations

import json
import subprocess
import time

import pytest

NAME = "arm64-kinto"
START_S = 900  # emulated, on a machine that may have other things to do
QEMU_PYTHON = ["docker", "exec", NAME, "/qemu", "/usr/bin/python3"]


def said(*command: str) -> str:
    """What a program prints; empty when it fails."""
    done = subprocess.run(command, check=False, text=True, capture_output=True)
    return done.stdout if done.returncode == 0 else ""


def test_it_is_for_arm64_and_not_for_root() -> None:
    image = said("docker", "inspect", "--format", "{{.Image}}", NAME).strip()
    found = json.loads(said("docker", "image", "inspect", image))[0]
    assert (found["Os"], found["Architecture"]) == ("linux", "arm64")
    assert found["Config"]["User"] == "10001:10001"
    assert found["Config"]["Healthcheck"]["Test"][0] == "CMD"


def test_it_answers() -> None:
    deadline = time.monotonic() + START_S
    while subprocess.run(
        [*QEMU_PYTHON, "/opt/kinto/unisat_container.py", "health"], check=False, capture_output=True
    ).returncode:
        runs = said("docker", "ps", "--quiet", "--filter", f"name={NAME}")
        if time.monotonic() > deadline or not runs:
            pytest.fail(said("docker", "logs", NAME) or "no answer", pytrace=False)
        time.sleep(5)
    get = (
        "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8888/v1/').read().decode())"
    )
    answer = json.loads(said(*QEMU_PYTHON, "-c", get))
    assert answer["project_name"] == "kinto"
    machine = "import platform; print(platform.machine())"
    assert said(*QEMU_PYTHON, "-c", machine).strip() == "aarch64"
