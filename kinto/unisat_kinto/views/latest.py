"""``GET /buckets/{b}/latest``: all stations at one look."""

from __future__ import annotations

import hashlib
import json
from typing import Any
from urllib.parse import urlencode

from kinto.core import Service
from kinto.core.authorization import DYNAMIC
from pyramid.response import Response

from unisat_kinto import queries
from unisat_kinto.context import BucketReadContext
from unisat_kinto.views.common import integer, tag

MAX_COLLECTIONS = 10_000

latest = Service(
    name="unisat-latest", path="/buckets/{bucket_id}/latest", factory=BucketReadContext
)


def get_latest(request: Any) -> Response:
    """The newest record by device time, and the count, of each collection that one may read."""
    most = integer(request, "limit", MAX_COLLECTIONS, 1, MAX_COLLECTIONS)
    after = request.GET.get("after", "")
    rows = queries.latest(
        request.registry.storage,
        request.matchdict["bucket_id"],
        request.context.shared_ids,
        after,
        most + 1,
    )
    page = rows[:most]
    digest = hashlib.sha256()
    for name, count, modified, _ in page:
        digest.update(f"{name} {count} {modified}\n".encode())
    tag(request, digest.hexdigest()[:32])
    headers = request.response.headers
    if len(rows) > most:
        query = urlencode({"limit": most, "after": page[-1][0]})
        headers["Next-Page"] = f"{request.path_url}?{query}"
    # The records are JSON already: PostgreSQL made it.
    items = [
        f'{{"id":{json.dumps(name)},"records":{count},"last_modified":{modified},'
        f'"newest":{newest or "null"}}}'
        for name, count, modified, newest in page
    ]
    request.response.content_type = "application/json"
    request.response.text = f'{{"data":[{",".join(items)}]}}'
    return request.response


latest.add_view("GET", get_latest, permission=DYNAMIC)
