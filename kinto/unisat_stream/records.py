"""What the stream asks PostgreSQL: which records are new, and up to where nothing can appear late.

Kinto gives a record its `last_modified` when it is written, and readers see it when its
transaction commits, so a younger one may become visible first. `settled` says up to which
`last_modified` that can't happen any more.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import asyncpg

# A batch of records:ingest numbers its records backwards from now, a millisecond each.
BATCH_SPAN_MS = 1000
PAGE = 1000

# A writer has a transaction id, or is in the statement that will get it one. A backup that only
# reads has neither for long, and must not hold the stream back for hours.
_SETTLED = f"""
SELECT (extract(epoch FROM least(clock_timestamp(), min(
           CASE WHEN backend_xid IS NOT NULL THEN xact_start ELSE query_start END))) * 1000)::bigint
       - {BATCH_SPAN_MS}
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
  AND (backend_xid IS NOT NULL
       OR (state = 'active' AND query_start > clock_timestamp() - interval '1 minute'))
"""
_COLUMNS = "parent_id, id, as_epoch(last_modified) AS modified, deleted, data::text AS data"
_SINCE = f"""
SELECT {_COLUMNS} FROM objects
WHERE resource_name = 'record' AND as_epoch(last_modified) > $1
ORDER BY as_epoch(last_modified)
"""
# The range stands there twice: few collections are read by their own index, and many by the one
# that Kinto keeps on as_epoch(last_modified).
_BETWEEN = f"""
SELECT {_COLUMNS} FROM objects
WHERE resource_name = 'record' AND parent_id = ANY($1::text[])
  AND last_modified > from_epoch($2) AND last_modified <= from_epoch($3)
  AND as_epoch(last_modified) > $2 AND as_epoch(last_modified) <= $3
  AND (as_epoch(last_modified), parent_id) > ($4, $5)
ORDER BY as_epoch(last_modified), parent_id LIMIT {PAGE}
"""

Key = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class Change:
    """A record that was made, changed or deleted; `modified` is milliseconds, unique in its list.

    `text` is the JSON of the record as Kinto gives it, or of its tombstone.
    """

    parent: str
    record_id: str
    modified: int
    deleted: bool
    text: str

    @property
    def key(self) -> Key:
        """What tells it from every other change."""
        return self.parent, self.record_id, self.modified

    def event(self, mark: int) -> bytes:
        """The server-sent event; its id is where a reader who has it goes on from."""
        name = "deleted" if self.deleted else "record"
        # JSON from PostgreSQL holds no line end: it escapes those inside strings.
        return (f"id: {min(self.modified, mark)}\nevent: {name}\ndata: {self.text}\n\n").encode()


def parent_of(bucket: str, collection: str) -> str:
    """Where Kinto keeps the records of a collection."""
    return f"/buckets/{bucket}/collections/{collection}"


def bucket_of(parent: str) -> str:
    """The bucket of a collection's records."""
    return parent.split("/", 3)[2]


async def settled(connection: asyncpg.Connection) -> int:
    """Up to which `last_modified`, in milliseconds, no record can become visible any more."""
    return int(await connection.fetchval(_SETTLED))


async def since(connection: asyncpg.Connection, mark: int) -> list[Change]:
    """All changes after `mark`, of every collection, oldest first."""
    return [_change(row) for row in await connection.fetch(_SINCE, mark)]


async def between(
    connection: asyncpg.Connection,
    parents: Collection[str],
    after: int,
    until: int,
    last: Change | None,
) -> list[Change]:
    """The next page of the changes of some collections in a range, oldest first.

    Args:
        connection: To Kinto's database.
        parents: The collections, by `parent_of`.
        after: Milliseconds, exclusive.
        until: Milliseconds, inclusive.
        last: The last change of the page before.
    """
    position = (last.modified, last.parent) if last else (after, "")
    rows = await connection.fetch(_BETWEEN, list(parents), after, until, *position)
    return [_change(row) for row in rows]


def _change(row: Any) -> Change:
    identity = f'"id": {json.dumps(row["id"])}, "last_modified": {row["modified"]}'
    if row["deleted"]:
        collection = json.dumps(row["parent_id"].rpartition("/")[2])
        text = f'{{{identity}, "deleted": true, "collection": {collection}}}'
    else:
        rest = row["data"].strip()[1:-1]
        text = f"{{{identity}{', ' if rest else ''}{rest}}}"
    return Change(row["parent_id"], row["id"], row["modified"], row["deleted"], text)
