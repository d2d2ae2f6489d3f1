"""What the server offers, in the answer of ``GET /v1/``."""

from __future__ import annotations

from typing import Any

from kinto.core.storage.exceptions import BackendError
from pyramid.events import NewRequest

from unisat_kinto import queries

NAME = "unisat"
MAX_RECORDS = 1000
MAX_BYTES = 4 * 1024 * 1024


def advertise(config: Any) -> None:
    """Adds the capability; its timeline is read anew each time that somebody asks for it."""
    config.add_api_capability(
        NAME,
        description="Bulk storage, proof of completeness and charts of telemetry.",
        ingest={"max_records": MAX_RECORDS, "max_bytes": MAX_BYTES},
        timeline="",
        account=True,
        latest=True,
        retain=True,
        series=True,
    )
    config.add_subscriber(_refresh_timeline, NewRequest)


def _refresh_timeline(event: Any) -> None:
    """A failover or a restore may happen while this process runs."""
    request = event.request
    if request.path_info.rstrip("/").count("/") > 1:
        return
    try:
        timeline = queries.timeline(request.registry.storage)
    except BackendError:
        return  # The address answers without a database as well.
    request.registry.api_capabilities[NAME]["timeline"] = timeline
