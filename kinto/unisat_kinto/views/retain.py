"""``POST /buckets/{b}/collections/{c}/retain``: lets old records go."""

from __future__ import annotations

import time
from typing import Any

from kinto.core import Service
from kinto.core.authorization import DYNAMIC

from unisat_kinto import queries
from unisat_kinto.context import WriteContext
from unisat_kinto.views.common import invalid, not_found

# An hour takes some 20 ms: a request, a few seconds.
MAX_HOURS = 200

retain = Service(
    name="unisat-retain",
    path="/buckets/{bucket_id}/collections/{collection_id}/retain",
    factory=WriteContext,
)


def post_retain(request: Any) -> dict[str, Any]:
    """Deletes records older than a mark without tombstones, and raises the floor to it."""
    try:
        before = request.json["before"]
    except (ValueError, KeyError, TypeError):
        invalid(request, "before", "The body has to be {'before': seconds UTC}.", "body")
    if not isinstance(before, int) or isinstance(before, bool) or not 0 < before <= time.time():
        invalid(request, "before", "It has to be seconds UTC, not in the future.", "body")
    names = request.matchdict
    found = queries.retain(
        request.registry.storage,
        names["bucket_id"],
        names["collection_id"],
        before,
        most_hours=MAX_HOURS,
    )
    if found is None:
        not_found(request)
    return {"data": found}


retain.add_view("POST", post_retain, permission=DYNAMIC)
