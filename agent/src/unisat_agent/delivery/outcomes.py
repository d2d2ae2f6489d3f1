"""What becomes of rows after an answer: acknowledged, compared, dead, or left in the spool."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from unisat_agent.config.model import SinkSettings
from unisat_agent.delivery.answers import Fate, Verdict, words_of
from unisat_agent.delivery.kinto import Answer, TransportError
from unisat_agent.delivery.suspects import Batch
from unisat_agent.record import Record, Row, same_package, same_time
from unisat_agent.spool.queue import Spool, Waiting

REFUSED = "refused"
CONFLICT = "conflict"
SERVER_ERROR = "server_error"
"""A 5xx for this record alone: it goes back by itself, since the server may be cured meanwhile."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Outcome:
    """What the answer to one batch left: rows that are acknowledged, and why others are not."""

    acked: list[Row] = field(default_factory=list)
    refused: list[tuple[Waiting, str]] = field(default_factory=list)
    left: dict[Fate, Any] = field(default_factory=dict)
    """Of the rows that stay in the spool and are taken again: the first answer of each kind."""


class Outcomes:
    """Writes down in the spool what one sink's answers mean.

    Args:
        spool: Where the rows are.
        settings: The sink.
        request: Asks it, by method and path, for what exists there already.
    """

    def __init__(
        self, spool: Spool, settings: SinkSettings, request: Callable[[str, str], Answer]
    ) -> None:
        self._spool = spool
        self._request = request
        self._sink = settings.name
        self._bucket = settings.bucket

    def settle(self, batch: Batch, records: Sequence[Record], verdict: Verdict) -> Outcome:
        """Acknowledges what the sink has, by the fate of each record.

        Raises:
            SpoolError: Nothing was acknowledged.
        """
        outcome = Outcome()
        for waiting, record, fate, body in zip(
            batch.waiting, records, verdict.fates, verdict.bodies, strict=True
        ):
            match fate:
                case Fate.TAKEN | Fate.DELETED:
                    outcome.acked.append(waiting.row)
                case Fate.REFUSED:
                    outcome.refused.append((waiting, words_of(body)))
                case Fate.EXISTS:
                    if not self._compare(batch.dev_id, waiting, record, body, outcome):
                        outcome.left.setdefault(Fate.LATER, body)
                case _:
                    outcome.left.setdefault(fate, body)
        if outcome.acked:
            self._spool.settle(self._sink, outcome.acked)
        return outcome

    def bury(self, row: Row, reason: str, detail: str) -> None:
        """Makes a row a dead letter: kept, listed and never sent again by itself."""
        self._spool.bury(self._sink, row, reason, detail)
        log = _log.error if reason == CONFLICT else _log.warning
        log(
            "%s: record %s of %s was refused (%s): it is kept as a dead letter "
            "(unisat-agent dead list)",
            self._sink,
            row.record_id,
            row.dev_id,
            detail,
        )

    def _compare(
        self, dev_id: str, waiting: Waiting, record: Record, body: Any, outcome: Outcome
    ) -> bool:
        """The record is there already. Returns False where it could not be compared."""
        existing = self._existing(dev_id, record, body)
        if existing is None:
            return False
        if not same_package(record, existing):
            self.bury(waiting.row, CONFLICT, f"record {record['id']} exists with other content")
        elif (
            same_time(record, existing)
            or record["clock"] != "corrected"
            or existing.get("clock") != "unsynced"
        ):
            # Only a time that was never right is overwritten, and by a corrected one alone.
            outcome.acked.append(waiting.row)
        elif waiting.overwrite:
            return False
        else:
            self._spool.mark_stale(self._sink, waiting.row)
        return True

    def _existing(self, dev_id: str, record: Record, body: Any) -> Record | None:
        details = body.get("details") if isinstance(body, dict) else None
        existing = details.get("existing") if isinstance(details, dict) else None
        if isinstance(existing, dict) and "devID" in existing:
            return existing
        path = f"/buckets/{self._bucket}/collections/{dev_id}/records/{record['id']}"
        try:
            answer = self._request("GET", path)
        except TransportError:
            return None
        existing = answer.body.get("data") if isinstance(answer.body, dict) else None
        found = isinstance(existing, dict) and existing.get("id") == record["id"]
        return existing if found else None
