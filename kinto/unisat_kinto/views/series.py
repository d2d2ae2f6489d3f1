"""``GET /buckets/{b}/collections/{c}/series``: what a chart shows."""

from __future__ import annotations

import re
from typing import Any

from kinto.core import Service
from kinto.core.authorization import DYNAMIC

from unisat_kinto import queries, spans
from unisat_kinto.context import ReadContext
from unisat_kinto.views.common import collection_path, integer, invalid, tag

DEFAULT_FIELDS = "temperature,humidity,pressure,pm25,pm10"
MAX_FIELDS = 20
MAX_POINTS = 2000
# How long a request may roll up what is due, and how many hours it then reads from the records.
ROLL_UP_S = 1.0
MAX_RAW_HOURS = 48

series = Service(
    name="unisat-series",
    path="/buckets/{bucket_id}/collections/{collection_id}/series",
    factory=ReadContext,
)


def get_series(request: Any) -> dict[str, Any]:
    """Count, minimum, mean and maximum of each field in each bucket of a range."""
    storage, names, path = request.registry.storage, request.matchdict, collection_path(request)
    fields = _fields(request)
    points = integer(request, "points", 300, 1, MAX_POINTS)
    end = integer(request, "to", -1)
    if end < 0:
        newest = queries.newest_timestamp(storage, path)
        end = 0 if newest is None else newest + 1
    start = integer(request, "from", max(0, end - spans.DAY_S))
    if start > end or (start == end and end > 0):
        invalid(request, "from", "It has to be less than `to`.")
    span = spans.span(start, end, points)
    version = queries.newest(storage, path)
    floor = queries.retain_from(storage, names["bucket_id"], names["collection_id"])
    due = (max(span.start - 3599, floor), span.end)
    pending = 0
    if span.step >= 60:
        queries.roll_up(storage, path, *due, budget_s=ROLL_UP_S)
        pending = max(0, queries.stale_hours(storage, path, *due) - MAX_RAW_HOURS)
    if not pending:
        tag(request, version)
    rows = queries.series(storage, path, fields, span, floor=floor, most_raw_hours=MAX_RAW_HOURS)
    head = {"from": span.start, "to": span.end, "step": span.step, "pending_hours": pending}
    return {"data": head | spans.columns(rows, fields)}


def _fields(request: Any) -> list[str]:
    fields = list(dict.fromkeys(request.GET.get("fields", DEFAULT_FIELDS).split(",")))
    if len(fields) > MAX_FIELDS or not all(
        re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,63}", name) for name in fields
    ):
        invalid(request, "fields", f"It has to be 1 to {MAX_FIELDS} names with commas between.")
    return fields


series.add_view("GET", get_series, permission=DYNAMIC)
