"""A station delivers while the hub's parts are restarted and killed: nothing is lost or doubled."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from functools import partial

import pytest

from conftest import HUB, Account, put, sql
from outside import inside, wait_until

FIRST = 10_000
KILL = "systemctl kill --signal=KILL --kill-who={} {}"
FAULTS = [
    "systemctl restart nginx",
    KILL.format("main", "nginx"),
    "systemctl restart unisat-kinto",
    "docker kill --signal=KILL unisat-kinto",
    "systemctl restart postgresql",
    KILL.format("main", "'postgresql@*'"),
    "systemctl restart memcached",
    KILL.format("main", "memcached"),
]


class Station:
    """Delivers record after record, each until it is acknowledged, as the agent does."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self.acknowledged = 0
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def beyond(self, number: int) -> bool:
        """Whether more than so many are acknowledged."""
        return self.acknowledged > number

    def run(self) -> None:
        """Until it is stopped; 201 and 412 acknowledge, everything else is sent again."""
        while not self.stop.is_set():
            try:
                answer = put(self.account, "u01kz", FIRST + self.acknowledged, temperature=1.0)
            except (OSError, http.client.HTTPException):
                self.stop.wait(0.2)
                continue
            if answer.status in {201, 412}:
                self.acknowledged += 1
            # At a device's pace, and not faster than the hub's limit.
            self.stop.wait(0.1)


@pytest.fixture
def station(accounts: dict[str, Account]) -> Iterator[Station]:
    found = Station(Account("almaty", accounts["almaty"].password))
    found.thread.start()
    yield found
    found.stop.set()
    found.thread.join()


def test_nothing_is_lost_or_doubled(station: Station) -> None:
    for fault in FAULTS:
        inside(HUB, "sh", "-c", fault)
        wait_until(partial(station.beyond, station.acknowledged + 5), f"after: {fault}", 180)
    station.stop.set()
    station.thread.join()
    where = (
        "FROM objects WHERE parent_id = '/buckets/telemetry/collections/u01kz'"
        f" AND resource_name = 'record' AND (data->>'seq')::int >= {FIRST}"
    )
    # The last one may have been stored without the answer having arrived.
    stored = sql(f"SELECT count(*), count(DISTINCT data->>'seq') {where}").split("|")
    assert stored[0] == stored[1]
    assert int(stored[0]) - station.acknowledged in {0, 1}
