"""The plugin's SQL functions as Python functions, in the request's transaction or their own."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg2
from kinto.core.storage.exceptions import BackendError
from kinto.core.utils import sqlalchemy as sa

from unisat_kinto.spans import Span

logger = logging.getLogger(__name__)


def _scalar(storage: Any, statement: str, **values: Any) -> Any:
    # Never read-only for Kinto, so that pyramid_tm ends the transaction with a COMMIT.
    with storage.client.connect() as session:
        return session.execute(sa.text(statement), values).scalar()


def timeline(storage: Any) -> str:
    """Which life of the database this is: 12 hexadecimal digits."""
    return str(_scalar(storage, "SELECT unisat_timeline()"))


def ingest(
    storage: Any, bucket: str, collection: str, batch: str, *, bring_back: bool
) -> dict[str, Any] | None:
    """Stores a JSON array of records; None where there is no such collection."""
    found: dict[str, Any] | None = _scalar(
        storage,
        "SELECT unisat_ingest(:bucket, :collection, CAST(:batch AS JSONB), :bring_back)",
        bucket=bucket,
        collection=collection,
        batch=batch,
        bring_back=bring_back,
    )
    return found


def ingest_as(
    storage: Any, account: str, hashed: str, bucket: str, collection: str, batch: str
) -> dict[str, Any] | None:
    """Stores a JSON array of records for an account whose password has that hash.

    None where the database does not show that it has, and that it may: ask Kinto. It is committed
    when this returns: one exchange with PostgreSQL, where a transaction of the request takes three.
    Without SQLAlchemy but for its pool: that took a third of a request's time, and one more
    exchange to leave autocommit.

    Raises:
        BackendError: The database is away, or refused it; it may be stored all the same.
    """
    values = (account, hashed, bucket, collection, batch)
    try:
        with (
            closing(storage.engine.raw_connection()) as pooled,
            _autocommit(pooled),
            pooled.cursor() as cursor,
        ):
            cursor.execute("SELECT unisat_ingest_as(%s, %s, %s, %s, %s)", values)
            found: dict[str, Any] | None = cursor.fetchone()[0]
    except (sa.exc.SQLAlchemyError, psycopg2.Error) as error:
        logger.error(error, exc_info=True)
        raise BackendError(original=error) from error
    return found


@contextmanager
def _autocommit(pooled: Any) -> Iterator[None]:
    """Each statement is a transaction; a connection that is lost does not go back to its pool."""
    connection = pooled.driver_connection
    connection.autocommit = True
    try:
        yield
    finally:
        if connection.closed:
            pooled.invalidate()
        else:
            connection.autocommit = False


def newest(storage: Any, collection: str) -> int:
    """The last_modified of a collection's newest record, in milliseconds; 0 without any."""
    return int(_scalar(storage, "SELECT unisat_newest(:parent)", parent=collection))


def newest_timestamp(storage: Any, collection: str) -> int | None:
    """The device time of a collection's newest record, in seconds UTC."""
    found: int | None = _scalar(
        storage,
        """SELECT unisat_integer(data->'timestamp') FROM objects
            WHERE parent_id = :parent AND resource_name = 'record' AND NOT deleted
              AND data->'timestamp' <= '9007199254740991'
            ORDER BY data->'timestamp' DESC LIMIT 1""",
        parent=collection,
    )
    return found


def retain_from(storage: Any, bucket: str, collection: str) -> int:
    """The floor of retention in seconds UTC; 0 where there is none."""
    statement = "SELECT unisat_retain_from(:bucket, :collection)"
    return int(_scalar(storage, statement, bucket=bucket, collection=collection))


def retain(
    storage: Any, bucket: str, collection: str, before: int, *, most_hours: int
) -> dict[str, Any] | None:
    """Lets go what is older; None where there is no such collection."""
    found: dict[str, Any] | None = _scalar(
        storage,
        "SELECT unisat_retain(:bucket, :collection, :before, :most)",
        bucket=bucket,
        collection=collection,
        before=before,
        most=most_hours,
    )
    return found


def roll_up(storage: Any, collection: str, start: int, end: int, budget_s: float) -> None:
    """Rolls up what is due in a range, newest first, for about that long."""
    _scalar(
        storage,
        "SELECT unisat_roll_up(:parent, :start, :end, 100000, make_interval(secs => :budget))",
        parent=collection,
        start=start,
        end=end,
        budget=budget_s,
    )


def stale_hours(storage: Any, collection: str, start: int, end: int) -> int:
    """How many hours of a range are not rolled up."""
    statement = (
        "SELECT COUNT(*) FROM unisat_stale_hours"
        " WHERE parent_id = :parent AND hour >= :start AND hour < :end"
    )
    return int(_scalar(storage, statement, parent=collection, start=start, end=end))


def series(
    storage: Any,
    collection: str,
    fields: list[str],
    span: Span,
    *,
    floor: int,
    most_raw_hours: int,
) -> list[tuple[int, str, int, float, float, float]]:
    """Bucket, field ('' counts the records), count, minimum, maximum and sum."""
    statement = (
        "SELECT * FROM unisat_series"
        "(:parent, CAST(:fields AS TEXT[]), :start, :end, :step, :floor, :most)"
    )
    values = {
        "parent": collection,
        "fields": fields,
        "start": span.start,
        "end": span.end,
        "step": span.step,
        "floor": floor,
        "most": most_raw_hours,
    }
    with storage.client.connect() as session:
        return [tuple(row) for row in session.execute(sa.text(statement), values)]


def epochs(storage: Any, collection: str) -> list[dict[str, Any]]:
    """What each epoch of a collection holds."""
    statement = """
        SELECT epoch, records, first_seq, last_seq, last_seq - first_seq + 1 - records AS missing
          FROM unisat_epochs WHERE parent_id = :parent ORDER BY epoch
    """
    with storage.client.connect() as session:
        found = session.execute(sa.text(statement), {"parent": collection})
        return [dict(row) for row in found.mappings()]


def gaps(
    storage: Any, collection: str, epoch: str, start: int, end: int, *, most_records: int
) -> dict[str, Any]:
    """Which numbers of an epoch are missing in a range."""
    found: dict[str, Any] = _scalar(
        storage,
        "SELECT unisat_gaps(:parent, :epoch, :start, :end, :most)",
        parent=collection,
        epoch=epoch,
        start=start,
        end=end,
        most=most_records,
    )
    return found


def latest(
    storage: Any, bucket: str, only: list[str] | None, after: str, most: int
) -> list[tuple[str, int, int, str | None]]:
    """Id, number of records, last_modified and the newest record as JSON, of each collection."""
    statement = "SELECT * FROM unisat_latest(:bucket, CAST(:only AS TEXT[]), :after, :most)"
    values = {"bucket": bucket, "only": only, "after": after, "most": most}
    with storage.client.connect() as session:
        return [tuple(row) for row in session.execute(sa.text(statement), values)]
