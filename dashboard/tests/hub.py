"""What the network page's tests look at: Kinto, the plugin, the live stream and nginx, all real.

nginx has the role's own configuration of the page, on a free port. The program prints one line of
JSON with the address, then obeys one command a line on standard input and answers with "done":

    send DEVICE SEQ FIELDS   a package, as an agent delivers it now; FIELDS is a JSON object
    report STATION RECORD    a station's report in bucket fleet
    station NAME DEVICE …    an account that may add records to these devices; the reader's password
    silence DEVICE SECONDS   the newest package of a new device, that old
    stop-kinto, start-kinto
"""

from __future__ import annotations

import json
import math
import secrets
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jinja2
import requests

from rig import reserve_port
from rig.kinto import BUCKET, Kinto
from rig.processes import Process, program
from rig.servers import Memcached, Postgres

REPOSITORY = Path(__file__).resolve().parents[2]
PLUGIN = {"kinto.includes": "kinto.plugins.accounts kinto.plugins.default_bucket unisat_kinto"}
READER = "reader"
EPOCH = "0c9d5b9e-1111-4222-8333-444455556666"
NGINX = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
events {{}}
http {{
    default_type application/json;
    access_log off;
    {temporary}
    proxy_http_version 1.1;
    server {{
        listen 127.0.0.1:{port};
        location / {{ return 404; }}
        location /v1/ {{ proxy_pass http://127.0.0.1:{kinto}; proxy_set_header Host $http_host; }}
        location ~ ^/v1/buckets/[^/]+/stream$ {{
            proxy_pass http://127.0.0.1:{stream};
            proxy_buffering off;
        }}
        {page}
    }}
}}
"""


def page_conf(location: str) -> str:
    """The role's configuration of the page."""
    template = (REPOSITORY / "roles/dashboard/templates/unisat-network.conf.j2").read_text()
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)  # noqa: S701 - not HTML
    environment.filters["to_json"] = json.dumps
    return environment.from_string(template).render(
        __dashboard_hub_tls="none",
        __dashboard_root=str(REPOSITORY / "build/dashboard"),
        dashboard_location=location,
    )


class Hub:
    """The running parts; the stack ends them."""

    def __init__(self, directory: Path, stack: ExitStack, location: str) -> None:
        self._directory = directory
        postgres = stack.enter_context(Postgres())
        memcached = stack.enter_context(Memcached())
        self._database = postgres.url(postgres.new_database())
        self._kinto = stack.enter_context(
            Kinto(
                directory,
                "hub",
                storage_url=self._database,
                memcached=memcached.address,
                settings=PLUGIN,
            )
        )
        self.password = secrets.token_hex(8)
        self._session = requests.Session()
        self._session.auth = ("admin", self._kinto.admin_password)
        self._put(f"/accounts/{READER}", {"data": {"password": self.password}})
        self._put("/accounts/stranger", {"data": {"password": self.password}})
        for bucket in (BUCKET, "fleet"):
            self._put(f"/buckets/{bucket}", {"permissions": {"read": [f"account:{READER}"]}})
        ports = [stack.enter_context(reserve_port()).getsockname()[1] for _ in range(2)]
        self.port: int = ports[0]
        self._run(
            stack,
            "stream",
            [
                sys.executable,
                "-m",
                "unisat_stream",
                "--port",
                str(ports[1]),
                "--kinto",
                self._kinto.url,
            ],
            {"KINTO_STORAGE_URL": self._database, "PYTHONPATH": str(REPOSITORY / "kinto")},
        )
        conf = directory / "nginx.conf"
        conf.write_text(
            NGINX.format(
                folder=directory,
                port=self.port,
                kinto=self._kinto.port,
                stream=ports[1],
                page=page_conf(location),
                temporary="\n".join(
                    f"{name}_temp_path {directory}/{name};"
                    for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
                ),
            )
        )
        self._run(
            stack,
            "nginx",
            [program("nginx"), "-c", str(conf), "-e", str(directory / "nginx.log")],
            {},
        )

    def _run(
        self, stack: ExitStack, name: str, command: list[str], environment: dict[str, str]
    ) -> None:
        process = Process(command, self._directory / f"{name}.log", environment=environment)
        stack.callback(process.end, signal.SIGTERM)

    def _put(self, path: str, body: dict[str, Any]) -> None:
        answer = self._session.put(self._kinto.url + path, json=body, timeout=60)
        answer.raise_for_status()

    def ingest(self, bucket: str, collection: str, records: Iterable[dict[str, Any]]) -> None:
        """Stores records as an agent does; makes the collection."""
        self._put(f"/buckets/{bucket}/collections/{collection}", {})
        path = f"/buckets/{bucket}/collections/{collection}/records:ingest"
        answer = self._session.post(self._kinto.url + path, json=list(records), timeout=60)
        answer.raise_for_status()

    def _station(self, name: str, *devices: str) -> None:
        self._put(f"/accounts/{name}", {"data": {"password": self.password}})
        who = [f"account:{name}"]
        for device in devices:
            rights = {"permissions": {"record:create": who, "read": who}}
            self._put(f"/buckets/{BUCKET}/collections/{device}", rights)
        self._put(f"/buckets/fleet/collections/{name}", {"permissions": {"write": who}})

    def obey(self, command: str, argument: str) -> None:
        """Carries out one command."""
        if command == "send":
            device, seq, fields = argument.split(" ", 2)
            self.ingest(
                BUCKET, device, [package(device, int(seq), time.time(), **json.loads(fields))]
            )
        elif command == "report":
            station, record = argument.split(" ", 1)
            collection = f"/buckets/fleet/collections/{station}"
            self._put(collection, {})
            # As the agent writes it, of a station whose clock is an hour behind.
            report = {"timestamp": int(time.time()) - 3600, **json.loads(record)}
            self._put(f"{collection}/records/status", {"data": report})
        elif command == "station":
            self._station(*argument.split())
        elif command == "silence":
            device, seconds = argument.split(" ")
            self.ingest(
                BUCKET, device, [package(device, 1, time.time() - float(seconds), epoch=device)]
            )
        elif command == "stop-kinto":
            self._kinto.terminate()
        elif command == "start-kinto":
            self._kinto.start()
        else:
            raise ValueError(f"unknown command: {command}")


def package(device: str, seq: int, when: float, **fields: Any) -> dict[str, Any]:
    """A record as an agent makes it."""
    wave = math.sin(seq / 40 + sum(device.encode()))
    return {
        "id": str(uuid.uuid4()),
        "devID": device,
        "timestamp": int(when),
        "received_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when)),
        "clock": "synced",
        "epoch": EPOCH,
        "seq": seq,
        "groups": {"meteo": ["temperature", "humidity", "pressure"], "air": ["pm25"]},
        "temperature": round(21 + 2 * wave, 2),
        "humidity": round(46 - 5 * wave, 1),
        "pressure": round(931.5 + wave, 1),
        "pm25": 8.0 + seq % 5,
        **fields,
    }


def main() -> None:
    """Runs until standard input ends; the argument is the role's dashboard_location."""
    with tempfile.TemporaryDirectory(prefix="unisat-hub-") as name, ExitStack() as stack:
        folder = Path(name)
        # nginx's workers are another user.
        folder.chmod(0o711)
        hub = Hub(folder, stack, sys.argv[1])
        now = time.time()
        # Two devices of one station, whose packages are numbered together; number 100 never came.
        for offset, device in enumerate(("almaty1", "almaty2")):
            hub.ingest(
                BUCKET,
                device,
                (
                    package(device, seq, now - 3 * (400 - seq), lat=43.27534, long=76.94567)
                    for seq in range(1 + offset, 400, 2)
                    if seq != 100
                ),
            )
        print(
            json.dumps({"url": f"http://127.0.0.1:{hub.port}", "password": hub.password}),
            flush=True,
        )
        for line in sys.stdin:
            command, _, argument = line.strip().partition(" ")
            hub.obey(command, argument)
            print("done", flush=True)


if __name__ == "__main__":
    main()
