"""What the archive asks of Kinto's database, and how records leave it.

It is asked directly, not by HTTP: between the look whether all is archived and the deletion nobody
may write, so both are in one transaction, under the lock that every writer of the collection takes.
The deletion itself is `unisat_retain`, which `POST …/retain` calls as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2
from psycopg2.extensions import ISOLATION_LEVEL_REPEATABLE_READ
from psycopg2.extensions import connection as Connection  # noqa: N812 - a class

from unisat_archive.tables import Kinds, Record, kind_of

# Of a server-side cursor: what is in memory at a time.
PAGE = 2000
# An hour that has to be rolled up first takes some 20 ms, and the collection's writers wait.
MOST_HOURS = 24

# As `unisat_retain` has it: what it would delete, and nothing else.
_IN_RANGE = """
  FROM objects o
 WHERE o.parent_id = %(parent)s AND o.resource_name = 'record' AND NOT o.deleted
   AND o.data->'timestamp' >= to_jsonb(%(first)s::BIGINT)
   AND o.data->'timestamp' < to_jsonb(%(end)s::BIGINT)
   AND o.data->>'clock' IS DISTINCT FROM 'unsynced'
"""
_KINDS = f"""
SELECT key, array_agg(DISTINCT CASE
           WHEN jsonb_typeof(value) <> 'number' THEN jsonb_typeof(value)
           WHEN value::TEXT ~ '^-?[0-9]{{1,18}}$' THEN 'integer' ELSE 'double' END)
  FROM (SELECT data {_IN_RANGE}) o, jsonb_each(o.data) GROUP BY key
"""  # noqa: S608 - parameters are passed, not written into it
_RECORDS = f"SELECT o.id, as_epoch(o.last_modified), o.data {_IN_RANGE}" + (
    " ORDER BY o.data->'timestamp', o.id"
)
_OLDEST = f"SELECT o.data->'timestamp' {_IN_RANGE} ORDER BY o.data->'timestamp' LIMIT 1"
_ACCOUNT = f"SELECT COUNT(*), MAX(as_epoch(o.last_modified)) {_IN_RANGE}"

# How many records, and the newest `last_modified`. The server numbers every change of a collection
# higher than all before, so where both are equal the records are the same.
Seen = tuple[int, int | None]


class ChangedError(Exception):
    """Records came, or went, after the month was read."""


class Database:
    """Kinto's database on the hub.

    Args:
        url: `postgresql://…`, also with a driver's name as SQLAlchemy writes it.
        bucket: Whose collections are archived.
    """

    def __init__(self, url: str, bucket: str) -> None:
        scheme, _, rest = url.partition("://")
        self.bucket = bucket
        self._connection: Connection = psycopg2.connect(f"{scheme.partition('+')[0]}://{rest}")

    def close(self) -> None:
        """Ends the connection."""
        self._connection.close()

    def _parent(self, device: str) -> str:
        return f"/buckets/{self.bucket}/collections/{device}"

    def devices(self) -> list[str]:
        """All collections, by name."""
        with self._connection, self._connection.cursor() as cursor:
            cursor.execute(
                "SELECT id FROM objects WHERE parent_id = %s AND resource_name = 'collection'"
                " AND NOT deleted ORDER BY id",
                (f"/buckets/{self.bucket}",),
            )
            return [name for (name,) in cursor]

    def oldest(self, device: str, first: int, end: int) -> float | None:
        """The lowest `timestamp` in a range (seconds UTC, without the end), or None."""
        values = {"parent": self._parent(device), "first": first, "end": end}
        with self._connection, self._connection.cursor() as cursor:
            cursor.execute(_OLDEST, values)
            found = cursor.fetchone()
            return None if found is None else found[0]

    def floor(self, device: str) -> int:
        """Below which records have been let go before, in seconds UTC; 0 where none have."""
        with self._connection, self._connection.cursor() as cursor:
            cursor.execute("SELECT unisat_retain_from(%s, %s)", (self.bucket, device))
            (found,) = cursor.fetchone() or (0,)
            return int(found)

    @contextmanager
    def reading(
        self, device: str, first: int, end: int
    ) -> Iterator[tuple[Kinds, Iterator[Record]]]:
        """The columns and the records of a range as it is at one moment, in a table's order."""
        values = {"parent": self._parent(device), "first": first, "end": end}
        self._connection.set_session(isolation_level=ISOLATION_LEVEL_REPEATABLE_READ, readonly=True)
        try:
            with self._connection, self._connection.cursor() as cursor:
                cursor.execute(_KINDS, values)
                kinds = {name: kind_of(types) for name, types in cursor}
                with self._connection.cursor("records") as rows:
                    rows.itersize = PAGE
                    rows.execute(_RECORDS, values)
                    yield (
                        kinds | {"id": "string", "last_modified": "integer"},
                        (
                            data | {"id": record_id, "last_modified": modified}
                            for record_id, modified, data in rows
                        ),
                    )
        finally:
            self._connection.set_session(isolation_level="DEFAULT", readonly=False)

    def let_go(self, device: str, before: int, archived: Seen) -> int:
        """Deletes what is older than `before`, if that is exactly what was archived.

        Returns:
            How many records were deleted.

        Raises:
            ChangedError: It is not; nothing was deleted.
        """
        values = {"parent": self._parent(device), "first": 0, "end": before}
        with self._connection, self._connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended(%(parent)s, 0))", values)
            cursor.execute(_ACCOUNT, values)
            account = cursor.fetchone()
            # Whatever is below the floor goes as well.
            cursor.execute("SELECT unisat_retain_from(%s, %s)", (self.bucket, device))
            if account != archived or (cursor.fetchone() or (0,))[0] > before:
                raise ChangedError
            deleted, complete = 0, False
            while not complete:
                cursor.execute(
                    "SELECT unisat_retain(%s, %s, %s, %s)",
                    (self.bucket, device, before, MOST_HOURS),
                )
                (answer,) = cursor.fetchone() or (None,)
                if answer is None:
                    raise ChangedError
                deleted, complete = deleted + answer["deleted"], answer["complete"]
            return deleted
