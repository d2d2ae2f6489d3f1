"""What could not be used, kept as it came: bad lines, and damaged rows of the spool itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unisat_agent.spool.database import Database
from unisat_agent.spool.schema import ROW_COLUMNS, SINKS

QUARANTINE_ROWS = 10_000
# With no room left, the youngest ones are still worth having.
_KEPT_WHEN_FULL = 100
_ROW_PORT = "spool"


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A line that could not be used, as it came."""

    port: str
    reason: str
    raw: bytes


class Quarantine:
    """The youngest QUARANTINE_ROWS of them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, received_ms: int, bad: Sequence[Quarantined]) -> None:
        """Adds lines, in a transaction of the caller."""
        if not bad:
            return
        with self._database.reading() as db:
            db.executemany(
                "INSERT INTO quarantine (received_ms, port, reason, raw) VALUES (?, ?, ?, ?)",
                [(received_ms, item.port, item.reason, item.raw) for item in bad],
            )
        self._keep(QUARANTINE_ROWS)

    def count(self) -> int:
        """How many there are: they leave in the order in which they came."""
        return (
            self._database.number(
                "SELECT (SELECT MAX(number) FROM quarantine) + 1 "
                "- (SELECT MIN(number) FROM quarantine)"
            )
            or 0
        )

    def move_row(self, seq: int, reason: str) -> None:
        """Commits that a row of the spool is kept here from now on, as it is, and not delivered."""
        with self._database.transaction() as db:
            found = db.execute(
                f"SELECT {ROW_COLUMNS}, {', '.join(SINKS)} FROM package WHERE seq = ?", (seq,)
            ).fetchone()
            if found is None:
                return
            received_ms = found[3] if isinstance(found[3], int) else 0
            raw = repr(found).encode(errors="backslashreplace")
            self.add(received_ms, [Quarantined(_ROW_PORT, reason, raw)])
            for table in ("package", "dead", "unbelieved"):
                db.execute(f"DELETE FROM {table} WHERE seq = ?", (seq,))

    def make_room(self) -> int:
        """Commits that only the youngest few are kept; returns how many were deleted."""
        if self.count() <= _KEPT_WHEN_FULL:
            return 0
        with self._database.transaction():
            return self._keep(_KEPT_WHEN_FULL)

    def _keep(self, rows: int) -> int:
        with self._database.reading() as db:
            return db.execute(
                "DELETE FROM quarantine WHERE number <= (SELECT MAX(number) FROM quarantine) - ?",
                (rows,),
            ).rowcount
