"""What the reading endpoints have in common."""

from __future__ import annotations

import re
from typing import Any, NoReturn

from kinto.core.errors import ERRORS, http_error, raise_invalid
from pyramid.httpexceptions import HTTPNotFound, HTTPNotModified

from unisat_kinto.utils import MAX_INTEGER


def collection_path(request: Any) -> str:
    """The collection's path, which is its records' parent in the storage."""
    names = request.matchdict
    return f"/buckets/{names['bucket_id']}/collections/{names['collection_id']}"


def not_found(request: Any, kind: str = "collection") -> NoReturn:
    """Kinto's 404 for an object that is missing."""
    raise http_error(
        HTTPNotFound(),
        errno=ERRORS.MISSING_RESOURCE,
        details={"id": request.matchdict[f"{kind}_id"], "resource_name": kind},
    )


def invalid(request: Any, name: str, reason: str, location: str = "querystring") -> NoReturn:
    """Kinto's 400 for a parameter."""
    raise_invalid(request, location=location, name=name, description=reason)
    raise AssertionError  # raise_invalid() always raises.


def integer(request: Any, name: str, default: int, low: int = 0, high: int = MAX_INTEGER) -> int:
    """An integer of the query string."""
    text = request.GET.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,16}", text) or not low <= int(text) <= high:
        invalid(request, name, f"It has to be an integer from {low} to {high}.")
    return int(text)


def tag(request: Any, value: str | int) -> None:
    """Sets the ETag.

    Raises:
        HTTPNotModified: The client has this version already.
    """
    etag = f'"{value}"'
    known = request.headers.get("If-None-Match", "")
    headers = {"ETag": etag, "Cache-Control": "no-cache"}
    if etag in [word.strip().removeprefix("W/") for word in known.split(",")]:
        raise HTTPNotModified(headers=headers)
    request.response.headers.update(headers)
