"""The plugin's endpoints, one module each."""

from __future__ import annotations

from typing import Any

from pyramid.settings import asbool

from unisat_kinto.views import ingest
from unisat_kinto.views.account import account
from unisat_kinto.views.latest import latest
from unisat_kinto.views.retain import retain
from unisat_kinto.views.series import series


def includeme(config: Any) -> None:
    """Adds them all; on a server that only reads, those that read."""
    for service in (account, latest, series):
        config.add_cornice_service(service)
    if not asbool(config.get_settings()["readonly"]):
        config.add_cornice_service(retain)
        config.include(ingest)
