"""Whether a devID is real: one flipped bit on the line makes a device that never was.

A device is believed when it is expected, or from its second package on. Its first package is stored
at once like any other, and delivered with the second.
"""

from __future__ import annotations

from unisat_agent.spool.database import Database
from unisat_agent.spool.quarantine import Quarantine
from unisat_agent.spool.schema import SINKS, RowState

# Noise may make a devID a minute for years.
UNBELIEVED_ROWS = 1000
HEARD_ONCE = "heard_once"


class Belief:
    """Which devices are believed, and the packages of those that are not."""

    def __init__(self, database: Database, quarantine: Quarantine) -> None:
        self._database = database
        self._quarantine = quarantine

    def judge(self, dev_id: str, expected: bool) -> bool:
        """Whether a package of this device may be delivered; its first one may be then, too.

        In the transaction of the caller, that stores the package.
        """
        with self._database.reading() as db:
            if db.execute(
                "SELECT 1 FROM tally WHERE dev_id = ? AND own = 1 AND believed = 1", (dev_id,)
            ).fetchone():
                return True
            first = db.execute("SELECT seq FROM unbelieved WHERE dev_id = ?", (dev_id,)).fetchall()
            if not first and not expected:
                return False
            pending = ", ".join(f"{sink} = {RowState.PENDING:d}" for sink in SINKS)
            db.executemany(f"UPDATE package SET {pending} WHERE seq = ?", first)
            db.execute("DELETE FROM unbelieved WHERE dev_id = ?", (dev_id,))
            db.execute(
                "INSERT INTO tally (dev_id, own, believed) VALUES (?, 1, 1) "
                "ON CONFLICT DO UPDATE SET believed = 1",
                (dev_id,),
            )
            return True

    def doubt(self, seq: int, dev_id: str) -> None:
        """Notes a first package, in the transaction that stores it."""
        with self._database.reading() as db:
            db.execute("INSERT INTO unbelieved (seq, dev_id) VALUES (?, ?)", (seq, dev_id))

    def heard_once(self) -> list[str]:
        """The devices that are not believed, the latest first."""
        return [
            dev_id
            for (dev_id,) in self._database.ask("SELECT dev_id FROM unbelieved ORDER BY seq DESC")
        ]

    def bound(self) -> None:
        """Moves the oldest first packages to quarantine when there are too many."""
        too_many = self._database.ask(
            "SELECT seq, dev_id FROM unbelieved ORDER BY seq DESC LIMIT -1 OFFSET ?",
            (UNBELIEVED_ROWS,),
        )
        for seq, dev_id in too_many:
            self._quarantine.move_row(seq, HEARD_ONCE)
            with self._database.transaction() as db:
                self._database.set_note("last_seq", self._database.last_seq)
                db.execute("DELETE FROM tally WHERE dev_id = ? AND rows = 0", (dev_id,))
            self._database.pause()
