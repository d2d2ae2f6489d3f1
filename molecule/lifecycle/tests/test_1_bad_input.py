"""What cannot work stops site.yml before the first change, with one sentence that says what to do.

The host is the one that becomes a publisher in the end, and is bare until then.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from outside import INVENTORY, PROJECT, inside, run

HOST = "lifecycle-old"
LATER = f"{PROJECT}/molecule/lifecycle/inventory/later.yml"
STATE = "dpkg-query --show; find /etc /opt /usr/local -newer /root/before"


@pytest.fixture
def refusal(tmp_path: Path) -> Callable[..., str]:
    """Run site.yml with other variables for the host; returns how it refuses, unwrapped."""

    def refused(*options: str, **variables: Any) -> str:
        # Read last, so that it wins; as extra variables they would be those of all hosts.
        inventory = tmp_path / "mistakes.yml"
        inventory.write_text(json.dumps({"all": {"hosts": {HOST: variables}}}))
        inside(HOST, "touch", "/root/before")
        before = inside(HOST, "sh", "-c", STATE)
        said = run(
            *("ansible-playbook", "--inventory", INVENTORY, "--inventory", LATER),
            *("--inventory", str(inventory), "--limit", HOST, *options),
            f"{PROJECT}/playbooks/site.yml",
            check=False,
        )
        print(said)
        assert "failed=1" in said
        assert "changed=0" in said
        assert inside(HOST, "sh", "-c", STATE) == before
        return " ".join(said.split())

    return refused


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"agent_devices": []}, "lifecycle-old: set agent_devices to the devIDs of its devices"),
        ({"agent_devices": ["u01kz"]}, "both have u01kz in agent_devices"),
        ({"agent_hub_url": ""}, "lifecycle-old: set agent_hub_url to the address of the hub"),
        ({"agent_devices": ["1a"]}, "lifecycle-old: agent_devices must be a list of devIDs"),
        ({"agent_serial": [{"prt": "auto"}]}, "agent_serial: prt: unknown key, did you mean port?"),
        ({"kinto_settings": {"kinto.batch_max_requests": 9}}, "use kinto_batch_max instead"),
        ({"kinto_image_archive": "/no.tar.gz"}, "lifecycle-old: kinto_image_archive /no.tar.gz is"),
    ],
    ids=[
        "no-device",
        "a-device-twice",
        "no-hub",
        "a-wrong-devID",
        "a-wrong-port",
        "a-setting-twice",
        "no-archive",
    ],
)
def test_a_mistake_in_the_inventory(
    refusal: Callable[..., str], variables: dict[str, Any], sentence: str
) -> None:
    assert sentence in refusal(**variables)


def test_a_secret_without_the_vault_s_password(refusal: Callable[..., str], tmp_path: Path) -> None:
    folder = tmp_path / HOST
    folder.mkdir()
    (folder / "kinto_database_password").write_text("a word\n")
    password = tmp_path / "password"
    password.write_text("right\n")
    vault = ("--vault-password-file", str(password))
    run("ansible-vault", "encrypt", *vault, str(folder / "kinto_database_password"))
    password.write_text("wrong\n")
    said = refusal(*vault, unisat_secrets_dir=str(tmp_path))
    assert f"The secret {folder}/kinto_database_password cannot be decrypted" in said
    assert "--ask-vault-pass" in said


@contextmanager
def another(path: str, *command: str) -> Iterator[None]:
    """Change a file of the host for a while."""
    inside(HOST, "cp", "--archive", path, "/run/kept")
    inside(HOST, "sh", "-c", *command)
    try:
        yield
    finally:
        inside(HOST, "cp", "--archive", "/run/kept", path)


UBUNTU = "ID=ubuntu\\nNAME=Ubuntu\\nVERSION_ID=24.04\\nVERSION_CODENAME=noble\\n"


def test_another_operating_system(refusal: Callable[..., str]) -> None:
    with another("/usr/lib/os-release", f"printf '{UBUNTU}' >/usr/lib/os-release"):
        said = refusal()
    assert "lifecycle-old: this needs Debian or Raspberry Pi OS" in said
    assert "it is Ubuntu noble" in said
    assert "take the host out of the inventory" in said


# Python as it is on Raspberry Pi OS (32-bit), whose kernel has 64 bits.
SMALL_PYTHON = """\
cd /root
echo 'import platform; platform.architecture = lambda *_: ("32bit", "ELF")' >sitecustomize.py
printf '#!/bin/sh\\nPYTHONPATH=/root exec /usr/bin/python3 "$@"\\n' >python32
chmod 755 python32
"""


def test_a_system_of_32_bits(refusal: Callable[..., str]) -> None:
    inside(HOST, "sh", "-c", SMALL_PYTHON)
    said = refusal(ansible_python_interpreter="/root/python32")
    assert "with 32 bits" in said
    assert "write a 64-bit image to its card" in said


SMALL_CARD = """\
mkdir -p /run/card
mount --types tmpfs --options size=300m tmpfs /run/card
mkdir /run/card/lib
cp --archive /var/lib/dpkg /var/lib/apt /run/card/lib/
mount --bind /run/card /var
"""


def test_too_little_room(refusal: Callable[..., str]) -> None:
    inside(HOST, "sh", "-ec", SMALL_CARD)
    try:
        said = refusal()
    finally:
        inside(HOST, "umount", "/var", "/run/card")
    assert "MB are free under /var, and 2500 MB are needed: use a larger card" in said


def test_no_way_to_debian_s_packages(refusal: Callable[..., str]) -> None:
    nowhere = "echo 'deb http://127.0.0.1:1/debian trixie main' >/etc/apt/sources.list"
    with another("/etc/apt/sources.list", nowhere):
        said = refusal()
    inside(HOST, "apt-get", "update")
    assert "lifecycle-old: Debian's packages cannot be fetched: give the host a way to" in said


def test_no_way_to_python_s_packages(
    refusal: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # uv's own cache is there too.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    # Whatever else the machine outside takes packages from.
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    for name in ("UV_CACHE_DIR", "UV_FIND_LINKS", "UV_INDEX", "UV_DEFAULT_INDEX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    said = refusal()
    assert "is PyPI reachable from this machine?" in said
