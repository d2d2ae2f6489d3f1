"""The two Kintos of a station: its local one and the hub, on databases of their own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from rig.kinto import Kinto
from rig.servers import Memcached, Postgres


class Kintos:
    """A local Kinto and a hub on databases of their own; a context manager that starts them.

    They take seconds to start, so stations follow one another on the same two, each with a bucket
    of its own.

    Args:
        directory: Where their files go.
        postgres: The cluster of the local one.
        hub_postgres: The hub's; the same one by default.
        memcached: Of both.
    """

    def __init__(
        self,
        directory: Path,
        postgres: Postgres,
        memcached: Memcached,
        hub_postgres: Postgres | None = None,
    ) -> None:
        self.clusters = {"local": postgres, "hub": hub_postgres or postgres}
        self.databases = {name: one.new_database() for name, one in self.clusters.items()}
        self.local, self.hub = (
            Kinto(
                directory,
                name,
                storage_url=self.clusters[name].url(database),
                memcached=memcached.address,
                # Lets a test make a hub refuse records.
                settings={"kinto.experimental_collection_schema_validation": "true"},
            )
            for name, database in self.databases.items()
        )
        self._stations = 0

    def __enter__(self) -> Self:
        try:
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(Kinto.start, (self.local, self.hub)))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends both and drops their databases."""
        for kinto in (self.local, self.hub):
            kinto.close()
        for name, cluster in self.clusters.items():
            if cluster.running:
                cluster.drop_database(self.databases[name])

    def mend(self) -> None:
        """Starts again what a failed test left dead."""
        for cluster in self.clusters.values():
            if not cluster.running:
                cluster.start()
        for kinto in (self.local, self.hub):
            if not kinto.healthy():
                kinto.restart()

    def new_bucket(self) -> str:
        """The name of a bucket that no station has had."""
        self._stations += 1
        return f"telemetry{self._stations}"

    @contextlib.contextmanager
    def stopped(self, kinto: Kinto) -> Iterator[str]:
        """Ends one of the Kintos for the block, which gets the name of its database."""
        kinto.terminate()
        yield self.databases[kinto.name]
        kinto.launch()
        kinto.wait_ready()

    def snapshot(self, kinto: Kinto) -> str:
        """A backup of a Kinto's database: the name of a copy, to give to `restore`."""
        with self.stopped(kinto) as database:
            return self.clusters[kinto.name].new_database(template=database)

    def restore(self, kinto: Kinto, copy: str) -> None:
        """Puts a Kinto's database back to a `snapshot`, which is used up."""
        cluster = self.clusters[kinto.name]
        with self.stopped(kinto) as database:
            cluster.drop_database(database)
            cluster.new_database(database, template=copy)
            cluster.drop_database(copy)
