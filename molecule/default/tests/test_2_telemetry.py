"""A record's path: from the satellite to the station's Kinto and to the hub, exactly once."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from conftest import HUB, PUBLISHERS, delivered, journal, records, secret
from outside import inside, wait_until

COUNT = """
import psycopg2
where = "dbname=kinto user=kinto host=/run/postgresql password={password}"
cursor = psycopg2.connect(where).cursor()
cursor.execute(
    "select count(*), count(distinct id), count(distinct data->>'seq') from objects"
    " where resource_name = 'record' and parent_id = %s",
    ["/buckets/telemetry/collections/{device}"],
)
print(list(cursor.fetchone()))
"""


def judge(publisher: str) -> int:
    """Compare what a satellite sent with what both Kintos hold; return how many that were."""
    inside(publisher, "systemctl", "stop", "satellite")
    try:
        wait_until(lambda: delivered(publisher), f"{publisher} has delivered all")
        sent = journal(publisher)
        for device in PUBLISHERS[publisher]:
            wanted = [entry["fields"] for entry in sent if entry["devID"] == device]
            assert len(wanted) >= 3
            here, there = records(publisher, device), records(HUB, device)
            for stored, where in ((here, publisher), (there, HUB)):
                ids = Counter(record["id"] for record in stored)
                assert max(ids.values()) == 1, where
                for fields in wanted:
                    same = [record for record in stored if fields.items() <= record.items()]
                    assert len(same) == 1, f"{len(same)} times in {where}: {fields}"
            assert identified(here) == identified(there)
    finally:
        inside(publisher, "systemctl", "start", "satellite")
    return len(sent)


def identified(stored: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The records by id, without what each Kinto writes by itself."""
    return {
        record["id"]: {
            key: value for key, value in record.items() if key not in {"last_modified", "schema"}
        }
        for record in stored
    }


@pytest.mark.parametrize("publisher", PUBLISHERS)
def test_each_package_is_stored_exactly_once_here_and_on_the_hub(publisher: str) -> None:
    wait_until(lambda: len(journal(publisher)) >= 8, "some packages were sent")
    judge(publisher)


@pytest.mark.parametrize("host", [*PUBLISHERS, HUB])
def test_the_database_itself_holds_each_record_once(host: str) -> None:
    devices = PUBLISHERS.get(host) or [
        device for devices in PUBLISHERS.values() for device in devices
    ]
    for device in devices:
        script = COUNT.format(password=secret(host, "kinto_database_password"), device=device)
        rows, ids, numbers = json.loads(inside(host, "python3", "-", stdin=script))
        assert rows == ids == numbers > 0


# What docs/fleet.md and agent/README.md tell an operator to type.
COMMANDS = (
    "check",
    "status",
    "ports --listen 1",
    "reconcile",
    "spool check",
    "quarantine list",
    "dead list",
)


@pytest.mark.parametrize("publisher", PUBLISHERS)
@pytest.mark.parametrize("command", COMMANDS)
def test_the_operators_commands_work_as_the_documents_give_them(
    publisher: str, command: str
) -> None:
    printed = inside(publisher, "unisat-agent", *command.split())
    assert printed
    assert "no password" not in printed
