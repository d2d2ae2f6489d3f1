"""Which part of a Kinto is down, in a sentence that names the unit to look at."""

from __future__ import annotations

import pytest

from unisat_agent.delivery.heartbeat import explain
from unisat_agent.delivery.kinto import Answer


@pytest.mark.parametrize(
    ("sink", "status", "body", "sentence"),
    [
        ("local", 200, {"storage": True, "permission": True, "cache": True}, None),
        (
            "local",
            503,
            {"storage": False, "permission": False, "cache": True},
            "the local Kinto runs, but its database is down: sudo systemctl status postgresql",
        ),
        (
            "local",
            503,
            {"storage": True, "permission": True, "cache": False},
            "the local Kinto runs, but its cache is down: sudo systemctl status memcached",
        ),
        (
            "local",
            503,
            {"storage": False, "cache": False},
            "the local Kinto runs, but its database and its cache are down: "
            "sudo systemctl status postgresql memcached",
        ),
        (
            "hub",
            503,
            {"storage": False, "permission": False},
            "the hub's Kinto runs, but its database is down: the hub's operator must look",
        ),
        (
            "local",
            503,
            None,
            "the local Kinto says that it is not well (503): sudo systemctl status unisat-kinto",
        ),
        (
            "local",
            503,
            {"storage": True, "attachments": False},
            "the local Kinto runs, but its attachments is down: sudo systemctl status unisat-kinto",
        ),
    ],
)
def test_explain(sink: str, status: int, body: object, sentence: str | None) -> None:
    assert explain(sink, Answer(status, {}, body)) == sentence
