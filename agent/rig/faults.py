"""What is done to a station, in the tests once or a few times and in the soak for hours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rig.servers import Postgres
from rig.wait import wait_until


@contextmanager
def second_writer(
    postgres: Postgres, database: str, collection: str, at_ms: int
) -> Iterator[Callable[[], None]]:
    """Another writer, in the middle of storing a record in the same collection.

    Kinto gives a record the millisecond after the newest that it can see. This one is stored under
    `at_ms` and is not visible yet, so whoever reaches that number waits for it, and gets a 409 once
    this writer has committed.

    Args:
        postgres: The cluster.
        database: The Kinto's database.
        collection: The collection's URI, as "/buckets/b/collections/c".
        at_ms: The number that it takes.

    Yields:
        A function that waits until somebody waits for this writer, then commits.
    """
    with postgres.connection(database) as connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO objects (id, parent_id, resource_name, last_modified, data, deleted) "
            "VALUES ('second-writer', %s, 'record', from_epoch(%s), '{}', false)",
            (collection, at_ms),
        )

        def commit() -> None:
            wait_until(lambda: _blocked(postgres, database), 30, "a writer to be blocked")
            connection.commit()

        yield commit


def _blocked(postgres: Postgres, database: str) -> bool:
    with postgres.connection("postgres") as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = %s",
            (database,),
        )
        ((count,),) = cursor.fetchall()
        return bool(count)
