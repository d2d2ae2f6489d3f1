"""How a batch goes out: Kinto's own batch of PUTs, or `records:ingest` where the sink offers it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from unisat_agent.delivery.answers import Verdict, read_batch_answer, read_ingest_answer
from unisat_agent.delivery.kinto import KintoClient
from unisat_agent.delivery.suspects import Batch
from unisat_agent.record import Record

CAPABILITY = "unisat"
# A record is half a kilobyte; packed, a tenth of that, which is worth it from a few records on.
_GZIP_FROM_BYTES = 4096
_GZIP_LEVEL = 5


class Wire(Protocol):
    """One kind of request."""

    @property
    def max_records(self) -> int:
        """How many records a request may hold."""

    def send(self, client: KintoClient, batch: Batch, records: Sequence[Record]) -> Verdict:
        """Sends one batch.

        Raises:
            TransportError: The outcome is unknown.
        """


@dataclass(frozen=True, slots=True)
class StockWire:
    """`POST /batch`, which every Kinto has."""

    max_records: int

    def send(self, client: KintoClient, batch: Batch, records: Sequence[Record]) -> Verdict:
        """Puts each record, overwriting none but those whose time was corrected."""
        collection = f"{client.root}/buckets/{client.settings.bucket}/collections/{batch.dev_id}"
        body = {
            "defaults": {"method": "PUT"},
            "requests": [
                {
                    "path": f"{collection}/records/{record['id']}",
                    "body": {"data": record},
                    # A record that is there is left alone, unless its time was corrected.
                    "headers": {} if waiting.overwrite else {"If-None-Match": "*"},
                }
                for waiting, record in zip(batch.waiting, records, strict=True)
            ],
        }
        answer = client.request("POST", "/batch", body)
        return read_batch_answer(answer, [record["id"] for record in records])


@dataclass(frozen=True, slots=True)
class IngestWire:
    """`POST …/records:ingest` of the plugin: one transaction, and an outcome for each record."""

    max_records: int
    max_bytes: int

    def send(self, client: KintoClient, batch: Batch, records: Sequence[Record]) -> Verdict:
        """Sends as many of the records as fit; the batch is cut to those."""
        lines: list[str] = []
        size = 0
        for record in records:
            line = json.dumps(record, allow_nan=False, separators=(",", ":"))
            size += len(line) + 1
            if lines and size > self.max_bytes:
                break
            lines.append(line)
        del batch.waiting[len(lines) :]
        content = "\n".join(lines).encode()
        headers = {"Content-Type": "application/x-ndjson"}
        if len(content) >= _GZIP_FROM_BYTES:
            content = gzip.compress(content, _GZIP_LEVEL, mtime=0)
            headers["Content-Encoding"] = "gzip"
        path = f"/buckets/{client.settings.bucket}/collections/{batch.dev_id}/records:ingest"
        answer = client.send("POST", path, content, headers)
        return read_ingest_answer(answer, [record["id"] for record in records[: len(lines)]])


def best_wire(root: Mapping[str, Any], batch_max: int) -> Wire:
    """What the sink's root page (`GET /v1/`) offers.

    Args:
        root: The page.
        batch_max: How many requests a stock batch may hold.
    """
    capabilities = root.get("capabilities")
    unisat = capabilities.get(CAPABILITY) if isinstance(capabilities, dict) else None
    limits = unisat.get("ingest") if isinstance(unisat, dict) else None
    if isinstance(limits, dict):
        records, size = limits.get("max_records"), limits.get("max_bytes")
        if isinstance(records, int) and isinstance(size, int) and records > 0 and size > 0:
            return IngestWire(records, size)
    return StockWire(batch_max)


def timeline_of(root: Mapping[str, Any]) -> str:
    """The id of the sink's database, made anew when it may have lost something; "" for none."""
    capabilities = root.get("capabilities")
    unisat = capabilities.get(CAPABILITY) if isinstance(capabilities, dict) else None
    timeline = unisat.get("timeline") if isinstance(unisat, dict) else None
    return timeline if isinstance(timeline, str) else ""
