"""The live stream, over HTTPS through nginx."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from conftest import HUB, Account, dial, put, secret, trust
from outside import inside, wait_until

PATH = "/v1/buckets/telemetry/stream?collections=u01kz"


@contextmanager
def listening(account: Account) -> Iterator[Iterator[str]]:
    """The lines of a stream, as they come."""
    connection = http.client.HTTPConnection(HUB)
    connection.sock = dial(trust())
    try:
        connection.request("GET", PATH, headers=account.login())
        answer = connection.getresponse()
        assert answer.status == 200
        assert answer.getheader("Content-Type") == "text/event-stream"
        yield (line.decode().rstrip("\n") for line in answer)
    finally:
        connection.close()


def follow(lines: Iterator[str], event: str) -> str:
    """The data of the next event of that kind."""
    for line in lines:
        if line == f"event: {event}":
            return next(lines)
    raise AssertionError("the stream ended")


def test_a_record_is_seen_as_it_comes(accounts: dict[str, Account]) -> None:
    with listening(accounts["reader"]) as lines:
        follow(lines, "ready")
        for number in (700, 701):
            assert put(accounts["almaty"], "u01kz", number, temperature=21.0).status in {201, 412}
            # Those of a moment ago may come first.
            while f'"seq":{number}' not in follow(lines, "record").replace(" ", ""):
                pass


@pytest.mark.parametrize(
    ("who", "status"), [("anonymous", 401), ("stranger", 401), ("astana", 403), ("almaty", 200)]
)
def test_who_may_not_read_gets_no_stream(
    accounts: dict[str, Account], who: str, status: int
) -> None:
    if status == 200:
        with listening(accounts[who]) as lines:
            assert follow(lines, "ready")
        return
    # One got another password on the second day.
    account = Account(who, secret("station_astana")) if who == "astana" else accounts[who]
    answer = account.ask("GET", PATH)
    assert (answer.status, answer.json["code"]) == (status, status)


def test_it_comes_back_when_it_is_killed(accounts: dict[str, Account]) -> None:
    inside(HUB, "docker", "kill", "--signal=KILL", "unisat-stream")

    def well() -> bool:
        with listening(accounts["reader"]) as lines:
            return bool(follow(lines, "ready"))

    def again() -> bool:
        try:
            return well()
        except (AssertionError, OSError):
            return False

    wait_until(again, "the live stream is back", 60)
    show = ("systemctl", "show", "--value", "--property=ProtectSystem", "unisat-stream")
    assert inside(HUB, *show).strip() == "strict"
