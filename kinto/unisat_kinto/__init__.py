"""Kinto plugin of the UniSat network: records stored in bulk, and read as a network needs them.

Kinto's setting ``kinto.includes`` loads it. It needs PostgreSQL: its schema comes with
``kinto migrate``. With another storage it stays out, and Kinto is a stock one.
"""

from __future__ import annotations

import logging
from typing import Any

from pyramid.settings import aslist

from unisat_kinto import capability, logins, metrics, passwords, pool, records
from unisat_kinto.migration import UnisatMigration
from unisat_kinto.storage import IndexedStorage

logger = logging.getLogger(__name__)


def includeme(config: Any) -> None:
    """Adds the endpoints, the capability, the migration and the rules for records."""
    client = getattr(config.registry.storage, "client", None)
    if client is None:
        logger.warning("unisat_kinto needs PostgreSQL as storage: it is not loaded")
        return
    # A statement that fails is logged without the records that it was given.
    engine = client.session_factory().get_bind()
    engine.hide_parameters = True
    # Permissions are in the same database, and Kinto takes one pool for both.
    pool.pass_over_closed(engine)
    client.session_factory.remove()
    settings = config.get_settings()
    storage = IndexedStorage(
        client=client,
        max_fetch_size=int(settings["storage_max_fetch_size"]),
        readonly=settings.get("readonly", False),
    )
    storage.engine = engine
    config.registry.storage = storage
    records.keep_permissions_on_collections()
    known = passwords.remember(config)
    if logins.decided_by_accounts_alone(settings):
        config.registry.unisat_logins = logins.Logins(known)
    if "kinto.plugins.prometheus" in aslist(settings["includes"]):
        metrics.one_at_a_time()
    config.add_migration(UnisatMigration())
    capability.advertise(config)
    config.include("unisat_kinto.views")
