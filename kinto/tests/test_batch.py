"""What a batch may carry past the server in front of a hub's Kinto: requests for buckets alone."""

from __future__ import annotations

import base64
import importlib
import json
import warnings
from typing import Any

import pytest

SETTINGS = {
    "kinto.includes": "kinto.plugins.accounts kinto.plugins.prometheus unisat_container",
    "multiauth.policies": "account",
    "multiauth.policy.account.use": (
        "kinto.plugins.accounts.authentication.AccountsAuthenticationPolicy"
    ),
    "kinto.storage_backend": "kinto.core.storage.memory",
    "kinto.permission_backend": "kinto.core.permission.memory",
    "kinto.cache_backend": "kinto.core.cache.memory",
    "kinto.userid_hmac_secret": "of no importance",
    "kinto.account_create_principals": "system.Everyone",
    "kinto.bucket_create_principals": "system.Authenticated",
}


def login(name: str) -> str:
    """What a client sends to say who it is."""
    return "Basic " + base64.b64encode(f"{name}:secret".encode()).decode()


@pytest.fixture(scope="module")
def kinto() -> Any:
    """A Kinto in memory, with two accounts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it imports
        app = importlib.import_module("kinto").main({}, **SETTINGS)
    for name in ("almaty", "astana"):
        ask(app, "PUT", f"/v1/accounts/{name}", {"data": {"password": "secret"}})
    return app


def ask(app: Any, method: str, path: str, body: Any, headers: dict[str, str] | None = None) -> Any:
    """The JSON of an answer."""
    request = importlib.import_module("pyramid.request").Request.blank(
        path, method=method, headers=headers or {}
    )
    request.body = json.dumps(body).encode()
    request.content_type = "application/json"
    return request.get_response(app).json


def batch(app: Any, requests: list[dict[str, Any]], name: str = "") -> list[int]:
    """The statuses of what a batch asks for."""
    headers = {"Authorization": login(name)} if name else {}
    answer = ask(app, "POST", "/v1/batch", {"requests": requests}, headers)
    return [response["status"] for response in answer["responses"]]


def test_buckets_alone(kinto: Any) -> None:
    paths = ["/__metrics__", "/accounts/almaty", "/v1/accounts", "/", "/buckets", "/v1/buckets"]
    assert batch(kinto, [{"path": path} for path in paths], "almaty") == [403] * 4 + [200] * 2
    made = batch(kinto, [{"method": "PUT", "path": "/buckets/school"}], "almaty")
    assert made == [201]


def test_one_login(kinto: Any) -> None:
    own, other = ({"Authorization": login(name)} for name in ("almaty", "astana"))
    asked = [{"path": "/buckets", "headers": headers} for headers in (own, other)]
    assert batch(kinto, asked, "almaty") == [200, 403]
    assert batch(kinto, asked) == [403, 403]
