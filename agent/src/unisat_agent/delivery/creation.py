"""Makes a collection that is missing on a sink, with its bucket where that is missing too."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from unisat_agent.delivery.kinto import Answer

READY = frozenset({HTTPStatus.OK, HTTPStatus.CREATED, HTTPStatus.PRECONDITION_FAILED})
"""It is there now: made, or there already."""

Request = Callable[[str, str, object, dict[str, str]], Answer]


def create_collection(request: Request, bucket: str, dev_id: str) -> Answer:
    """Makes the collection; one that is there is left as it is.

    Args:
        request: Sends a request: method, path, body and headers.
        bucket: Where the collection belongs.
        dev_id: Its name.

    Returns:
        The answer; the collection is there where its status is among READY.

    Raises:
        TransportError: The outcome is unknown.
    """

    def put(path: str) -> Answer:
        return request("PUT", path, {"data": {}}, {"If-None-Match": "*"})

    collection = f"/buckets/{bucket}/collections/{dev_id}"
    made = put(collection)
    # 403 is Kinto's answer also where the bucket is missing.
    if made.status == HTTPStatus.FORBIDDEN and put(f"/buckets/{bucket}").status in READY:
        made = put(collection)
    return made
