"""Passwords that were right are not worked out again.

Kinto keeps in memcached which password of an account was right, because bcrypt takes a quarter of a
second for each. Where memcached restarts, all stations would have to be worked out again at once:
ten thousand take minutes, in which nobody else is answered. So each process remembers as well, and
tells the others by memcached. What is remembered holds the hash that the account had: of another
password, or of an account that is gone, it says nothing.
"""

from __future__ import annotations

import hmac
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import bcrypt
from kinto.core.storage.exceptions import BackendError

MOST = 20_000
# How long memcached keeps what one process worked out, for those that start later.
SHARED_S = 24 * 3600
Value = TypeVar("Value")


class Recent(Generic[Value]):
    """At most so many values, of which the one that was not asked for the longest goes first."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._values: OrderedDict[bytes, Value] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: bytes) -> Value | None:
        """The value, or None."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: bytes, value: Value) -> None:
        """Keeps a value."""
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            if len(self._values) > self._most:
                self._values.popitem(last=False)


class Passwords:
    """bcrypt's ``checkpw``, of which what was right is remembered: an HMAC, never a password.

    Args:
        secret: Of the HMAC; the same in all processes that share a cache.
        cache: Kinto's, or None.
        check: What works it out.
        most: How many are remembered here.
    """

    def __init__(
        self,
        secret: str,
        cache: Any = None,
        *,
        check: Callable[[bytes, bytes], bool] = bcrypt.checkpw,
        most: int = MOST,
    ) -> None:
        self._check = check
        self._key = f"unisat passwords {secret}".encode()
        self._cache = cache
        self._right: Recent[bool] = Recent(most)

    def checkpw(self, password: bytes, hashed_password: bytes) -> bool:
        """Whether it is the password that was hashed."""
        seen = hmac.digest(self._key, hashed_password + b"\0" + password, "sha256")
        if self._right.get(seen):
            return True
        right = self._shared(seen)
        if not right:
            right = self._check(password, hashed_password)
            if right:
                self._share(seen)
        if right:
            self._right.put(seen, True)
        return right

    def _shared(self, seen: bytes) -> bool:
        if self._cache is None:
            return False
        try:
            return bool(self._cache.get(_name(seen)))
        except BackendError:
            return False

    def _share(self, seen: bytes) -> None:
        if self._cache is not None:
            try:
                self._cache.set(_name(seen), True, SHARED_S)
            except BackendError:
                return  # This process knows it all the same.


def _name(seen: bytes) -> str:
    return f"unisat-password-{seen.hex()}"


def remember(config: Any) -> Passwords:
    """Makes Kinto's accounts use one, which is returned."""
    from kinto.plugins.accounts import authentication  # noqa: PLC0415 - only where Kinto runs

    registry = config.registry
    passwords = Passwords(registry.settings["userid_hmac_secret"], registry.cache)
    module: Any = authentication
    module.bcrypt = passwords
    return passwords
