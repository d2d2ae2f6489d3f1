"""What is remembered of passwords, and that it is never believed for too long."""

from __future__ import annotations

import warnings
from typing import Any

from conftest import Network

with warnings.catch_warnings():
    # What Kinto stands on is full of them.
    warnings.simplefilter("ignore")
    from kinto.core.storage.exceptions import BackendError

    from unisat_kinto.passwords import Passwords


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
