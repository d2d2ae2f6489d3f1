"""One reader's stream, from its last id to now and on: everything that it may read, in order.

First what the database has up to the hub's mark, page by page. Then the reader is entered with the
hub, and the rest is read once more; what the hub hands over too is sent once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import asyncpg

from unisat_stream.access import Access, KintoAwayError, RefusedError, Wanted
from unisat_stream.hub import Hub, Subscriber
from unisat_stream.records import Change, Key, between

KEEP_ALIVE_S = 15.0
RECHECK_S = 30.0
# How long a stream goes on while Kinto can't say whether its reader still may read.
UNCHECKED_MAX_S = 300.0
# Later than any record: the end of what is read again when a collection becomes readable.
_EVER = 2**42

KEEP_ALIVE = b": keep-alive\n\n"


class Feed:
    """What one request is answered with.

    Args:
        pool: Connections to Kinto's database.
        hub: Where new changes come from.
        access: Where the reader's rights are asked for.
        authorization: The reader's credentials, as they came.
        wanted: What it asked for.
        since: Its last id, milliseconds; None for from now on.
        recheck_s: How long what Kinto said of the reader holds.
        monotonic: The clock.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        hub: Hub,
        access: Access,
        authorization: str,
        wanted: Wanted,
        since: int | None,
        recheck_s: float = RECHECK_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._hub = hub
        self._access = access
        self._authorization = authorization
        self._wanted = wanted
        self._since = since
        self._recheck_s = recheck_s
        self._monotonic = monotonic
        self._parents: frozenset[str] = frozenset()
        self._denied: set[str] = set()
        self._checked_at = float("-inf")

    async def admit(self) -> None:
        """Asks Kinto whether the reader may read.

        Raises:
            RefusedError: It may not.
            KintoAwayError: Kinto does not answer.
        """
        await self._check(self._monotonic() - self._recheck_s)

    async def events(self) -> AsyncIterator[bytes]:
        """The stream; ends when the reader is too slow or may not read any more.

        Raises:
            RefusedError: It may not read any more, found out between two checks.
            KintoAwayError: A new collection can't be judged; the reader comes back by its last id.
            hub.DATABASE_AWAY: The database can't be read.
        """
        subscriber = Subscriber(self._wanted.bucket)
        begin = self._hub.mark if self._since is None else min(self._since, self._hub.mark)
        yield f"retry: 1000\nid: {begin}\nevent: ready\ndata: {{}}\n\n".encode()
        done = begin
        try:
            while done < self._hub.mark:
                until = self._hub.mark
                async for part in self._read(self._parents, done, until, until, None):
                    yield part
                done = until
            # No await from the mark that was read to here: nothing falls between.
            self._hub.subscribers.add(subscriber)
            sent: set[Key] = set()
            async for part in self._read(self._parents, done, _EVER, done, sent):
                yield part
            async for part in self._follow(subscriber, sent, begin):
                yield part
        finally:
            self._hub.subscribers.discard(subscriber)

    async def _follow(
        self, subscriber: Subscriber, sent: set[Key], begin: int
    ) -> AsyncIterator[bytes]:
        while not subscriber.overrun:
            parts: list[bytes] = []
            while subscriber.queue:
                change, mark = subscriber.take()
                if change.parent not in self._parents and self._may_be_new(change):
                    # Before anything younger is sent, or its id would hide this change for good.
                    if parts:
                        yield b"".join(parts)
                        parts = []
                    async for part in self._admit_collection(change, begin, sent):
                        yield part
                if change.parent in self._parents and change.key not in sent:
                    parts.append(change.event(mark))
                sent.discard(change.key)
            if parts:
                yield b"".join(parts)
            subscriber.news.clear()
            try:
                async with asyncio.timeout(min(KEEP_ALIVE_S, self._recheck_s)):
                    await subscriber.news.wait()
            except TimeoutError:
                yield KEEP_ALIVE
            if (
                self._monotonic() - self._checked_at > self._recheck_s
                and not await self._still_may()
            ):
                yield b"event: revoked\ndata: {}\n\n"
                return

    def _may_be_new(self, change: Change) -> bool:
        return self._wanted.collections is None and change.parent not in self._denied

    async def _admit_collection(
        self, change: Change, begin: int, sent: set[Key]
    ) -> AsyncIterator[bytes]:
        """A collection that was made since the last check, all of it that this stream is owed."""
        await self._check(self._monotonic())
        if change.parent not in self._parents:
            self._denied.add(change.parent)
            return
        async for part in self._read({change.parent}, begin, _EVER, begin, sent):
            yield part

    async def _still_may(self) -> bool:
        try:
            await self._check(self._monotonic() - self._recheck_s)
        except RefusedError:
            return False
        except KintoAwayError:
            return self._monotonic() - self._checked_at < UNCHECKED_MAX_S
        self._denied.clear()
        return True

    async def _check(self, asked_after: float) -> None:
        now = self._monotonic()
        self._parents = await self._access.parents(self._authorization, self._wanted, asked_after)
        self._checked_at = now

    async def _read(
        self,
        parents: frozenset[str] | set[str],
        after: int,
        until: int,
        mark: int,
        sent: set[Key] | None,
    ) -> AsyncIterator[bytes]:
        """Reads a range page by page; `sent` gets what the hub may hand over too."""
        last: Change | None = None
        while True:
            # A connection is held for a page, and not while the reader takes it.
            async with self._pool.acquire() as connection:
                page = await between(connection, parents, after, until, last)
            if page:
                yield b"".join(change.event(mark) for change in page)
                last = page[-1]
            if sent is not None:
                sent.update(change.key for change in page)
            if not page:
                return
