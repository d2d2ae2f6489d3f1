"""The hub as the internet sees it: over HTTPS, as one of its accounts."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import ssl
from dataclasses import dataclass, field
from typing import Any

import pytest

from outside import BUILD, INVENTORY, PROJECT, inside, run

HUB = "hub-server"
SECRETS = BUILD / "hub" / "secrets" / HUB
STATIONS = {"almaty": ["u01kz", "u02kz"], "astana": ["u03kz"], "oskemen": ["u04kz", "u05kz"]}


def secret(name: str) -> str:
    """A password that was generated for the hub."""
    return (SECRETS / name).read_text().strip()


def address() -> str:
    """Where the hub is reached from outside."""
    return run(
        *("docker", "inspect", "--format"),
        *("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", HUB),
    ).strip()


def trust() -> ssl.SSLContext:
    """What a station trusts: the hub's own authority and no other."""
    return ssl.create_default_context(cafile=str(SECRETS / "hub_ca.pem"))


def dial(context: ssl.SSLContext) -> ssl.SSLSocket:
    """An encrypted connection to the hub, whose name is checked."""
    plain = socket.create_connection((address(), 443), timeout=60)
    return context.wrap_socket(plain, server_hostname=HUB)


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    text: bytes

    @property
    def json(self) -> Any:
        """What Kinto says."""
        return json.loads(self.text)


@dataclass
class Account:
    """Somebody who asks the hub for things."""

    name: str = ""
    password: str = ""
    connection: http.client.HTTPConnection | None = field(default=None, repr=False)

    def login(self) -> dict[str, str]:
        """The header that says who asks."""
        if not self.name:
            return {}
        login = base64.b64encode(f"{self.name}:{self.password}".encode()).decode()
        return {"Authorization": f"Basic {login}"}

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """Send one request as it is; a kept connection that the hub has closed is replaced."""
        sent = {"Content-Type": "application/json"} | self.login() | (headers or {})
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        for attempt in (1, 2):
            if self.connection is None:
                self.connection = http.client.HTTPConnection(HUB)
                self.connection.sock = dial(trust())
            try:
                self.connection.request(method, path, data, sent)
                answer = self.connection.getresponse()
                text = answer.read()
            except (OSError, http.client.HTTPException):
                self.connection = None
                if attempt == 2:
                    raise
                continue
            found = {name.lower(): value for name, value in answer.getheaders()}
            if found.get("connection") == "close":
                self.connection = None
            return Answer(answer.status, found, text)
        raise AssertionError


@pytest.fixture(scope="session")
def accounts() -> dict[str, Account]:
    """Everybody who plays a part."""
    found = {name: Account(name, secret(f"station_{name}")) for name in STATIONS}
    return found | {
        "anonymous": Account(),
        "reader": Account("school", secret("reader_school")),
        "app": Account("admin", "compiled-into-the-app"),
        "admin": Account("admin", secret("kinto_admin_password")),
        "stranger": Account("almaty", "a guess"),
    }


def record(device: str, number: int, **values: Any) -> dict[str, Any]:
    """A record as the agent delivers it."""
    return {"devID": device, "timestamp": 1660918192 + number, "seq": number} | values


def put(account: Account, device: str, number: int, **values: Any) -> Answer:
    """Deliver one record as the agent does; its id says which one it is."""
    identity = f"{int(device[1:3]):08d}-0000-4000-8000-{number:012d}"
    return account.ask(
        "PUT",
        f"/v1/buckets/telemetry/collections/{device}/records/{identity}",
        {"data": record(device, number, **values)},
        {"If-None-Match": "*"},
    )


def sql(query: str) -> str:
    """What the hub's database answers."""
    return inside(
        HUB, "su", "postgres", "-c", "psql -qtA --set=ON_ERROR_STOP=1 kinto", stdin=query
    ).strip()


def content() -> str:
    """All that the database holds, in short: what somebody changed shows."""
    return sql(
        "SELECT md5(string_agg(o::text, '|' ORDER BY parent_id, resource_name, id)) FROM"
        " (SELECT id, parent_id, resource_name, data - 'charted' AS data, deleted FROM objects) o;"
        "SELECT md5(string_agg(a::text, '|' ORDER BY object_id, permission, principal))"
        " FROM access_control_entries a;"
    )


def playbook(name: str, *options: str, check: bool = True) -> str:
    """Run what the operator runs."""
    return run(
        *("ansible-playbook", "--inventory", INVENTORY, *options),
        f"{PROJECT}/playbooks/{name}",
        check=check,
    )
