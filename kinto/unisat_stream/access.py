"""Who may read what: asked of Kinto, with the reader's own credentials."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import aiohttp

from unisat_stream.records import parent_of

KEPT = 5000
PAGE = 1000


class RefusedError(Exception):
    """Kinto refused the reader; `status` and `body` are its answer."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(f"{status}: {body.get('message', '')}")
        self.status = status
        self.body = body


class KintoAwayError(Exception):
    """Kinto can't be asked just now."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a reader asks for: some collections of a bucket, or all of it for None."""

    bucket: str
    collections: tuple[str, ...] | None


@dataclass(slots=True)
class _Known:
    """What one reader may read, and when Kinto was asked (monotonic seconds)."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    parents: frozenset[str] = frozenset()
    asked_at: float = float("-inf")


class Access:
    """What readers may read, asked once for all streams of the same reader.

    Args:
        session: For requests to Kinto.
        kinto: Kinto's URL, which ends in /v1.
        monotonic: The clock.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        kinto: str,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session = session
        self._kinto = kinto
        self._monotonic = monotonic
        self._known: OrderedDict[tuple[str, Wanted], _Known] = OrderedDict()

    async def parents(
        self, authorization: str, wanted: Wanted, asked_after: float
    ) -> frozenset[str]:
        """The collections, by `parent_of`, that the reader may read.

        Args:
            authorization: The reader's header; empty for an anonymous one.
            wanted: What it asks for; every collection that it names must be readable.
            asked_after: How old the answer may be (monotonic seconds).

        Raises:
            RefusedError: Kinto refuses the reader.
            KintoAwayError: Kinto does not answer.
        """
        # Credentials are not kept, only what tells them apart.
        key = (hashlib.sha256(authorization.encode()).hexdigest(), wanted)
        known = self._known.setdefault(key, _Known())
        self._known.move_to_end(key)
        if len(self._known) > KEPT:
            self._known.popitem(last=False)
        async with known.lock:
            if known.asked_at <= asked_after:
                began = self._monotonic()
                known.parents = await self._ask(authorization, wanted)
                known.asked_at = began
        return known.parents

    async def _ask(self, authorization: str, wanted: Wanted) -> frozenset[str]:
        collections = f"/buckets/{wanted.bucket}/collections"
        if wanted.collections is None:
            found = await self._list(authorization, f"{collections}?_fields=id&_limit={PAGE}")
        else:
            found = list(wanted.collections)
            for name in found:
                await self._get(authorization, f"{collections}/{name}/records?_limit=1&_fields=id")
        return frozenset(parent_of(wanted.bucket, name) for name in found)

    async def _list(self, authorization: str, path: str) -> list[str]:
        found: list[str] = []
        while path:
            body, path = await self._get(authorization, path)
            found += [str(item["id"]) for item in body["data"]]
        return found

    async def _get(self, authorization: str, path: str) -> tuple[dict[str, Any], str]:
        headers = {"Authorization": authorization} if authorization else {}
        try:
            async with self._session.get(self._kinto + path, headers=headers) as answer:
                if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                    raise KintoAwayError(f"Kinto answered {answer.status}")
                body = await answer.json()
                if answer.status != HTTPStatus.OK:
                    raise RefusedError(answer.status, body)
                # The address is Kinto's own idea of its name; only the path behind /v1 is used.
                _, _, following = answer.headers.get("Next-Page", "").partition("/v1")
                return body, following
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise KintoAwayError(f"Kinto can't be asked: {type(error).__name__}") from error
