"""What the Kinto container runs: ``serve``, ``health`` and ``provision``.

``serve`` brings the database's schema up to this Kinto and then answers requests.
``health`` exits 0 when Kinto and everything it needs answer.
``provision`` reads accounts, collections and permissions as JSON from standard input and
makes Kinto match, printing one line for each thing that it changed. Passwords come by
standard input alone: an argument or an environment variable could be read by others.

What ``provision`` reads (every key may be missing but ``admin_password`` and ``bucket``)::

    {"admin_password": "...", "bucket": "telemetry",
     "bucket_permissions": {"read": ["system.Everyone"], "collection:create": ["account:agent"]},
     "accounts": {"agent": "its password"},
     "writers": {"u01kz": "almaty"}}

where ``writers`` names the account that may add records to a collection and read them. An account
that was given before and is not any more is removed, and its rights with it; what it wrote stays,
and so do accounts that were made by hand.
"""
# ruff: noqa: T201 - what it prints is its answer to the role

import base64
import configparser
import hashlib
import hmac
import json
import os
import sys
import time
import urllib.error
import urllib.request
from typing import Any

INI = os.environ.get("KINTO_INI", "/etc/kinto/kinto.ini")
TIMEOUT_S = 30
START_S = 120  # a Pi 3 that has just booted is slow to import Kinto
PAGE = 1000
# A bucket that nobody but the admin can read or write: which accounts this program made.
OURS = "/buckets/unisat-provisioning"
Permissions = dict[str, list[str]]


class ProvisionError(Exception):
    """What stops the provisioning, as one sentence."""


class Api:
    """Kinto's HTTP interface, as one account."""

    def __init__(self, url: str, user: str = "", password: str = "") -> None:
        self.url = url
        self.headers = {"Content-Type": "application/json"}
        if user:
            token = base64.b64encode(f"{user}:{password}".encode()).decode()
            self.headers["Authorization"] = f"Basic {token}"

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any, str | None]:
        """Sends one request; returns the status, the JSON answer and the next page's address."""
        request = urllib.request.Request(  # noqa: S310 - the address comes from our own ini file
            path if path.startswith("http") else self.url + path,
            method=method,
            headers=self.headers,
            data=None if body is None else json.dumps(body).encode(),
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
                return answer.status, json.load(answer), answer.headers.get("Next-Page")
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read() or b"null"), None

    def change(self, method: str, path: str, body: Any) -> None:
        """Sends a request that has to succeed."""
        status, answer, _ = self.call(method, path, body)
        if status not in {200, 201}:
            raise ProvisionError(f"Kinto answered {status} to {method} {path}: {answer}")

    def listing(self, path: str) -> dict[str, dict[str, Any]]:
        """All objects of a list, by id."""
        found: dict[str, dict[str, Any]] = {}
        page: str | None = f"{path}?_limit={PAGE}"
        while page:
            status, answer, following = self.call("GET", page)
            if status != 200:
                raise ProvisionError(f"Kinto answered {status} to GET {page}: {answer}")
            found |= {item["id"]: item for item in answer["data"]}
            page = following
        return found


def server() -> dict[str, str]:
    """How Kinto is to be served: host, port, threads, and workers where there are several."""
    ini = configparser.RawConfigParser()
    ini.read(INI)
    return dict(ini["server:main"])


def address() -> str:
    """Where Kinto listens, seen from inside the container."""
    host, port = server()["host"], server()["port"]
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # noqa: S104 - compared only
    return f"http://{host}:{port}/v1"


def serve() -> int:
    """Migrates the schema (a second when there is nothing to do), then answers requests."""
    import transaction  # noqa: PLC0415 - both take seconds on a Pi

    several = int(server().get("workers", "1")) > 1
    if several:
        from unisat_kinto import workers  # noqa: PLC0415 - only where there are several

        workers.share_metrics()
    from kinto.__main__ import main as kinto  # noqa: PLC0415

    kinto(["migrate", "--ini", INI])
    transaction.abort()  # or PostgreSQL has an open transaction, and cleans up nothing, ever after
    if several:
        workers.Workers(INI, server()).run()
    return int(kinto(["start", "--ini", INI]) or 0)


