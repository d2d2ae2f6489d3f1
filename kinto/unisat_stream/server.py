"""The HTTP side: one address for streams, and one for a probe."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import aiohttp
import asyncpg
from aiohttp import web

from unisat_stream.access import Access, KintoAwayError, RefusedError, Wanted
from unisat_stream.feed import RECHECK_S, Feed
from unisat_stream.hub import DATABASE_AWAY, Hub

STREAMS_MAX = 5000
COLLECTIONS_MAX = 200
STALE_S = 10.0
RETRY_AFTER_S = 5
POOL = 8
# A reader that takes nothing for so long is gone, or holds memory for nothing.
WRITE_S = 30.0
KINTO_S = 10.0

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store",
    # nginx would collect events before it hands them on.
    "X-Accel-Buffering": "no",
    "Access-Control-Allow-Origin": "*",
}
# Kinto's functions turn times into numbers by the time zone of the session.
_SESSION = {"timezone": "UTC", "application_name": "unisat_stream"}
_AWAY = (KintoAwayError, *DATABASE_AWAY)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Parts:
    """What every request needs."""

    pool: asyncpg.Pool
    hub: Hub
    access: Access
    recheck_s: float


PARTS = web.AppKey("parts", Parts)


def application(database: str, kinto: str, recheck_s: float = RECHECK_S) -> web.Application:
    """The service.

    Args:
        database: Kinto's own `postgresql://…`; nothing is written there.
        kinto: Kinto's URL, which ends in /v1; readers' rights are asked for there.
        recheck_s: How often they are asked for again while a stream goes on.
    """

    async def life(app: web.Application) -> AsyncIterator[None]:
        async with (
            # With none kept by force, asyncpg does not repair a connection that a query is using.
            asyncpg.create_pool(
                database, min_size=0, max_size=POOL, server_settings=_SESSION
            ) as pool,
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=KINTO_S)) as session,
        ):
            hub = Hub(pool)
            await hub.start()
            app[PARTS] = Parts(pool, hub, Access(session, kinto), recheck_s)
            task = asyncio.create_task(hub.run())
            task.add_done_callback(_give_up)
            yield
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    app = web.Application()
    app.cleanup_ctx.append(life)
    app.router.add_get("/v1/buckets/{bucket}/stream", stream)
    app.router.add_get("/healthz", health)
    return app


def _give_up(task: asyncio.Task[None]) -> None:
    """Ends the service where nothing reads the database any more; systemd starts it again."""
    if not task.cancelled():
        _log.critical("the database is not read any more", exc_info=task.exception())
        os.kill(os.getpid(), signal.SIGTERM)


async def health(request: web.Request) -> web.Response:
    """Whether the database was read lately, and how many read along."""
    hub = request.app[PARTS].hub
    age_s = time.monotonic() - hub.polled_at
    well = age_s < STALE_S
    body = {"ok": well, "streams": len(hub.subscribers), "polled_s": round(min(age_s, 1e6), 1)}
    return web.json_response(body, status=200 if well else 503)


async def stream(request: web.Request) -> web.StreamResponse:
    """The records of some collections of a bucket, or of all, as they come."""
    parts = request.app[PARTS]
    try:
        wanted = _wanted(request)
        since = _since(request)
    except ValueError as error:
        return _error(HTTPStatus.BAD_REQUEST, 107, str(error))
    if len(parts.hub.subscribers) >= STREAMS_MAX:
        return _error(HTTPStatus.SERVICE_UNAVAILABLE, 201, "too many streams: try again later")
    feed = Feed(
        parts.pool,
        parts.hub,
        parts.access,
        request.headers.get("Authorization", ""),
        wanted,
        since,
        parts.recheck_s,
    )
    try:
        await feed.admit()
    except RefusedError as error:
        headers = {"WWW-Authenticate": 'Basic realm="kinto"'} if error.status == 401 else {}
        return web.json_response(error.body, status=error.status, headers=headers)
    except KintoAwayError as error:
        return _error(HTTPStatus.SERVICE_UNAVAILABLE, 201, str(error))
    response = web.StreamResponse(headers=_HEADERS)
    await response.prepare(request)
    try:
        async for part in feed.events():
            async with asyncio.timeout(WRITE_S):
                await response.write(part)
    except (ConnectionError, TimeoutError):
        pass  # The reader went away, or takes nothing; its last id brings it back.
    except RefusedError:
        await response.write(b"event: revoked\ndata: {}\n\n")
    except _AWAY as error:
        _log.info("a stream ends, its reader comes back by its last id: %s", error)
    return response


def _wanted(request: web.Request) -> Wanted:
    bucket = request.match_info["bucket"]
    named = request.query.get("collections", "")
    collections = tuple(sorted(set(named.split(",")))) if named else None
    for name in (bucket, *(collections or ())):
        if _ID.fullmatch(name) is None:
            raise ValueError(f"{name!r} is not the id of a bucket or a collection")
    if len(collections or ()) > COLLECTIONS_MAX:
        raise ValueError(f"more than {COLLECTIONS_MAX} collections: leave them out to get all")
    return Wanted(bucket, collections)


def _since(request: web.Request) -> int | None:
    given = request.headers.get("Last-Event-ID") or request.query.get("since")
    if not given:
        return None
    if not (given.isascii() and given.isdigit() and len(given) <= 15):
        raise ValueError("Last-Event-ID must be the id of an event, or a Kinto timestamp")
    return int(given)


def _error(status: HTTPStatus, number: int, message: str) -> web.Response:
    """An error as Kinto writes them."""
    body: dict[str, Any] = {
        "code": int(status), "errno": number, "error": status.phrase, "message": message
    }  # fmt: skip
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status >= 500 else {}
    return web.json_response(body, status=status, headers=headers)
