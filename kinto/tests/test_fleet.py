"""The record by which a station says how it is: its own, and nothing else there is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from conftest import Network

PROGRAM = Path(__file__).parent.parent / "unisat_container.py"
STATUS = "/buckets/fleet/collections/{}/records/status"


def provision(network: Network, ini: Path, *names: str) -> str:
    """What was changed, by the container's own program."""
    port = network.kintos[0].url.partition("//")[2].partition("/")[0].rpartition(":")[2]
    ini.write_text(f"[server:main]\nhost = 127.0.0.1\nport = {port}\n")
    wanted = {
        "admin_password": network.kintos[0].admin_password,
        "bucket": "fleet",
        "bucket_permissions": {"read": ["account:reader"]},
        "status_of": names,
    }
    done = subprocess.run(
        [sys.executable, PROGRAM, "provision"],
        input=json.dumps(wanted),
        env=os.environ | {"KINTO_INI": str(ini)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_station_changes_its_own_status_and_nothing_else(
    network: Network, tmp_path: Path
) -> None:
    ini = tmp_path / "kinto.ini"
    # Not every Kinto tells its administrator that a bucket is not there.
    assert network.user("admin")("PUT", "/buckets/fleet").status_code == 201
    assert "status of station made" in provision(network, ini, "station", "stranger")
    assert provision(network, ini, "station", "stranger") == ""
    station, stranger = network.user("station"), network.user("stranger")
    own = STATUS.format("station")
    for health, status in (("ok", 201), ("failed", 200)):
        answer = station("PUT", own, json={"data": {"health": health}})
        assert answer.status_code == status, answer.text
    assert network.user("admin")("GET", own).json()["data"]["health"] == "failed"
    for refused in (
        station("PUT", STATUS.format("stranger"), json={"data": {}}),
        station("PUT", "/buckets/fleet/collections/another", json={"data": {}}),
        station("PATCH", "/buckets/fleet", json={"data": {"a": 1}}),
        station("GET", STATUS.format("stranger")),
        stranger("GET", own),
        network.user("")("GET", own),
    ):
        assert refused.status_code in {401, 403}, refused.text
    reader = network.user("reader")
    assert reader("PUT", own, json={"data": {}}).status_code == 403
    assert reader("GET", own).json()["data"]["health"] == "failed"
    # What it wrote last is kept by the next run.
    provision(network, ini, "station", "stranger")
    assert network.user("admin")("GET", own).json()["data"]["health"] == "failed"