def health() -> int:
    """0 when the database and the cache answer as well."""
    try:
        status, parts, _ = Api(address()).call("GET", "/__heartbeat__")
    except (OSError, ValueError) as error:
        print(f"no answer from Kinto: {error}", file=sys.stderr)
        return 1
    if status != 200:
        print(f"Kinto answered {status}: {parts}", file=sys.stderr)
    return 0 if status == 200 else 1


def wait() -> None:
    """Returns as soon as Kinto is healthy."""
    end = time.monotonic() + START_S
    while health():
        if time.monotonic() > end:
            raise ProvisionError(f"Kinto was not healthy within {START_S} s")
        time.sleep(1)


def make_admin(password: str) -> None:
    """Writes the admin's account to the database: nobody else could create it."""
    import transaction  # noqa: PLC0415 - not needed when the account is there
    from kinto.core.storage.exceptions import UnicityError  # noqa: PLC0415
    from kinto.plugins.accounts.utils import hash_password  # noqa: PLC0415
    from pyramid.paster import bootstrap  # noqa: PLC0415

    registry = bootstrap(INI)["registry"]
    try:
        registry.storage.create(
            resource_name="account",
            parent_id="admin",
            obj={"id": "admin", "password": hash_password(password)},
        )
    except UnicityError:
        raise ProvisionError(
            "Kinto's admin has another password than the one given; it is never replaced. Give the"
            " right one, or remove the account to have it made again"
        ) from None
    registry.permission.add_principal_to_ace("/accounts/admin", "write", "account:admin")
    transaction.commit()


def mark(password: str, *parts: Any) -> str:
    """What is kept beside an account or collection to see later whether it is as wanted.

    Kinto has no way to ask for a password, and asking for permissions is one request each.
    """
    return hmac.new(password.encode(), json.dumps(parts).encode(), hashlib.sha256).hexdigest()[:32]


def writer_mark(password: str, collection: str, writer: str) -> str:
    """What is kept in a collection whose records that account may add to and read."""
    return mark(password, collection, writer, "add")


def made_before(admin: Api, accounts: dict[str, dict[str, Any]]) -> set[str]:
    """The names of the accounts that earlier runs made.

    What an account holds can be changed by its owner, so it proves nothing; only where nothing is
    noted yet, as earlier versions left it, its mark is believed.
    """
    status, answer, _ = admin.call("GET", OURS)
    if status == 200:
        return set(answer["data"]["accounts"])
    found = {name for name, data in accounts.items() if data.get("mark")}
    note(admin, found)
    return found


def note(admin: Api, names: set[str]) -> None:
    """Keeps the names of the accounts that were made here."""
    admin.change("PUT", OURS, {"data": {"accounts": sorted(names)}})


