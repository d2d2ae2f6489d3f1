"""The capability, and the timeline that a restore and a failover make anew."""

from __future__ import annotations

from typing import Any

from conftest import Network


def capability(network: Network, kinto: int = 0) -> dict[str, Any]:
    """What anybody reads in GET /v1/."""
    found: dict[str, Any] = network.user("", kinto)("GET", "/").json()["capabilities"]["unisat"]
    return found


def test_names_the_limits_and_one_timeline(network: Network) -> None:
    first, second = capability(network), capability(network, 1)
    assert first["ingest"] == {"max_records": 1000, "max_bytes": 4194304}
    assert len(first["timeline"]) == 12
    assert first["timeline"] == second["timeline"]


def test_a_new_timeline_is_seen_without_a_restart(network: Network) -> None:
    before = capability(network)["timeline"]
    with network.database().cursor() as cursor:
        cursor.execute("SELECT unisat_new_timeline()")
        (made,) = cursor.fetchone() or (None,)
    assert capability(network)["timeline"] == capability(network, 1)["timeline"] == made != before


def test_a_copy_of_the_database_is_another_life(network: Network) -> None:
    """As a dump that is loaded: its tables are new."""
    connection = network.database()
    with connection.cursor() as cursor:
        cursor.execute("SELECT unisat_timeline(), 'objects'::REGCLASS::OID")
        before = cursor.fetchone()
        cursor.execute("CREATE SCHEMA copy; CREATE TABLE copy.objects (LIKE objects)")
        try:
            cursor.execute("SET search_path = copy, public; SELECT unisat_timeline()")
            after = cursor.fetchone()
        finally:
            cursor.execute("RESET search_path; DROP SCHEMA copy CASCADE")
    assert before is not None
    assert after is not None
    assert before[0] != after[0]
