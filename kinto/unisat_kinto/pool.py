"""Connections that the database has closed are not handed out again."""

from __future__ import annotations

import select
from typing import Any

from kinto.core.utils import sqlalchemy as sa


def pass_over_closed(engine: Any) -> None:
    """Has requests get a fresh connection for each one that a restart of the database closed.

    Without it each process answers a request with 503 after a restart. Kinto's own
    `storage_pool_pre_ping` asks the database before every request; whether the other end has
    closed, the kernel knows already.
    """
    sa.event.listen(engine, "checkout", _refuse_closed)


def _refuse_closed(connection: Any, *_: Any) -> None:
    """Looks whether there is anything to read: nobody has asked, so it is the end.

    Raises:
        DisconnectionError: The connection is closed; SQLAlchemy opens another in its place.
    """
    looking = select.poll()
    looking.register(connection.fileno(), select.POLLIN)
    if looking.poll(0):
        raise sa.exc.DisconnectionError("PostgreSQL closed the connection")
