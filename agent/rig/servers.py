"""PostgreSQL and memcached as the tests use them: Debian's binaries, own data, free ports.

The processes end with the thread that started them, however it ends (PR_SET_PDEATHSIG); what a
killed run leaves in the temporary directory is swept by the next run.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import psycopg2
import psycopg2.extensions

from rig import reserve_port
from rig.processes import (
    ADMIN,
    MissingProgramError,
    Process,
    alive,
    children,
    program,
    run_directory,
    sweep,
    unprivileged,
)
from rig.wait import wait_until

_DEBIAN_POSTGRESQL = Path("/usr/lib/postgresql")


def postgresql_bin() -> Path:
    """The directory of the newest PostgreSQL that Debian installed.

    Raises:
        MissingProgramError: where there is none.
    """
    majors = [
        entry
        for entry in _DEBIAN_POSTGRESQL.glob("*/bin")
        if entry.parent.name.isdigit() and (entry / "initdb").exists()
    ]
    if not majors:
        raise MissingProgramError(
            f"no PostgreSQL server under {_DEBIAN_POSTGRESQL}: sudo apt-get install postgresql"
        )
    return max(majors, key=lambda entry: int(entry.parent.name))


class Postgres:
    """A PostgreSQL cluster: fsync on, SCRAM, a Unix socket and a loopback port.

    Attributes:
        directory: data, socket and log.
        port: the same through all restarts.
    """

    def __init__(self) -> None:
        sweep()
        self._bin = postgresql_bin()
        self.directory = run_directory()
        self._holder = reserve_port()
        self.port: int = self._holder.getsockname()[1]
        self._password = secrets.token_hex(16)
        self._process: Process | None = None
        self._databases = 0
        if os.geteuid() == 0:
            try:
                account = pwd.getpwnam(ADMIN)
            except KeyError:
                raise MissingProgramError(
                    "no system user postgres: sudo apt-get install postgresql"
                ) from None
            os.chown(self.directory, account.pw_uid, account.pw_gid)
        self._initdb()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _initdb(self) -> None:
        password_file = self.directory / "password"
        password_file.write_text(self._password)
        password_file.chmod(0o644)  # its directory goes away with the cluster; initdb isn't root
        subprocess.run(
            [
                *unprivileged("KILL"),
                str(self._bin / "initdb"),
                *("--pgdata", str(self.directory / "data")),
                *("--username", ADMIN, "--pwfile", str(password_file)),
                *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C.UTF-8"),
                "--no-sync",
            ],
            cwd=self.directory,
            check=True,
            capture_output=True,
        )
        password_file.unlink()

    def start(self, deadline_s: float = 60.0) -> None:
        """Starts it and waits until it answers, crash recovery included."""
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self.directory,
            "max_connections": 100,
            "shared_buffers": "64MB",
            "fsync": "on",
            "timezone": "UTC",
        }
        process = Process(
            [
                *unprivileged("INT"),
                str(self._bin / "postgres"),
                *("-D", str(self.directory / "data")),
                *(word for name, value in settings.items() for word in ("-c", f"{name}={value}")),
            ],
            self.directory / "postgres.log",
        )
        self._process = process
        wait_until(
            self._answers, deadline_s, lambda: f"PostgreSQL to answer: {process.tail()}", 0.02
        )

    def _answers(self) -> bool:
        assert self._process is not None
        if not self._process.running():
            raise RuntimeError(f"PostgreSQL ended: {self._process.tail()}")
        try:
            psycopg2.connect(self.url("postgres")).close()
        except psycopg2.OperationalError:
            return False
        return True

    def stop(self) -> None:
        """Fast shutdown."""
        if self._process is not None:
            self._process.end(signal.SIGINT)
            self._process = None

    def kill(self) -> None:
        """Kill -9 of all of it at once, as a power cut would; start() then recovers."""
        if self._process is None:
            return
        backends = children(self._process.pid)
        self._process.end(signal.SIGKILL)
        for pid in backends:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(
            lambda: not any(alive(pid) for pid in backends), 10, "PostgreSQL's backends to end"
        )
        self._process = None

    def freeze(self) -> None:
        """SIGSTOP to all of it: connections stay open, and nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets it go on after `freeze`."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            for pid in (self._process.pid, *children(self._process.pid)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    def close(self) -> None:
        """Stops it and removes all of it."""
        self.thaw()
        self.stop()
        self._holder.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def running(self) -> bool:
        """Whether the postmaster is there."""
        return self._process is not None and self._process.running()

    def url(self, database: str) -> str:
        """The address of a database, through the Unix socket."""
        return (
            f"postgresql://{ADMIN}:{self._password}@/{database}"
            f"?host={self.directory}&port={self.port}"
        )

    @contextlib.contextmanager
    def connection(self, database: str) -> Iterator[psycopg2.extensions.connection]:
        """A connection of its own; closed, and rolled back if not committed, at the end."""
        connection = psycopg2.connect(self.url(database))
        try:
            yield connection
        finally:
            connection.close()

    def new_database(self, name: str | None = None, *, template: str = "template0") -> str:
        """Creates an empty database, or a copy of one that nobody is connected to.

        Returns:
            Its name, which is made up if not given.
        """
        if name is None:
            self._databases += 1
            name = f"kinto{self._databases}"
        self._administer(f"CREATE DATABASE {name} TEMPLATE {template} ENCODING 'UTF8'")
        # Kinto refuses to start on a database whose time zone isn't UTC.
        self._administer(f"ALTER DATABASE {name} SET TIMEZONE TO 'UTC'")
        return name

    def drop_database(self, name: str) -> None:
        """Removes a database and ends its connections."""
        self._administer(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def _administer(self, statement: str) -> None:
        with self.connection("postgres") as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)


class Memcached:
    """A memcached on a loopback port.

    Attributes:
        port: the same through all restarts.
    """

    def __init__(self) -> None:
        sweep()
        self._program = program("memcached")
        self.directory = run_directory()
        self._holder = reserve_port()
        self.port: int = self._holder.getsockname()[1]
        self._process: Process | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def address(self) -> str:
        """Host and port, as Kinto's settings want them."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts it and waits until it listens."""
        process = Process(
            [
                *unprivileged("KILL"),
                self._program,
                *("-l", "127.0.0.1", "-p", str(self.port), "-U", "0", "-m", "32"),
            ],
            self.directory / "memcached.log",
        )
        self._process = process
        wait_until(self._listens, 10, lambda: f"memcached to listen: {process.tail()}", 0.02)

    def _listens(self) -> bool:
        assert self._process is not None
        if not self._process.running():
            raise RuntimeError(f"memcached ended: {self._process.tail()}")
        listening = f"0100007F:{self.port:04X} 00000000:0000 0A"
        return listening in Path("/proc/net/tcp").read_text()

    def stop(self) -> None:
        """Ends it; what it held is gone."""
        if self._process is not None:
            self._process.end(signal.SIGTERM)
            self._process = None

    def close(self) -> None:
        """Stops it and removes its log."""
        self.stop()
        self._holder.close()
        shutil.rmtree(self.directory, ignore_errors=True)
