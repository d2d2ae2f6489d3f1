"""The live stream over a real Kinto and PostgreSQL: what readers get, and that none is missed."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import urllib.error
import urllib.request
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import aiohttp
import asyncpg
import pytest

from rig.wait import wait_until
from stream_site import START_S, Site
from unisat_stream.hub import Hub

PLUGIN = Path(__file__).parents[1]
RECHECK_S = 0.5
LONG_S = 180.0
# Connections that a fault cut are closed by the garbage collector, whenever it runs.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


Event = tuple[str, str, dict[str, Any]]


class Reader:
    """One reader, as a script of few lines would be: it remembers the last id, and comes back."""

    def __init__(self, site: Site, user: str = "reader", **query: str) -> None:
        self.last_id = ""
        self.user = user
        self._site = site
        self._query = query

    @asynccontextmanager
    async def connected(
        self, session: aiohttp.ClientSession
    ) -> AsyncIterator[Callable[[], Awaitable[Event | None]]]:
        """The connection, as a function that gives the next event; None where the stream ends."""
        headers = self._site.authorization(self.user)
        if self.last_id:
            headers["Last-Event-ID"] = self.last_id
        async with session.get(self._site.url, params=self._query, headers=headers) as answer:
            if answer.status != 200:
                raise aiohttp.ClientResponseError(
                    answer.request_info, answer.history, status=answer.status
                )

            async def following() -> Event | None:
                lines: dict[str, str] = {}
                while line := (await answer.content.readline()).decode():
                    key, _, value = line.rstrip("\n").partition(": ")
                    if key in {"id", "event", "data"}:
                        lines[key] = value
                    elif not key and lines:
                        self.last_id = lines.get("id", self.last_id)
                        return self.last_id, lines["event"], json.loads(lines["data"])
                return None

            yield following


async def record_of(following: Callable[[], Awaitable[Event | None]]) -> dict[str, Any]:
    """The next record."""
    async with asyncio.timeout(LONG_S):
        while (event := await following()) is not None:
            if event[1] == "record":
                return event[2]
    raise AssertionError("the stream ended")


async def arrival(
    following: Callable[[], Awaitable[Event | None]], record_id: str
) -> dict[str, Any]:
    """A record as it arrives; others before it are passed over, as records of the last second."""
    while (record := await record_of(following))["id"] != record_id:
        pass
    return record


def session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=None, sock_read=None), read_bufsize=2**20,
        connector=aiohttp.TCPConnector(limit=0),
    )  # fmt: skip


def test_a_reader_gets_a_record_as_kinto_has_it(site: Site) -> None:
    async def read() -> None:
        async with session() as client, Reader(site).connected(client) as following:
            assert await following() is not None  # ready
            made = await asyncio.to_thread(site.put, "u01kz", 21.5)
            assert await arrival(following, made["id"]) == made

    asyncio.run(read())


def test_a_reader_comes_back_by_its_last_id(site: Site) -> None:
    async def read() -> None:
        reader = Reader(site, collections="u01kz")
        async with session() as client:
            async with reader.connected(client) as following:
                await following()
            away = [await asyncio.to_thread(site.put, "u01kz", n) for n in range(3)]
            await asyncio.to_thread(site.put, "u02kz", 9)
            async with reader.connected(client) as following:
                wanted = {record["id"] for record in away}
                while wanted:
                    wanted.discard((await record_of(following))["id"])

    asyncio.run(read())


def test_a_deletion_is_an_event(site: Site) -> None:
    async def read() -> None:
        async with session() as client, Reader(site).connected(client) as following:
            await following()
            made = await asyncio.to_thread(site.put, "u01kz", 1)
            await asyncio.to_thread(
                site.kinto.client().delete_record, id=made["id"], collection="u01kz"
            )
            async with asyncio.timeout(LONG_S):
                while (event := await following()) is not None:
                    if event[1] == "deleted":
                        break
            assert event is not None
            assert event[2]["id"] == made["id"]
            assert event[2]["collection"] == "u01kz"

    asyncio.run(read())


@pytest.mark.parametrize(
    ("user", "query", "status"),
    [
        ("stranger", {}, 403),
        ("stranger", {"collections": "u01kz"}, 403),
        ("nobody", {}, 401),
        ("reader", {"collections": "u01kz,nosuch"}, 404),
        ("reader", {"collections": "../accounts"}, 400),
        ("reader", {"since": "yesterday"}, 400),
    ],
)
def test_who_may_not_read_is_told_by_kintos_answer(
    site: Site, user: str, query: dict[str, str], status: int
) -> None:
    async def ask() -> tuple[int, dict[str, Any]]:
        async with (
            session() as client,
            client.get(site.url, params=query, headers=site.authorization(user)) as answer,
        ):
            return answer.status, await answer.json()

    got, body = asyncio.run(ask())
    assert got == status
    assert body["code"] == status


def test_a_right_that_is_taken_away_ends_the_stream(site: Site) -> None:
    site.kinto.create_account("leaver", site.reader_password)
    admin = site.kinto.client()
    admin.patch_bucket(id="telemetry", permissions={"read": ["account:reader", "account:leaver"]})

    async def read() -> None:
        async with session() as client, Reader(site, "leaver").connected(client) as following:
            await following()
            await asyncio.to_thread(
                admin.patch_bucket, id="telemetry", permissions={"read": ["account:reader"]}
            )
            async with asyncio.timeout(LONG_S):
                while (event := await following()) is not None:
                    last = event[1]
            assert last == "revoked"

    asyncio.run(read())


def test_a_record_that_becomes_visible_late_is_not_missed(site: Site) -> None:
    """Written first, committed last, with a reader who leaves in between."""

    async def read() -> None:
        reader = Reader(site)
        late = str(uuid.uuid4())
        async with session() as client:
            with site.writing("u02kz", late):
                async with reader.connected(client) as following:
                    made = await asyncio.to_thread(site.put, "u01kz", 5)
                    await arrival(following, made["id"])
            async with reader.connected(client) as following:
                await arrival(following, late)

    asyncio.run(read())


def test_a_collection_that_is_made_later_is_in_the_stream_of_all(site: Site) -> None:
    async def read() -> None:
        async with session() as client, Reader(site).connected(client) as following:
            await following()
            name = f"n{uuid.uuid4().hex[:8]}"
            await asyncio.to_thread(
                site.kinto.client().create_collection, id=name, bucket="telemetry"
            )
            made = await asyncio.to_thread(site.put, name, 3)
            assert await arrival(following, made["id"]) == made

    asyncio.run(read())


def test_a_reader_that_takes_nothing_costs_the_others_nothing(site: Site) -> None:
    """The slow one is let go, and gets all of it when it comes back."""

    async def streams(client: aiohttp.ClientSession) -> int:
        async with client.get(site.health_url) as answer:
            return int((await answer.json())["streams"])

    async def read() -> None:
        slow, quick = Reader(site, collections="u01kz"), Reader(site, collections="u01kz")
        made: set[str] = set()
        async with session() as client, slow.connected(client) as first:
            await first()  # and then takes nothing
            async with quick.connected(client) as following:
                await following()
                got: set[str] = set()

                async def take() -> None:
                    while True:
                        got.add((await record_of(following))["id"])

                taking = asyncio.create_task(take())
                async with asyncio.timeout(LONG_S):
                    while await streams(client) != 2:  # those of the tests before end
                        pass
                    while await streams(client) == 2:
                        made |= await asyncio.to_thread(site.flood, "u01kz")
                        while not made <= got:
                            await asyncio.sleep(0)
                    assert await streams(client) == 1
                taking.cancel()
        async with session() as client, slow.connected(client) as following:
            wanted = set(made)
            while wanted:
                wanted.discard((await record_of(following))["id"])

    asyncio.run(read())


@dataclass
class Crowd:
    """Many readers of a few collections each, and what each of them got."""

    got: dict[int, set[str]] = field(default_factory=dict)
    stop: bool = False

    async def follow(self, number: int, reader: Reader, client: aiohttp.ClientSession) -> None:
        got = self.got.setdefault(number, set())
        while not self.stop:
            with suppress(aiohttp.ClientError, ConnectionError):
                async with reader.connected(client) as following:
                    while (event := await following()) is not None:
                        if event[1] == "record":
                            got.add(event[2]["id"])
            await asyncio.sleep(0.2)


def test_it_reads_on_however_often_postgresql_is_killed(site: Site) -> None:
    def polled_s() -> float:
        try:
            with urllib.request.urlopen(site.health_url, timeout=5) as answer:
                return float(json.load(answer)["polled_s"])
        except urllib.error.HTTPError as error:
            with error:
                return float(json.load(error)["polled_s"])

    # Quickly one after the other, so that it goes while it is being connected to as well.
    for _ in range(12):
        site.postgres.kill()
        site.postgres.start()
    wait_until(lambda: polled_s() < 1, START_S, "the database to be read again")


def test_a_connection_that_breaks_within_an_answer_does_not_end_the_reading() -> None:
    """Asyncpg calls that an internal error; when it happens cannot be chosen."""

    class Pool:
        asked = asyncio.Event()
        times = 0

        def acquire(self) -> None:
            self.times += 1
            if self.times > 1:
                self.asked.set()
            raise asyncpg.InternalClientError("cannot switch to state 12")

    async def read() -> None:
        pool = Pool()
        reading = asyncio.create_task(Hub(cast("asyncpg.Pool", pool)).run())
        async with asyncio.timeout(START_S):
            await pool.asked.wait()
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading

    asyncio.run(read())


def test_200_readers_miss_nothing_while_everything_is_killed(site: Site) -> None:
    """The oracle: what was acknowledged to its writer reaches every reader."""
    readers = int(os.environ.get("UNISAT_STREAM_READERS", "200"))
    seed = int(os.environ.get("UNISAT_STREAM_SEED", "7"))
    rounds = int(os.environ.get("UNISAT_STREAM_ROUNDS", "1"))
    rng = random.Random(seed)
    names = [f"s{n:02d}" for n in range(10)]
    admin = site.kinto.client()
    for name in names:
        admin.create_collection(id=name, bucket="telemetry")
    acknowledged: dict[str, set[str]] = {name: set() for name in names}
    killing = True
    seen = 0

    def write() -> None:
        client = site.kinto.client()
        while killing:
            name = rng.choice(names)
            record_id = str(uuid.uuid4())
            with suppress(Exception):  # the outcome is unknown: nothing was acknowledged
                client.create_record(id=record_id, data={"devID": name}, collection=name)
                acknowledged[name].add(record_id)

    def some_more() -> bool:
        nonlocal seen
        now = sum(len(ids) for ids in acknowledged.values())
        if now < seen + 10:
            return False
        seen = now
        return True

    def kill() -> None:
        for _ in range(rounds):
            wait_until(some_more, LONG_S, "records before the stream is killed")
            site.stop(signal.SIGKILL)
            site.start()
            wait_until(some_more, LONG_S, "records before Kinto is killed")
            site.kinto.kill()
            site.kinto.start()
            wait_until(some_more, LONG_S, "records before PostgreSQL is killed")
            site.postgres.kill()
            site.postgres.start()

    async def run() -> Crowd:
        nonlocal killing
        crowd = Crowd()
        async with session() as client:
            choices = [names[n % len(names)] for n in range(readers)]
            crowd_tasks = [
                asyncio.create_task(
                    crowd.follow(n, Reader(site, collections=choices[n], since="1"), client)
                )
                for n in range(readers)
            ]
            writing = asyncio.create_task(asyncio.to_thread(write))
            try:
                await asyncio.to_thread(kill)
            finally:
                killing = False
                await writing
            async with asyncio.timeout(LONG_S):
                while any(
                    acknowledged[choices[n]] - crowd.got.get(n, set()) for n in range(readers)
                ):
                    await asyncio.sleep(0.1)
            crowd.stop = True
            for task in crowd_tasks:
                task.cancel()
            await asyncio.gather(*crowd_tasks, return_exceptions=True)
        return crowd

    crowd = asyncio.run(run())
    total = sum(len(ids) for ids in acknowledged.values())
    assert total >= 30 * rounds
    assert len(crowd.got) == readers
