"""A spool between two real Kintos that drift apart, for the tests of what makes them equal."""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
from pathlib import Path
from typing import Any

from rig.kinto import Kinto, local_permissions
from unisat_agent.clock import ClockState, SystemClock
from unisat_agent.config.model import SinkSettings
from unisat_agent.delivery.courier import Courier
from unisat_agent.delivery.kinto import KintoClient
from unisat_agent.delivery.reconcile import Reconciler, Report
from unisat_agent.record import Record, Row, Stamp
from unisat_agent.spool.queue import Spool
from unisat_agent.spool.schema import SINKS

BOOT = "boot-a"
PASSWORD = "secret"
DEV = "u01"


class Pair:
    """A spool between two Kintos, in a bucket of the test's own.

    Args:
        kintos: The Kintos by side; both know the account "agent" and PASSWORD.
        folder: Where the spool lies.
    """

    numbers = itertools.count(1)

    def __init__(self, kintos: dict[str, Kinto], folder: Path) -> None:
        self.kintos = kintos
        self.bucket = f"bucket{next(self.numbers)}"
        self.folder = folder
        self.stack = contextlib.ExitStack()
        self.spool = Spool(folder / "spool.db", SINKS, BOOT, 64 * 1024 * 1024)
        self.clients: dict[str, KintoClient] = {}
        for side, kinto in kintos.items():
            may = local_permissions("agent")
            if side == "hub":
                del may["read"]
            kinto.client().create_bucket(id=self.bucket, permissions=may)
            settings = SinkSettings(side, kinto.url, "agent", PASSWORD, self.bucket)
            self.clients[side] = self.stack.enter_context(KintoClient(settings))
        self.requests: list[str] = []
        self.beats = 0

    def close(self) -> None:
        """Closes the spool and the connections."""
        self.stack.close()
        self.spool.close()

    def new_spool(self) -> None:
        """The old one is lost."""
        self.spool.close()
        self.spool = Spool(self.folder / "new.db", SINKS, BOOT, 64 * 1024 * 1024)

    def packages(self, count: int, dev_id: str = DEV) -> list[Row]:
        """Appends packages to the spool."""
        stamp = Stamp(1_700_000_000_000, 5_000, BOOT, ClockState.SYNCED)
        return [
            self.spool.append(dev_id, json.dumps({"groups": {}, "n": n + 0.5}), stamp, [])
            for n in range(count)
        ]

    def deliver(self, *sides: str) -> None:
        """Delivers what waits, to both or one of them."""
        for side in sides or SINKS:
            courier = Courier(
                self.spool, self.clients[side], SystemClock("always"), threading.Event()
            )
            while self.spool.pending(side):
                assert courier.step() == 0.0, courier.standing.notices.current()

    def delivered(self, count: int, dev_id: str = DEV) -> list[Row]:
        """Packages that both have."""
        rows = self.packages(count, dev_id)
        self.deliver()
        return rows

    def admin(self, side: str) -> Any:
        """The administrator's kinto-http client of a side."""
        return self.kintos[side].client()

    def forget(self, side: str, rows: list[Row]) -> None:
        """The side has never had these: as if restored from a backup."""
        lost = {str(row.record_id) for row in rows}
        keep = [record for record in self.records(side) if record["id"] not in lost]
        admin = self.admin(side)
        admin.delete_collection(id=DEV, bucket=self.bucket)
        permissions = {"write": ["account:agent"]}
        admin.create_collection(id=DEV, bucket=self.bucket, permissions=permissions)
        self.put(side, *keep)

    def put(self, side: str, *records: Record, dev_id: str = DEV) -> None:
        """Writes records into a side, past the agent."""
        path = f"/buckets/{self.bucket}/collections/{dev_id}/records"
        for start in range(0, len(records), 25):
            items = [
                {"method": "PUT", "path": f"{path}/{record['id']}", "body": {"data": record}}
                for record in records[start : start + 25]
            ]
            body, _ = self.admin(side).session.request(
                "post", "/batch", payload={"requests": items}
            )
            assert {item["status"] for item in body["responses"]} == {201}

    def delete(self, side: str, *rows: Row) -> None:
        """Deletes records on a side, which keeps tombstones."""
        for row in rows:
            self.admin(side).delete_record(
                id=str(row.record_id), collection=DEV, bucket=self.bucket
            )

    def records(self, side: str, dev_id: str = DEV) -> list[Record]:
        """What a side has, without `last_modified`."""
        found = self.admin(side).get_records(collection=dev_id, bucket=self.bucket)
        return [{k: v for k, v in r.items() if k != "last_modified"} for r in found]

    def ids(self, side: str, dev_id: str = DEV) -> set[str]:
        """The ids of what a side has."""
        return {record["id"] for record in self.records(side, dev_id)}

    def reconcile(self, *, afresh: bool = False) -> Report:
        """Compares both, listening to the requests."""
        self.requests.clear()
        for side, client in self.clients.items():
            self.listen(side, client)
        return self.reconcile_as_it_is(afresh=afresh)

    def reconcile_as_it_is(self, *, afresh: bool = False) -> Report:
        """Without listening to the requests."""
        made = Reconciler(self.spool, self.clients["local"], self.clients["hub"], self.beat)
        return made.run(afresh=afresh)

    def listen(self, side: str, client: KintoClient) -> None:
        """Notes the requests of a connection."""
        ask = KintoClient.request

        def asking(method: str, path: str, *rest: Any) -> Any:
            self.requests.append(f"{side} {method} {path}")
            return ask(client, method, path, *rest)

        client.request = asking  # type: ignore[assignment]

    def beat(self) -> None:
        """Counts the signs of life."""
        self.beats += 1

    def assert_equal(self, dev_id: str = DEV) -> None:
        """Both have the same records of a device."""
        local, hub = ({r["id"]: r for r in self.records(side, dev_id)} for side in SINKS)
        assert local == hub
