"""Who may do what: all that is forbidden is tried over HTTPS, by everybody, also in batches."""

from __future__ import annotations

import base64
import json
from functools import partial
from typing import Any

import pytest

from conftest import STATIONS, Account, Answer, content, put
from outside import wait_until

COLLECTIONS = "/v1/buckets/telemetry/collections"
MINE = "/buckets/telemetry/collections/u01kz"
RECORD = f"{MINE}/records/00000001-0000-4000-8000-000000000001"
WRITE = {"permissions": {"write": ["account:almaty", "account:school", "system.Everyone"]}}
# What nobody may do from outside, the record's own author included: method, path, body.
FORBIDDEN: list[tuple[str, str, Any]] = [
    ("PUT", RECORD, {"data": {"temperature": 0.0}}),
    ("PATCH", RECORD, {"data": {"temperature": 0.0}}),
    ("PATCH", RECORD, WRITE),
    ("DELETE", RECORD, None),
    ("DELETE", f"{MINE}/records", None),
    ("DELETE", f"{MINE}/records?_limit=1", None),
    ("PUT", MINE, {"data": {"schema": {}}}),
    ("PATCH", MINE, {"data": {"mark": ""}}),
    ("PATCH", MINE, WRITE),
    ("DELETE", MINE, None),
    ("PUT", "/buckets/telemetry/collections/u99kz", {}),
    ("POST", "/buckets/telemetry/collections", {"data": {"id": "u99kz"}}),
    ("DELETE", "/buckets/telemetry/collections", None),
    ("PUT", "/buckets/telemetry/groups/friends", {"data": {"members": ["account:almaty"]}}),
    ("PATCH", "/buckets/telemetry", WRITE),
    ("PUT", "/buckets/telemetry", WRITE),
    ("DELETE", "/buckets/telemetry", None),
    ("PUT", "/buckets/mine", {}),
    ("POST", "/buckets", {"data": {"id": "mine"}}),
    ("DELETE", "/buckets", None),
    ("PUT", "/buckets/default/collections/mine/records/1", {}),
    ("PUT", "/buckets/default", {}),
    ("GET", "/buckets/unisat-provisioning", None),
    ("PUT", "/buckets/unisat-provisioning", {"data": {"accounts": []}}),
    ("POST", f"{MINE}/retain", {"data": {"before": 9999999999}}),
    *(
        (method, f"/accounts/{name}", {"data": {"password": "another"}})
        for name in ("almaty", "astana", "school", "admin", "newcomer")
        for method in ("PUT", "PATCH", "DELETE")
    ),
    ("POST", "/accounts", {"data": {"id": "newcomer", "password": "another"}}),
    ("GET", "/accounts", None),
    ("DELETE", "/accounts", None),
    ("POST", "/__flush__", None),
    ("GET", "/__metrics__", None),
]
# In a station's collections nobody but the station may add.
ADD = {"data": {"devID": "u01kz", "temperature": 0.0}}
CREATING: list[tuple[str, str, Any]] = [
    ("POST", f"{MINE}/records", ADD),
    ("PUT", f"{MINE}/records/00000001-0000-4000-8000-00000000ffff", ADD),
]
EVERYBODY = ["anonymous", "reader", "almaty", "astana", "app", "admin", "stranger"]


def refused(answer: Answer) -> bool:
    """Whether it was refused, in the form of Kinto's errors; a list of nothing deleted is none."""
    if answer.status == 200:
        return bool(answer.json == {"data": []})
    said = answer.json
    return answer.status in {401, 403, 404, 405} and bool(said["code"] == answer.status)


def stored(account: Account, device: str) -> bool:
    return put(account, device, 1, temperature=20.0).status in {201, 412}


@pytest.fixture(scope="module", autouse=True)
def first_records(accounts: dict[str, Account]) -> None:
    for name, devices in STATIONS.items():
        for device in [device for device in devices if device != "u05kz"]:
            # PostgreSQL was restarted for its backup. Kinto finds that out by its next request,
            # which is answered 503, and a station sends it again.
            wait_until(
                partial(stored, accounts[name], device),
                f"{name} stores a record of {device}",
                30,
            )


