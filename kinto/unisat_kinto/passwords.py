"""Passwords that were right are not worked out again.

Kinto keeps in memcached which password of an account was right, because bcrypt takes a quarter of a
second for each. Where memcached restarts, all stations would have to be worked out again at once:
ten thousand take minutes, in which nobody else is answered. So each process remembers as well, and
tells the others by memcached. What is remembered holds the hash that the account had: of another
password, or of an account that is gone, it says nothing.

Where both restart, each account is worked out once all the same. A process does so one after the
other, and lets no more than half of its threads wait for it: who comes then is told to come again,
and those who are known are answered meanwhile.
"""

from __future__ import annotations

import hmac
import random
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

import bcrypt
from kinto.core.errors import ERRORS, http_error
from kinto.core.storage.exceptions import BackendError
from pyramid.httpexceptions import HTTPServiceUnavailable
from pyramid.response import Response

MOST = 20_000
# How long memcached keeps what one process worked out, for those that start later.
SHARED_S = 24 * 3600
# When to come again, at most; not all at the same moment.
AGAIN_S = 10
Value = TypeVar("Value")


class BusyError(Exception):
    """So many passwords are being worked out that another one would keep others from their work."""


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
        places: How many may be worked out, or wait for it, at a time.
    """

    def __init__(
        self,
        secret: str,
        cache: Any = None,
        *,
        check: Callable[[bytes, bytes], bool] = bcrypt.checkpw,
        most: int = MOST,
        places: int = 2,
    ) -> None:
        self._check = check
        self._places = places
        self._turn = threading.Lock()
        self._lock = threading.Lock()
        self._working: dict[bytes, Future[bool]] = {}
        self._key = f"unisat passwords {secret}".encode()
        self._cache = cache
        self._right: Recent[bool] = Recent(most)

    def checkpw(self, password: bytes, hashed_password: bytes) -> bool:
        """Whether it is the password that was hashed.

        Raises:
            BusyError: Too many others are being worked out.
        """
        seen = hmac.digest(self._key, hashed_password + b"\0" + password, "sha256")
        if self._right.get(seen):
            return True
        right = self._shared(seen)
        if not right:
            return self._work_out(seen, password, hashed_password)
        self._right.put(seen, True)
        return True

    def _work_out(self, seen: bytes, password: bytes, hashed_password: bytes) -> bool:
        """Works it out, unless that is being done: a class has one login."""
        with self._lock:
            other = self._working.get(seen)
            if other is None:
                if len(self._working) >= self._places:
                    raise BusyError
                mine = self._working[seen] = Future[bool]()
        if other is not None:
            return other.result()
        try:
            with self._turn:
                right = self._check(password, hashed_password)
            if right:
                self._right.put(seen, True)
                self._share(seen)
            mine.set_result(right)
        except BaseException as error:
            mine.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._working[seen]
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
    # The role gives each thread a connection, and so says how many there are.
    threads = int(registry.settings.get("storage_pool_size", 4))
    passwords = Passwords(
        registry.settings["userid_hmac_secret"], registry.cache, places=max(2, threads // 2)
    )
    module: Any = authentication
    module.bcrypt = passwords
    config.add_exception_view(_come_again, context=BusyError)
    return passwords


def _come_again(_error: BusyError, _request: Any) -> Response:
    answer: Response = http_error(
        HTTPServiceUnavailable(),
        errno=ERRORS.BACKEND,
        message="Too many log in at the same time; try again after the time that Retry-After says.",
    )
    answer.headers["Retry-After"] = str(random.randint(1, AGAIN_S))  # noqa: S311 - no secret
    return answer