def provision(wanted: dict[str, Any]) -> list[str]:
    """Makes Kinto match; returns what was changed, a line each."""
    wait()
    changed = []
    secret, bucket = wanted["admin_password"], f"/buckets/{wanted['bucket']}"
    admin = Api(address(), "admin", secret)
    if admin.call("GET", "/")[1].get("user", {}).get("id") != "account:admin":
        make_admin(secret)
        changed.append("account admin made")

    accounts = admin.listing("/accounts")
    ours = made_before(admin, accounts)
    given = set(wanted.get("accounts", ours))
    # Noted before they are made, and until they are gone: a run may be cut off anywhere.
    if given - ours:
        note(admin, ours | given)
    for name, password in wanted.get("accounts", {}).items():
        data = {"password": password, "mark": mark(secret, name, password)}
        if accounts.get(name, {}).get("mark") != data["mark"]:
            admin.change("PUT", f"/accounts/{name}", {"data": data})
            changed.append(f"account {name} {'changed' if name in accounts else 'made'}")

    permissions: Permissions = wanted.get("bucket_permissions", {})
    status, answer, _ = admin.call("GET", bucket)
    found = {} if status == 404 else answer["permissions"]
    # Who made the bucket has `write` on it; that one stays.
    desired = {name: sorted(set(who)) for name, who in permissions.items() if who}
    desired["write"] = sorted({"account:admin", *permissions.get("write", [])})
    if {name: sorted(who) for name, who in found.items() if who} != desired:
        emptied: Permissions = {name: [] for name in found}
        method = "PUT" if status == 404 else "PATCH"
        admin.change(method, bucket, {"permissions": emptied | desired})
        changed.append(f"bucket {wanted['bucket']} {'made' if status == 404 else 'changed'}")

    collections = admin.listing(f"{bucket}/collections")
    writers = wanted.get("writers", {})
    for name, writer in writers.items():
        data = {"mark": writer_mark(secret, name, writer)}
        if collections.get(name, {}).get("mark") != data["mark"]:
            # Not to write: who may, can change and delete.
            may = {"record:create": [f"account:{writer}"], "read": [f"account:{writer}"]}
            body = {"data": data, "permissions": {"write": []} | may}
            method = "PATCH" if name in collections else "PUT"
            admin.change(method, f"{bucket}/collections/{name}", body)
            changed.append(f"collection {name} {'changed' if name in collections else 'made'}")

    # Each account's own collection, in which it may change what it wrote: the record `status`.
    for name in sorted(set(wanted.get("status_of", [])) - set(collections)):
        body = {"data": {}, "permissions": {"write": [f"account:{name}"]}}
        admin.change("PUT", f"{bucket}/collections/{name}", body)
        changed.append(f"status of {name} made")

    for gone in sorted(ours - given - {"admin"}):
        for name, data in collections.items():
            # Earlier versions let it write, under another mark.
            its = {writer_mark(secret, name, gone), mark(secret, name, gone)}
            if data.get("mark") in its and name not in writers:
                nobody: Permissions = {"write": [], "record:create": [], "read": []}
                body = {"data": {"mark": ""}, "permissions": nobody}
                admin.change("PATCH", f"{bucket}/collections/{name}", body)
                changed.append(f"collection {name} closed")
        if gone in accounts:
            admin.change("DELETE", f"/accounts/{gone}", None)
            changed.append(f"account {gone} removed")
    if ours - given:
        note(admin, given)
    return changed


def keep_batch_to_data(event: Any) -> None:
    """Refuses what a batch could carry past the server in front of a hub's Kinto.

    That one sees the batch alone: it lets nothing but buckets through, and slows down whoever
    tries passwords.
    """
    from kinto.core.errors import http_error  # noqa: PLC0415 - takes seconds on a Pi
    from pyramid.httpexceptions import HTTPForbidden  # noqa: PLC0415

    request = event.request
    batch = getattr(request, "parent", None)
    if batch is None:
        return
    if not request.path.startswith("/v1/buckets"):
        raise http_error(HTTPForbidden(), message="A batch may ask for buckets alone.")
    if request.headers.get("Authorization") != batch.headers.get("Authorization"):
        raise http_error(HTTPForbidden(), message="A batch has one login, its own.")


def includeme(config: Any) -> None:
    """What ``kinto.includes`` loads on a hub."""
    config.add_subscriber(keep_batch_to_data, "pyramid.events.NewRequest")


def main() -> int:
    """Runs the one command."""
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if command == "serve":
        return serve()
    if command == "health":
        return health()
    if command != "provision":
        print("usage: unisat_container.py serve | health | provision", file=sys.stderr)
        return 2
    try:
        for line in provision(json.load(sys.stdin)):
            print(line)
    except (ProvisionError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
