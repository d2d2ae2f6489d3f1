"""What is remembered of passwords, and that it is never believed for too long."""

from __future__ import annotations

import itertools
import threading
import warnings
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any

import pytest
import requests

from conftest import Network, record
from rig.wait import wait_until

with warnings.catch_warnings():
    # What Kinto stands on is full of them.
    warnings.simplefilter("ignore")
    from kinto.core.storage.exceptions import BackendError

    from unisat_kinto.passwords import AGAIN_S, BusyError, Passwords


class Counted:
    """Stands in for bcrypt."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, password: bytes, hashed: bytes) -> bool:
        self.asked += 1
        return hashed == b"hash of " + password


def test_what_was_right_is_worked_out_once() -> None:
    counted = Counted()
    passwords = Passwords("secret", check=counted)
    for _ in range(3):
        assert passwords.checkpw(b"one", b"hash of one")
    assert counted.asked == 1
    # Another hash is another password: the one before counts no longer.
    assert not passwords.checkpw(b"one", b"hash of two")
    assert not passwords.checkpw(b"one", b"hash of two")
    assert counted.asked == 3


def test_the_oldest_is_forgotten() -> None:
    counted = Counted()
    passwords = Passwords("secret", check=counted, most=2)
    for name in (b"a", b"b", b"a", b"c", b"a", b"b"):
        assert passwords.checkpw(name, b"hash of " + name)
    # b went when c came, because a had been asked for after it.
    assert counted.asked == 4


class Shared:
    """Stands in for memcached, which may be away."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.away = False

    def get(self, key: str) -> Any:
        """Its value."""
        self._fail_if_away()
        return self.values.get(key)

    def set(self, key: str, value: Any, ttl: float) -> None:
        """Keeps a value."""
        self._fail_if_away()
        assert ttl > 0
        self.values[key] = value

    def _fail_if_away(self) -> None:
        if self.away:
            raise BackendError


def test_what_one_process_worked_out_is_known_to_the_others() -> None:
    counted, shared = Counted(), Shared()
    for _ in range(3):
        assert Passwords("secret", shared, check=counted).checkpw(b"one", b"hash of one")
    assert counted.asked == 1
    assert not Passwords("secret", shared, check=counted).checkpw(b"one", b"hash of two")
    # Who can write to the cache and does not know the secret makes nothing right.
    assert Passwords("another", shared, check=counted).checkpw(b"one", b"hash of one")
    assert counted.asked == 3
    shared.away = True
    passwords = Passwords("secret", shared, check=counted)
    assert passwords.checkpw(b"one", b"hash of one")
    assert passwords.checkpw(b"one", b"hash of one")
    assert counted.asked == 4


class Slow(Counted):
    """Stands in for bcrypt, one at a time until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.at_work = 0
        self.most_at_work = 0

    def __call__(self, password: bytes, hashed: bytes) -> bool:
        self.at_work += 1
        self.most_at_work = max(self.most_at_work, self.at_work)
        assert self.go.wait(60)
        self.at_work -= 1
        return super().__call__(password, hashed)


def test_of_many_at_once_few_wait_and_who_is_known_does_not() -> None:
    slow = Slow()
    passwords = Passwords("secret", check=slow, places=3)
    slow.go.set()
    assert passwords.checkpw(b"known", b"hash of known")
    slow.go.clear()
    with ThreadPoolExecutor(8) as pool:
        try:
            asked = {
                pool.submit(passwords.checkpw, b"%d" % name, b"hash of %d" % name)
                for name in range(4)
            }
            refused, waiting = wait(asked, 60, FIRST_COMPLETED)
            assert [type(one.exception()) for one in refused] == [BusyError]
            assert passwords.checkpw(b"known", b"hash of known")
        finally:
            slow.go.set()
        assert [one.result() for one in waiting] == [True] * 3
    assert slow.most_at_work == 1


def test_one_login_of_many_readers_is_worked_out_once() -> None:
    slow = Slow()
    passwords = Passwords("secret", check=slow, places=1)
    with ThreadPoolExecutor(8) as pool:
        try:
            same = [pool.submit(passwords.checkpw, b"class", b"hash of class") for _ in range(8)]
            wait_until(lambda: slow.at_work == 1, 60, lambda: "the first to be worked out")
            with pytest.raises(BusyError):
                passwords.checkpw(b"another", b"hash of another")
        finally:
            slow.go.set()
        assert [one.result() for one in same] == [True] * 8
    assert slow.asked == 1


def test_who_is_to_come_again_is_told_when(network: Network) -> None:
    station, path = network.user("station"), network.collection()
    for seq in range(2):
        station.ingest(path, [record(seq)])
    numbers = itertools.count()
    refused: list[requests.Response] = []

    def log_in(_: int) -> requests.Response:
        user = network.user("reader")
        user.password = f"wrong {next(numbers)}"
        return user("GET", f"{path}/records")

    with ThreadPoolExecutor(20) as pool:

        def crowd() -> bool:
            answers = pool.map(log_in, range(20))
            station.ingest(path, [record(3)])
            for answer in answers:
                assert answer.status_code in {401, 503}
                if answer.status_code == 503:
                    refused.append(answer)
            return bool(refused)

        wait_until(crowd, 60, lambda: "one of many to be refused")
    assert 1 <= int(refused[0].headers["Retry-After"]) <= AGAIN_S
    assert refused[0].json()["errno"] == 201


def test_a_password_that_was_changed_counts_at_once(network: Network) -> None:
    admin = network.user("admin")
    for password in ("first", "second"):
        network.kintos[0].create_account("changing", password)
        for kinto in (0, 1):
            user = network.user("changing", kinto)
            user.password = password
            assert user("GET", "/").json()["user"]["id"] == "account:changing"
            user.password = {"first": "second", "second": "first"}[password]
            assert "user" not in user("GET", "/").json()
    assert admin("DELETE", "/accounts/changing").status_code == 200
    user = network.user("changing")
    user.password = "second"
    assert "user" not in user("GET", "/").json()
