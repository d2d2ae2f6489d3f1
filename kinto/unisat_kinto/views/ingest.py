"""``POST /buckets/{b}/collections/{c}/records:ingest``: a batch of records in one transaction."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NoReturn

from kinto.core.authorization import DYNAMIC
from kinto.core.errors import ERRORS, http_error, raise_invalid
from kinto.core.storage.exceptions import BackendError
from kinto.core.utils import msec_time
from pyramid.httpexceptions import (
    HTTPException,
    HTTPRequestEntityTooLarge,
    HTTPUnsupportedMediaType,
)
from pyramid.interfaces import IRoutesMapper
from pyramid.response import Response
from pyramid.tweens import EXCVIEW

from unisat_kinto import queries
from unisat_kinto.capability import MAX_BYTES, MAX_RECORDS
from unisat_kinto.context import CreateContext, WriteContext
from unisat_kinto.logins import Login, Logins
from unisat_kinto.utils import Batch, BodyError, TooLargeError, read_batch, unzip
from unisat_kinto.views.common import not_found

ROUTE = "unisat-ingest"
PATTERN = "/buckets/{bucket_id}/collections/{collection_id}/records:ingest"
NDJSON = ("application/x-ndjson", "application/ndjson")
_ID = "([a-zA-Z0-9][a-zA-Z0-9_-]*)"
Handler = Callable[[Any], Response]


def includeme(config: Any) -> None:
    """Adds the endpoint: a plain route, which costs less of a processor than a Cornice service."""
    config.add_route(ROUTE, PATTERN, factory=_context, request_method="POST")
    config.add_view(ingest, route_name=ROUTE, permission=DYNAMIC, renderer="json")
    if hasattr(config.registry, "unisat_logins"):
        config.add_tween(
            f"{__name__}.known_logins",
            under="kinto.core.initialization._end_of_life_tween_factory",
            over=["pyramid_tm.tm_tween_factory", EXCVIEW],
        )


def known_logins(handler: Handler, registry: Any) -> Handler:
    """A short way to the database for who is known, past half of what a request costs Kinto.

    It is for what can be answered with 200; for all else, also where the connection broke and the
    outcome is unknown, the request goes the ordinary way: to store once more changes nothing.
    """
    pattern = f"/{registry.route_prefix}{PATTERN}"
    path = re.compile(pattern.format(bucket_id=_ID, collection_id=_ID))
    route = registry.getUtility(IRoutesMapper).get_route(ROUTE)
    logins: Logins = registry.unisat_logins

    def tween(request: Any) -> Response:
        # Pyramid's path_info fails where that is no UTF-8, of which Kinto's own ways make a 400.
        found = path.fullmatch(request.environ["PATH_INFO"]) if request.method == "POST" else None
        if found is None or request.query_string:
            return handler(request)
        request.matchdict = {"bucket_id": found[1], "collection_id": found[2]}
        login = logins.find(request)
        response = _store_as(login, request) if login else None
        if response is None:
            return handler(request)
        # For Kinto's metrics and log, which are told of the answer by Pyramid.
        request.matched_route = route
        return response

    return tween


def _store_as(login: Login, request: Any) -> Response | None:
    """Stores it where the database shows that the login is right and may; else None."""
    # Where Kinto's metrics look for the start. NewRequest would tell it, and be heard by what waits
    # for the end of a transaction, of which there is none.
    request._received_at = msec_time()
    try:
        batch = _read(request)
        stored = queries.ingest_as(
            request.registry.storage,
            login.account,
            login.hashed,
            request.matchdict["bucket_id"],
            request.matchdict["collection_id"],
            batch.as_json(),
        )
    except (HTTPException, BodyError, BackendError):
        return None
    if stored is None:
        return None
    login.stands_for(request)
    response: Response = Response(json_body=_answer(stored, batch))
    # What Cornice adds to the answers of views.
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


def _context(request: Any) -> CreateContext | WriteContext:
    """What is deleted comes back only for those who may delete it."""
    return WriteContext(request) if _brings_back(request) else CreateContext(request)


def _brings_back(request: Any) -> bool:
    return bool(request.GET.get("bring_back") == "true")


def ingest(request: Any) -> dict[str, Any]:
    """Stores what is new and says of each other record why it was not stored."""
    try:
        batch = _read(request)
    except BodyError as error:
        raise_invalid(request, location="body", description=str(error))
        raise  # Unreachable: raise_invalid() has no return type.
    stored = _store(request, batch)
    logins: Logins | None = getattr(request.registry, "unisat_logins", None)
    if logins:
        logins.learn(request)
    return _answer(stored, batch)


def _answer(stored: dict[str, Any], batch: Batch) -> dict[str, Any]:
    return {"data": {**stored, "invalid": batch.invalid}}


def _store(request: Any, batch: Batch) -> dict[str, Any]:
    names = request.matchdict
    stored = queries.ingest(
        request.registry.storage,
        names["bucket_id"],
        names["collection_id"],
        batch.as_json(),
        bring_back=_brings_back(request),
    )
    if stored is None:
        not_found(request)
    return stored


def _read(request: Any) -> Batch:
    """The records of a request.

    Raises:
        HTTPException: They are of another type, or too many.
        BodyError: They cannot be read.
    """
    kind = request.content_type
    encoding = request.headers.get("Content-Encoding", "identity").lower()
    if kind not in {"application/json", *NDJSON} or encoding not in {"identity", "gzip"}:
        raise http_error(
            HTTPUnsupportedMediaType(),
            errno=ERRORS.INVALID_PARAMETERS,
            message="The body has to be application/json or application/x-ndjson, plain or gzip.",
        )
    if (request.content_length or 0) > MAX_BYTES:
        _refuse_size(f"The body is larger than {MAX_BYTES} bytes.")
    try:
        body = unzip(request.body, MAX_BYTES) if encoding == "gzip" else request.body
        return read_batch(body, ndjson=kind in NDJSON, max_records=MAX_RECORDS)
    except TooLargeError as error:
        _refuse_size(str(error))


def _refuse_size(message: str) -> NoReturn:
    raise http_error(HTTPRequestEntityTooLarge(), errno=ERRORS.REQUEST_TOO_LARGE, message=message)
