"""``POST /buckets/{b}/collections/{c}/records:ingest``: a batch of records in one transaction."""

from __future__ import annotations

from typing import Any, NoReturn

from kinto.core.authorization import DYNAMIC
from kinto.core.errors import ERRORS, http_error, raise_invalid
from pyramid.httpexceptions import (
    HTTPException,
    HTTPForbidden,
    HTTPRequestEntityTooLarge,
    HTTPUnsupportedMediaType,
)
from pyramid.security import NO_PERMISSION_REQUIRED

from unisat_kinto import queries
from unisat_kinto.capability import MAX_BYTES, MAX_RECORDS
from unisat_kinto.context import CreateContext, WriteContext
from unisat_kinto.logins import Login, Logins
from unisat_kinto.utils import Batch, BodyError, TooLargeError, read_batch, unzip
from unisat_kinto.views.common import not_found

PATTERN = "/buckets/{bucket_id}/collections/{collection_id}/records:ingest"
NDJSON = ("application/x-ndjson", "application/ndjson")


def includeme(config: Any) -> None:
    """Adds the endpoint: a plain route, which costs less of a processor than a Cornice service."""
    config.add_route("unisat-ingest", PATTERN, factory=_context, request_method="POST")
    # The view asks for the permission itself, where the login does not show it.
    config.add_view(
        ingest, route_name="unisat-ingest", permission=NO_PERMISSION_REQUIRED, renderer="json"
    )


def _context(request: Any) -> CreateContext | WriteContext:
    """What is deleted comes back only for those who may delete it."""
    return WriteContext(request) if _brings_back(request) else CreateContext(request)


def _brings_back(request: Any) -> bool:
    return bool(request.GET.get("bring_back") == "true")


def ingest(request: Any) -> dict[str, Any]:
    """Stores what is new and says of each other record why it was not stored."""
    logins: Logins | None = getattr(request.registry, "unisat_logins", None)
    login = logins.find(request) if logins and not _brings_back(request) else None
    if login is None:
        _require_permission(request)
    try:
        batch = _read(request)
    except HTTPException:
        if login:
            # Nobody learns what is wrong with a body who may not send one.
            _require_permission(request)
        raise
    stored = _store_as(login, request, batch) if login else None
    if stored is None:
        if login:
            _require_permission(request)
        stored = _store(request, batch)
        if logins:
            logins.learn(request)
    return {"data": {**stored, "invalid": batch.invalid}}


def _require_permission(request: Any) -> None:
    """Asks Kinto's policy, as Pyramid does for a view with a permission."""
    allowed = request.has_permission(DYNAMIC, request.context)
    if not allowed:
        raise HTTPForbidden(result=allowed)


def _store_as(login: Login, request: Any, batch: Batch) -> dict[str, Any] | None:
    """Stores it where the database shows that the login is right and may; else None."""
    names = request.matchdict
    stored = queries.ingest_as(
        request.registry.storage,
        login.account,
        login.hashed,
        names["bucket_id"],
        names["collection_id"],
        batch.as_json(),
    )
    if stored is not None:
        login.stands_for(request)
    return stored


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
    except BodyError as error:
        raise_invalid(request, location="body", description=str(error))
        raise  # Unreachable: raise_invalid() has no return type.


def _refuse_size(message: str) -> NoReturn:
    raise http_error(HTTPRequestEntityTooLarge(), errno=ERRORS.REQUEST_TOO_LARGE, message=message)