@pytest.mark.parametrize("who", EVERYBODY)
def test_nobody_changes_anything(accounts: dict[str, Account], who: str) -> None:
    before = content()
    acts = FORBIDDEN + ([] if who == "almaty" else CREATING)
    for method, path, body in acts:
        answer = accounts[who].ask(method, f"/v1{path}", body)
        assert refused(answer), (method, path, answer)
    for begin in range(0, len(acts), 25):
        requests = [
            {"method": method, "path": path} | ({} if body is None else {"body": body})
            for method, path, body in acts[begin : begin + 25]
        ]
        answer = accounts[who].ask("POST", "/v1/batch", {"requests": requests})
        if who in {"admin", "stranger"}:
            assert answer.status == 401
            continue
        for request, response in zip(requests, answer.json["responses"], strict=True):
            said = Answer(response["status"], {}, json.dumps(response["body"]).encode())
            assert refused(said), (request, response)
    assert content() == before


@pytest.mark.parametrize(
    ("who", "device", "status"),
    [
        ("anonymous", "u01kz", 401),
        ("stranger", "u01kz", 401),
        ("admin", "u01kz", 401),
        ("reader", "u01kz", 200),
        ("reader", "u03kz", 200),
        ("app", "u01kz", 200),
        ("almaty", "u01kz", 200),
        ("almaty", "u02kz", 200),
        ("almaty", "u03kz", 403),
        ("astana", "u01kz", 403),
    ],
)
def test_who_reads(accounts: dict[str, Account], who: str, device: str, status: int) -> None:
    for method in ("GET", "HEAD"):
        answer = accounts[who].ask(method, f"{COLLECTIONS}/{device}/records")
        assert answer.status == status
    if status == 401:
        assert accounts[who].ask("GET", COLLECTIONS).headers["www-authenticate"].startswith("Basic")


def test_a_station_adds_to_its_own_and_hears_what_is_there_already(
    accounts: dict[str, Account],
) -> None:
    station = accounts["almaty"]
    added = station.ask("POST", f"{COLLECTIONS}/u02kz/records", {"data": {"temperature": 1.0}})
    assert added.status == 201
    assert added.json["permissions"] == {}
    again = put(station, "u01kz", 1, temperature=99.0)
    assert again.status == 412
    assert again.json["details"]["existing"]["temperature"] == 20.0


def test_a_batch_carries_no_other_login(accounts: dict[str, Account]) -> None:
    login = base64.b64encode(f"astana:{accounts['astana'].password}".encode()).decode()
    inner = {"method": "GET", "path": "/buckets/telemetry/collections/u03kz/records"}
    inner_with = inner | {"headers": {"Authorization": f"Basic {login}"}}
    for who in ("anonymous", "almaty"):
        answer = accounts[who].ask("POST", "/v1/batch", {"requests": [inner_with]})
        assert answer.json["responses"][0]["status"] == 403
    answer = accounts["astana"].ask("POST", "/v1/batch", {"requests": [inner, inner_with]})
    assert [response["status"] for response in answer.json["responses"]] == [200, 200]


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/__metrics__", "/metrics/kinto", "/v1/__version__", "/v1/__api__", "/v1/admin/"),
        *("/v1/accounts/almaty", "/v1/buckets/../accounts/almaty", "/v1//accounts/almaty"),
        *("/v1/buckets/%2e%2e/accounts/almaty", "/v1/buckets/x/..%2f..%2faccounts/almaty"),
        *("/v1/buckets/..;/__metrics__", "/_login", "/V1/accounts/almaty", "/.git/config"),
    ],
)
def test_other_paths_lead_nowhere(accounts: dict[str, Account], path: str) -> None:
    answer = accounts["almaty"].ask("GET", path)
    assert answer.status in {400, 403, 404}
    assert answer.json["code"] == answer.status


def test_the_page_is_there_for_everybody_and_runs_nothing_else(
    accounts: dict[str, Account],
) -> None:
    answer = accounts["anonymous"].ask("GET", "/")
    assert answer.status == 200
    assert b"<script" in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    "login",
    ["a/../../__heartbeat__", "x y", "x\r\nX-Account: admin", "almaty?", "%61lmaty", "ä"],
)
def test_a_name_that_is_none_never_reaches_kinto(login: str) -> None:
    answer = Account(login, "x").ask("GET", "/v1/buckets")
    assert answer.status == 401
    assert answer.json["errno"] == 104
