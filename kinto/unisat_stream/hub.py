"""The one reader of the database, and the many that it hands each change to."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable

import asyncpg

from unisat_stream.records import Change, Key, bucket_of, settled, since

# What asyncpg raises while PostgreSQL goes and comes back; the last one where it goes in the middle
# of an answer.
DATABASE_AWAY = (
    OSError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
POLL_S = 0.25
AWAY_S = 1.0
# A reader that is further behind is cut off, and comes back by its last id. All who wait share the
# records, so that many slow readers hold little more than one does.
BEHIND_MAX_BYTES = 16 * 1024 * 1024

_log = logging.getLogger(__name__)


class Subscriber:
    """What one stream has to send: each change with the mark of the look that found it."""

    def __init__(self, bucket: str) -> None:
        self.bucket = bucket
        self.queue: deque[tuple[Change, int]] = deque()
        self.news = asyncio.Event()
        self.overrun = False
        """It did not keep up, and misses changes from here on."""
        self._bytes = 0

    def offer(self, change: Change, mark: int) -> None:
        """Hands on a change, or gives up on a reader that is too slow."""
        self._bytes += len(change.text)
        if self._bytes > BEHIND_MAX_BYTES:
            self.overrun = True
            self.queue.clear()
        else:
            self.queue.append((change, mark))
        self.news.set()

    def take(self) -> tuple[Change, int]:
        """The oldest change that waits."""
        change, mark = self.queue.popleft()
        self._bytes -= len(change.text)
        return change, mark


class Hub:
    """Polls Kinto's database, and hands what is new to the subscribers of its bucket.

    Attributes:
        mark: Milliseconds; every change up to here was handed on, and no other will appear.
        polled_at: When the database last answered (monotonic seconds).
    """

    def __init__(self, pool: asyncpg.Pool, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.mark = 0
        self.polled_at = float("-inf")
        self.subscribers: set[Subscriber] = set()
        self._pool = pool
        self._monotonic = monotonic
        self._seen: set[Key] = set()
        self._away = False

    async def start(self) -> None:
        """Sets the first mark; raises what asyncpg raises where the database can't be read."""
        async with self._pool.acquire() as connection:
            self.mark = await settled(connection)

    async def run(self) -> None:
        """Polls until it is cancelled; a database that is away is asked again until it is back."""
        while True:
            try:
                await self.poll()
                if self._away:
                    _log.warning("the database answers again")
                self._away = False
                await asyncio.sleep(POLL_S)
            except DATABASE_AWAY as error:
                # The mark stays where it is, so nothing is missed.
                if not self._away:
                    _log.warning("the database does not answer: %s", error)
                self._away = True
                await asyncio.sleep(AWAY_S)

    async def poll(self) -> None:
        """Looks once."""
        async with self._pool.acquire() as connection:
            # In this order: what the look does not show is younger than the new mark.
            mark = max(self.mark, await settled(connection))
            changes = await since(connection, self.mark)
        by_bucket: dict[str, list[Subscriber]] = {}
        for subscriber in self.subscribers:
            by_bucket.setdefault(subscriber.bucket, []).append(subscriber)
        for change in changes:
            if change.key not in self._seen:
                for subscriber in by_bucket.get(bucket_of(change.parent), ()):
                    subscriber.offer(change, mark)
        self.subscribers -= {reader for reader in self.subscribers if reader.overrun}
        self._seen = {change.key for change in changes if change.modified > mark}
        self.mark = mark
        self.polled_at = self._monotonic()
