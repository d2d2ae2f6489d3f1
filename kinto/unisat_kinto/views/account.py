"""``GET /buckets/{b}/collections/{c}/account``: the proof that nothing is missing."""

from __future__ import annotations

from typing import Any

from kinto.core import Service
from kinto.core.authorization import DYNAMIC

from unisat_kinto import queries
from unisat_kinto.context import ReadContext
from unisat_kinto.views.common import collection_path, integer, invalid, not_found, tag

MAX_RECORDS = 20_000

account = Service(
    name="unisat-account",
    path="/buckets/{bucket_id}/collections/{collection_id}/account",
    factory=ReadContext,
)


def get_account(request: Any) -> dict[str, Any]:
    """Of each epoch first and last number, records, how many are missing; of one, which."""
    storage, names, path = request.registry.storage, request.matchdict, collection_path(request)
    version = queries.newest(storage, path)
    if not version:
        not_found(request)
    tag(request, version)
    found = queries.epochs(storage, path)
    wanted = request.GET.get("epoch")
    if wanted is None:
        return {
            "data": {
                "records": sum(row["records"] for row in found),
                "retain_from": queries.retain_from(
                    storage, names["bucket_id"], names["collection_id"]
                ),
                "epochs": found,
            }
        }
    epoch = next((row for row in found if row["epoch"] == wanted), None)
    if epoch is None or epoch["first_seq"] is None:
        invalid(request, "epoch", "The collection has no numbered records of that epoch.")
    start = integer(request, "from", epoch["first_seq"])
    end = integer(request, "to", epoch["last_seq"])
    if start > end:
        invalid(request, "from", "It has to be at most `to`.")
    return {"data": queries.gaps(storage, path, wanted, start, end, most_records=MAX_RECORDS)}


account.add_view("GET", get_account, permission=DYNAMIC)
