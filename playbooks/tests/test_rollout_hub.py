"""rollout.yml with a real Kinto that two hundred stations have told how they are."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from conftest import Play
from rig.kinto import Kinto
from rig.servers import Memcached, Postgres
from unisat_update.rings import place

VERSION = "2.0"
NAMES = [f"school-{number:03}" for number in range(200)]
# One that was flashed: the hub knows its account, and the inventory does not.
FLASHED = "flashed"
PLUGIN = {"kinto.includes": "kinto.plugins.accounts unisat_kinto"}
INVENTORY = """
hubs:
  hosts:
    hub: {{ansible_connection: local, kinto_port: {port}, kinto_admin_password: "{password}"}}
publishers:
  hosts: {{"school-[000:199]": }}
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kinto]:
    folder = tmp_path_factory.mktemp("hub")
    with Postgres() as postgres, Memcached() as memcached:
        url = postgres.url(postgres.new_database())
        with Kinto(
            folder, "hub", storage_url=url, memcached=memcached.address, settings=PLUGIN
        ) as kinto:
            kinto.client().create_bucket(id="fleet")
            yield kinto


@pytest.fixture
def web(tmp_path: Path) -> Path:
    """A folder as `make update` leaves it, and the key beside it."""
    folder = tmp_path / "web"
    (folder / "parts").mkdir(parents=True)
    (folder / "parts/0123").write_text("a part")
    stable = {"version": VERSION, "serial": 2, "percent": 0, "manifests": {"arm64": "2.0.json"}}
    (folder / "stable.json").write_text(json.dumps(stable))
    command = ["minisign", "-G", "-W", "-p", f"{tmp_path}/key.pub", "-s", f"{tmp_path}/key"]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def tell(hub: Kinto, updates: Mapping[str, dict[str, Any]]) -> None:
    """Has stations tell the hub, as their agents do."""
    with hub.client().batch(bucket="fleet") as batch:
        for name, update in updates.items():
            told = {"timestamp": 1, "station": name, "health": "ok", "update": update}
            batch.create_collection(id=name, safe=False)
            batch.create_record(id="status", collection=name, data=told, safe=False)


def offered(hub: Kinto, web: Path, play: Play, *options: str) -> tuple[int, str]:
    """The percent in the hub's stable.json after a run, and what the run said."""
    served = web.parent / "hub/updates"
    code, said = play(
        INVENTORY.format(port=hub.port, password=hub.admin_password),
        *("-e", f"key={web.parent}/key", "-e", f"web={web}", "-e", f"folder={served}"),
        *options,
        playbook="playbooks/rollout.yml",
    )
    assert code == 0, said
    verify = ["minisign", "-Vq", "-p", f"{web.parent}/key.pub", "-m", f"{served}/stable.json"]
    assert subprocess.run(verify, check=False).returncode == 0
    assert (served / "parts/0123").read_text() == "a part"
    there = {str(path.relative_to(served)) for path in served.rglob("*") if path.is_file()}
    assert there == {"parts/0123", "stable.json", "stable.json.minisig"}
    return int(json.loads((served / "stable.json").read_text())["percent"]), said


def test_the_share_grows_until_one_fails_and_is_as_one_says(
    hub: Kinto, web: Path, play: Play
) -> None:
    before = {"version": "1.0", "problem": False, "said": ""}
    # Half of the stations have told nothing yet.
    tell(hub, dict.fromkeys(NAMES[::2], before))
    # Of a version that `make update` keeps no longer.
    for old in ("hub/updates/parts/4567", "hub/updates/1.0.json"):
        (web.parent / old).parent.mkdir(parents=True, exist_ok=True)
        (web.parent / old).write_text("old")
    assert offered(hub, web, play, "-e", "percent=20")[0] == 20
    after = before | {"version": VERSION}
    tell(hub, {name: after for name in NAMES if place(name, VERSION) < 20})
    percent, said = offered(hub, web, play)
    assert percent == 50
    assert "of 200 stations run 2.0, and none failed" in said
    failure = f"Update: version {VERSION} did not work here (no record came in); back."
    tell(hub, {FLASHED: before | {"problem": True, "said": failure}})
    percent, said = offered(hub, web, play)
    assert percent == 0
    assert f"2.0 is stopped, because it did not go well on {FLASHED}: see status.yml" in said


def test_without_an_update_it_names_what_makes_one(tmp_path: Path, play: Play) -> None:
    code, said = play(
        INVENTORY.format(port=1, password=""),
        *("-e", "key=updates.key", "-e", f"web={tmp_path}"),
        playbook="playbooks/rollout.yml",
    )
    assert code != 0
    assert "make one first, by `make update KEY=updates.key`" in said
