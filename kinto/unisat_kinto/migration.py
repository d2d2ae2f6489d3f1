"""The plugin's part of the database, brought up by ``kinto migrate``."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from kinto.core.storage.postgresql.migrator import PostgreSQLPluginMigration
from psycopg2.errors import ProgramLimitExceeded

logger = logging.getLogger(__name__)

SQL = Path(__file__).parent / "sql"
# Two Kintos that start on one database migrate one after the other.
LOCK = 0x756E69736174


# Kinto's own `_sort=-timestamp` uses the first, its filters by seq the second.
INDEXES = {
    "unisat_records_time": "parent_id, (data->'timestamp') DESC, last_modified DESC",
    "unisat_records_seq": "parent_id, (data->'seq')",
}


class UnisatMigration(PostgreSQLPluginMigration):
    """Installs the SQL files in the order of their names.

    Each of them may be run again, so an update only has to raise `schema_version`, and what an
    interrupted migration left is completed by the next one.
    """

    name = "unisat"
    # Kinto counts from 1, which means that nothing is installed.
    schema_version = 8

    def migrate_schema(self, start_version: int, dry_run: bool) -> None:  # noqa: ARG002 - Kinto's
        """Runs the files and notes the version."""
        if dry_run:
            return
        engine = self.client.session_factory().get_bind()
        self.client.session_factory.remove()
        # Each statement commits by itself: an index that is made CONCURRENTLY asks for that.
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            cursor = connection.connection.cursor()
            # Asked for again and again: CREATE INDEX CONCURRENTLY waits for all statements that
            # are older, also for one that waits for a lock.
            while not self._ask(cursor, "SELECT pg_try_advisory_lock(%s)", LOCK):
                time.sleep(1)
            try:
                self._install(cursor)
            finally:
                cursor.execute("SELECT pg_advisory_unlock(%s)", (LOCK,))

    @staticmethod
    def _ask(cursor: Any, statement: str, value: Any) -> Any:
        cursor.execute(statement, (value,))
        found = cursor.fetchone()
        return found and found[0]

    def _install(self, cursor: Any) -> None:
        key, version = f"{self.name}_schema_version", str(self.schema_version)
        if self._ask(cursor, "SELECT MAX(value) FROM metadata WHERE name = %s", key) == version:
            return
        for name, columns in INDEXES.items():
            self._make_index(cursor, name, columns)
        # Several statements in one call are one transaction.
        for file in sorted(SQL.glob("*.sql")):
            cursor.execute(file.read_text())
        cursor.execute("DELETE FROM metadata WHERE name = %s", (key,))
        cursor.execute("INSERT INTO metadata (name, value) VALUES (%s, %s)", (key, version))

    def _make_index(self, cursor: Any, name: str, columns: str) -> None:
        """Makes an index while others write; what an interrupted run left is made anew."""
        valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)"
        if self._ask(cursor, valid, name):
            return
        drop = f"DROP INDEX CONCURRENTLY IF EXISTS {name}"
        cursor.execute(drop)
        try:
            cursor.execute(
                f"CREATE INDEX CONCURRENTLY {name} ON objects ({columns})"
                " WHERE resource_name = 'record' AND NOT deleted"
            )
        except ProgramLimitExceeded as error:
            # An index entry has 2,704 bytes; a text of that length is no time and no number.
            cursor.execute(drop)
            logger.error("index %s is not made, queries are slower: %s", name, error)  # noqa: TRY400
