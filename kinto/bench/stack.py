"""The real stack on free ports: nginx with TLS, Kinto with the plugin, memcached, PostgreSQL."""

from __future__ import annotations

import os
import secrets
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rig import reserve_port
from rig.kinto import Kinto
from rig.processes import Process, children, program
from rig.servers import Memcached, Postgres
from rig.wait import wait_until

# What role kinto has on a hub.
PLUGIN = "kinto.plugins.accounts unisat_kinto kinto.plugins.prometheus unisat_container"
STATION = "station"
READER = "reader"
_TICK_MS = 1000 / os.sysconf("SC_CLK_TCK")

# What the role hub's does for a request: TLS, the login looked up in a cache, a kept connection to
# Kinto; without its limits, which a load generator would only run into.
_NGINX = """
daemon off;
worker_processes {workers};
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_max_body_size 8m;
    client_body_buffer_size 64k;
    keepalive_requests 100000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    gzip on;
    gzip_comp_level 4;
    gzip_types application/json;
    proxy_cache_path {folder}/logins keys_zone=logins:8m;
    ssl_certificate {folder}/cert.pem;
    ssl_certificate_key {folder}/key.pem;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_cache shared:tls:20m;
    ssl_session_tickets off;
    upstream kinto {{ server 127.0.0.1:{kinto}; keepalive 64; }}
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host $http_host;
    server {{
        listen 127.0.0.1:{port} ssl backlog=4096;
        auth_request /_login;
        location / {{ proxy_pass http://kinto; }}
        location ~ ^/v1/buckets/[^/]+/stream$ {{ proxy_pass http://127.0.0.1:{stream}; }}
        location = /_login {{
            internal;
            auth_request off;
            proxy_pass http://kinto/v1/;
            proxy_method GET;
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
            proxy_cache logins;
            proxy_cache_key $http_authorization;
            proxy_cache_valid 200 5m;
            proxy_ignore_headers Cache-Control Expires Set-Cookie Vary;
        }}
    }}
}}
"""


@dataclass
class Stack:
    """A hub, and what each of its parts has used of a processor."""

    kinto: Kinto
    postgres: Postgres
    memcached: Memcached
    nginx: Process
    stream: Process
    port: int
    certificate: Path
    context: ssl.SSLContext
    password: str
    postgres_pid: int

    def provision(self, collections: list[str]) -> None:
        """Collections that the station may add to and the reader may read."""
        admin = self.kinto.client()
        permissions = {
            "record:create": [f"account:{STATION}"], "read": [f"account:{READER}"]
        }  # fmt: skip
        for name in collections:
            admin.create_collection(id=name, bucket="telemetry", permissions=permissions)

    def used_ms(self) -> dict[str, float]:
        """Milliseconds of a processor so far, by part."""
        parts: dict[str, int | None] = {
            "nginx": self.nginx.pid,
            "kinto": self.kinto.pid,
            "postgresql": self.postgres_pid,
            "stream": self.stream.pid,
        }
        return {name: _used_ms(pid) for name, pid in parts.items() if pid is not None}


def _used_ms(pid: int) -> float:
    """Of a process, of the children it has, and of those that it had."""
    total = 0.0
    for one in (pid, *children(pid)):
        try:
            words = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # It has just ended, and its parent counts it from now on.
        total += sum(int(word) for word in words[11 : 15 if one == pid else 13])
    return total * _TICK_MS


def _certificate(folder: Path) -> Path:
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 7"
        " -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out cert.pem"
    )
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    return folder / "cert.pem"


@contextmanager
def stack(folder: Path) -> Iterator[Stack]:
    """The servers, with one station's and one reader's account."""
    with ExitStack() as opened:
        postgres = opened.enter_context(Postgres())
        memcached = opened.enter_context(Memcached())
        settings = {
            "kinto.includes": PLUGIN,
            "kinto.explicit_permissions": "false",
            "kinto.batch_max_requests": "1000",
            "kinto.account_cache_ttl_seconds": "600",
            "kinto.metrics_matchdict_fields": "",
            "kinto.prometheus_created_metrics_enabled": "false",
            "kinto.prometheus_disabled_metrics": "users",
        }
        database = postgres.url(postgres.new_database())
        kinto = opened.enter_context(
            Kinto(
                folder, "hub", storage_url=database,
                memcached=memcached.address, settings=settings,
            )
        )  # fmt: skip
        password = secrets.token_hex(8)
        for name in (STATION, READER):
            kinto.create_account(name, password)
        # Who makes something gets no right to it by that.
        rights = {"read": [f"account:{READER}"], "write": ["account:admin"]}
        kinto.client().create_bucket(id="telemetry", permissions=rights)
        port, stream_port = (
            int(opened.enter_context(reserve_port()).getsockname()[1]) for _ in range(2)
        )
        certificate = _certificate(folder)
        stream = Process(
            [
                *(sys.executable, "-m", "unisat_stream", "--port", str(stream_port)),
                *("--kinto", kinto.url),
            ],
            folder / "stream.log",
            environment={
                "KINTO_STORAGE_URL": database.replace(":", "+psycopg2:", 1),
                "PYTHONPATH": str(Path(__file__).parents[1]),
            },
        )
        opened.callback(lambda: stream.end(signal.SIGTERM))
        conf = folder / "nginx.conf"
        conf.write_text(
            _NGINX.format(
                folder=folder, port=port, kinto=kinto.port, stream=stream_port,
                workers=os.cpu_count() or 1,
            )
        )  # fmt: skip
        nginx = Process([program("nginx"), "-c", str(conf)], folder / "nginx.out")
        opened.callback(lambda: nginx.end(signal.SIGTERM))
        wait_until(lambda: len(children(nginx.pid)) > 0, 30, lambda: f"nginx: {nginx.tail()}")
        pid = int((postgres.directory / "data" / "postmaster.pid").read_text().split()[0])
        context = ssl.create_default_context(cafile=str(certificate))
        yield Stack(
            kinto, postgres, memcached, nginx, stream, port, certificate, context, password, pid
        )
