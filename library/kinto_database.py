"""Ansible module: dumps, restores and merges the database of a station's Kinto."""
# ruff: noqa: S608 - the names in the statements are the playbooks' own; values are passed apart

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.kinto_dump import content_of

DOCUMENTATION = r"""
module: kinto_database
short_description: Dumps, restores and merges the database of a station's Kinto
description:
  - Works as PostgreSQL's own user, through its Unix socket, so without a password. Run it as root.
  - What is in a database is returned as RV(content), by which two databases are compared.
options:
  action:
    description:
      - V(dump) writes all to O(file), as of one moment, and proves it by reading it back. That
        takes no room beside the dump, and writes nothing else on the card.
      - V(load) makes O(scratch) anew from O(file).
      - V(swap) puts O(scratch) in the place of O(database), which is dropped.
      - V(merge) adds to O(database) whatever O(scratch) has and it has not; nothing is replaced.
      - V(drop) removes O(scratch); V(count) looks at O(database).
    type: str
    choices: [dump, load, swap, merge, drop, count]
    required: true
  database: {description: Kinto's database., type: str, default: kinto}
  owner: {description: The role that owns it., type: str, default: kinto}
  scratch: {description: "A database beside it, made anew.", type: str, default: kinto_scratch}
  file: {description: A dump of pg_dump's custom format., type: path}
  size_mb: {description: What the database takes of the disk that is loaded., type: int, default: 0}
author: UniSat
"""

EXAMPLES = r"""
- name: Dump the database
  kinto_database:
    action: dump
    file: /var/tmp/database.dump
  register: __dumped
"""

RETURN = r"""
content:
  description: Of each kind of object, how many there are, and a sum over all, deleted ones too.
  type: dict
  returned: always but by drop
  sample: {"record": {"count": 1200, "sum": "77217321"}}
size_mb:
  description: What the database takes of the disk.
  type: int
  returned: by dump
added:
  description: How many records were added.
  type: int
  returned: by merge
"""

ADMIN = "postgres"
SOCKET = "/run/postgresql"
# Kinto's own tables, in the order in which they are merged.
TABLES = ("objects", "timestamps", "access_control_entries", "user_principals")
MB = 1024 * 1024
# Left free beside what a database takes, for PostgreSQL's write-ahead log.
RESERVE_MB = 256

CONTENT = """
SELECT resource_name, count(*) FILTER (WHERE NOT deleted), sum(('x' || left(
    md5(concat_ws('|', parent_id, id, last_modified, deleted, data)), 8))::bit(32)::bigint)::text
FROM objects GROUP BY 1
"""


class FailError(Exception):
    """What stops the module, as one sentence."""


class Server:
    """The PostgreSQL of this host, as its administrator."""

    @contextlib.contextmanager
    def connection(self, database: str, **session: Any) -> Iterator[Any]:
        """A connection in one transaction, committed at the end; psycopg2's session options."""
        import psycopg2  # noqa: PLC0415 - missing where the postgres role has not run yet

        # The server believes the socket's peer: for this moment that is its own user.
        os.seteuid(pwd.getpwnam(ADMIN).pw_uid)
        try:
            connection = psycopg2.connect(dbname=database, user=ADMIN, host=SOCKET)
        except psycopg2.OperationalError as error:
            raise FailError(f"PostgreSQL: {str(error).strip()}") from error
        finally:
            os.seteuid(0)
        connection.set_session(**session)
        try:
            with contextlib.nullcontext() if session.get("autocommit") else connection:
                yield connection
        except psycopg2.Error as error:
            raise FailError(f"PostgreSQL, database {database}: {str(error).strip()}") from error
        finally:
            connection.close()

    def outside(self, *statements: str) -> None:
        """Runs statements that PostgreSQL allows in no transaction."""
        with (
            self.connection("postgres", autocommit=True) as connection,
            connection.cursor() as cursor,
        ):
            for statement in statements:
                cursor.execute(statement)

    def run(self, program: str, *arguments: str, **files: Any) -> None:
        """Runs one of PostgreSQL's programs, of the newest version that is installed."""
        found = shutil.which(program)
        if found is None:
            raise FailError(f"{program} is not installed: run site.yml first")
        done = subprocess.run(
            [found, f"--host={SOCKET}", *arguments],
            user=ADMIN,
            group=ADMIN,
            extra_groups=[],
            cwd="/",
            stderr=subprocess.PIPE,
            check=False,
            **files,
        )
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise FailError(f"{program}: {said[0] if said else 'failed'}")

    @contextlib.contextmanager
    def reading(self, file: Path) -> Iterator[Iterable[bytes]]:
        """The lines of SQL that a dump holds."""
        program = shutil.which("pg_restore")
        if program is None:
            raise FailError("pg_restore is not installed: run site.yml first")
        with (
            file.open("rb") as dumped,
            subprocess.Popen(
                [program, "--file=-"],
                stdin=dumped,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                user=ADMIN,
                group=ADMIN,
                extra_groups=[],
                cwd="/",
            ) as process,
        ):
            assert process.stdout and process.stderr  # noqa: S101, PT018 - they are pipes
            yield process.stdout
            said = process.stderr.read().decode(errors="replace").strip().splitlines()
        if process.returncode:
            raise FailError(f"pg_restore: {said[0] if said else 'failed'}")

    def exists(self, database: str) -> bool:
        """Whether there is such a database."""
        with self.connection("postgres") as connection:
            return bool(query(connection, "SELECT 1 FROM pg_database WHERE datname = %s", database))

    def drop(self, database: str) -> bool:
        """Removes a database, also one that is in use; whether there was one."""
        there = self.exists(database)
        if there:
            self.outside(f'DROP DATABASE "{database}" WITH (FORCE)')
        return there

    def need(self, folder: str, needed_mb: int, what: str) -> None:
        """Stops before the disk is full."""
        free_mb = shutil.disk_usage(folder).free // MB
        if free_mb < needed_mb:
            raise FailError(
                f"{what} needs {needed_mb} MB in {folder}, where {free_mb} MB are free: make room"
            )


def query(connection: Any, question: str, *values: str) -> list[tuple[Any, ...]]:
    """The rows of one query in the connection's transaction."""
    with connection.cursor() as cursor:
        cursor.execute(question, values or None)
        return list(cursor.fetchall())


def content(connection: Any) -> dict[str, dict[str, Any]]:
    """How much there is of each kind, and a sum over it that any change changes."""
    known = {
        name
        for (name,) in query(
            connection, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        )
    }
    if "objects" not in known:
        return {}
    found = {
        kind: {"count": count, "sum": total} for kind, count, total in query(connection, CONTENT)
    }
    if "access_control_entries" in known:
        ((count,),) = query(connection, "SELECT count(*) FROM access_control_entries")
        found["permission"] = {"count": count, "sum": ""}
    return found


def dump(server: Server, database: str, file: Path) -> dict[str, Any]:
    """Writes a dump and proves it; returns what is in it."""
    with server.connection(database) as connection:
        ((size,),) = query(connection, "SELECT pg_database_size(current_database())")
    # Compressed, and without the indexes; telemetry takes a tenth.
    server.need(str(file.parent), size // MB // 4 + 16, "the dump")
    # Created for its reader, who is not root, before the first byte.
    parent = file.parent.stat()
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        os.chown(file, parent.st_uid, parent.st_gid)
        with server.connection(
            database, isolation_level="REPEATABLE READ", readonly=True
        ) as connection:
            ((snapshot,),) = query(connection, "SELECT pg_export_snapshot()")
            found = content(connection)
            server.run("pg_dump", "--format=custom", f"--snapshot={snapshot}", database, stdout=out)
        os.fsync(out.fileno())
    with server.reading(file) as lines:
        again = content_of(lines)
    if again != found:
        raise FailError(
            f"the dump does not give back what is in the database: {again} instead of {found}"
        )
    return found


def load(server: Server, scratch: str, owner: str, file: Path) -> dict[str, Any]:
    """Makes the scratch database from a dump; returns what is in it."""
    # Unbuffered, for pg_restore reads on from where the descriptor stands.
    with file.open("rb", buffering=0) as dumped:
        if dumped.read(5) != b"PGDMP":
            raise FailError(
                f"{file.name} is not a dump of pg_dump --format=custom: make such a one"
            )
        server.drop(scratch)
        server.outside(
            f'CREATE DATABASE "{scratch}" OWNER "{owner}" TEMPLATE template0 ENCODING \'UTF8\''
        )
        dumped.seek(0)
        try:
            server.run(
                "pg_restore", "--exit-on-error", "--no-owner", "--no-privileges", f"--role={owner}",
                f"--dbname={scratch}", stdin=dumped, stdout=subprocess.DEVNULL,
            )  # fmt: skip
        except FailError:
            server.drop(scratch)
            raise
    with server.connection(scratch) as connection:
        return content(connection)


def swap(server: Server, database: str, scratch: str) -> dict[str, Any]:
    """Puts the scratch database in the other's place, both renamed in one transaction."""
    replaced = f"{database}_replaced"
    server.drop(replaced)
    with server.connection("postgres") as connection:
        # Who is connected would keep the name; nobody new comes in between.
        query(
            connection,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname IN (%s, %s)",
            database,
            scratch,
        )
        with connection.cursor() as cursor:
            if server.exists(database):
                cursor.execute(f'ALTER DATABASE "{database}" RENAME TO "{replaced}"')
            cursor.execute(f'ALTER DATABASE "{scratch}" RENAME TO "{database}"')
    server.drop(replaced)
    with server.connection(database) as connection:
        return content(connection)


def merge(server: Server, database: str, scratch: str) -> tuple[dict[str, Any], int]:
    """Adds what is missing, in one transaction; returns what is there then, and records added."""
    with (
        server.connection(scratch) as old,
        server.connection(database) as new,
        new.cursor() as cursor,
    ):
        # The trigger would give every record a new last_modified.
        cursor.execute("SET LOCAL session_replication_role = replica")
        for table in TABLES:
            cursor.execute(f"CREATE TEMP TABLE old_{table} (LIKE {table}) ON COMMIT DROP")
            names = ", ".join(
                name
                for (name,) in query(
                    old,
                    "SELECT column_name FROM information_schema.columns "
                    "WHERE table_schema = 'public' AND table_name = %s",
                    table,
                )
            )
            with tempfile.TemporaryFile(dir="/var/tmp") as rows:
                with old.cursor() as source:
                    source.copy_expert(f"COPY {table} ({names}) TO STDOUT", rows)
                rows.seek(0)
                cursor.copy_expert(f"COPY old_{table} ({names}) FROM STDIN", rows)
        added = merge_objects(cursor)
        cursor.execute(
            "INSERT INTO timestamps AS own SELECT * FROM old_timestamps "
            "ON CONFLICT (parent_id, resource_name) "
            "DO UPDATE SET last_modified = greatest(own.last_modified, excluded.last_modified)"
        )
        for table in TABLES[2:]:
            cursor.execute(f"INSERT INTO {table} SELECT * FROM old_{table} ON CONFLICT DO NOTHING")
        return content(new), added


def merge_objects(cursor: Any) -> int:
    """Adds the objects whose ids are not there yet; returns how many of them are records."""
    added = 0
    missing = (
        "FROM old_objects old WHERE NOT EXISTS (SELECT FROM objects new WHERE new.id = old.id "
        "AND new.parent_id = old.parent_id AND new.resource_name = old.resource_name)"
    )
    for later_ms in range(1000):
        # Two objects of one collection can't have the same last_modified: the newcomer gives way.
        cursor.execute(
            "WITH done AS (INSERT INTO objects "
            "(id, parent_id, resource_name, last_modified, data, deleted) "
            "SELECT old.id, old.parent_id, old.resource_name, "
            f"old.last_modified + interval '{later_ms} ms', old.data, old.deleted {missing} "
            "ON CONFLICT DO NOTHING RETURNING resource_name, deleted) "
            "SELECT count(*) FILTER (WHERE resource_name = 'record' AND NOT deleted) FROM done"
        )
        added += int(cursor.fetchone()[0])
        cursor.execute(f"SELECT count(*) {missing}")
        if cursor.fetchone()[0] == 0:
            return added
    raise FailError("some records found no free last_modified; nothing was merged")


def main() -> None:
    """Does the one action."""
    module = AnsibleModule(
        argument_spec={
            "action": {
                "required": True,
                "choices": ["dump", "load", "swap", "merge", "drop", "count"],
            },
            "database": {"default": "kinto"},
            "owner": {"default": "kinto"},
            "scratch": {"default": "kinto_scratch"},
            "file": {"type": "path"},
            "size_mb": {"type": "int", "default": 0},
        },
        required_if=[("action", "dump", ["file"]), ("action", "load", ["file"])],
        supports_check_mode=True,
    )
    p = module.params
    server = Server()
    action, database, scratch = p["action"], p["database"], p["scratch"]
    if module.check_mode and action != "count":
        module.exit_json(changed=True)
    try:
        if action == "count":
            with server.connection(database) as connection:
                module.exit_json(changed=False, content=content(connection))
        if action == "dump":
            found = dump(server, database, Path(p["file"]))
            with server.connection(database) as connection:
                ((size,),) = query(connection, "SELECT pg_database_size(current_database())")
            module.exit_json(changed=True, content=found, size_mb=size // MB)
        if action == "load":
            file = Path(p["file"])
            with server.connection("postgres") as connection:
                ((folder,),) = query(connection, "SELECT current_setting('data_directory')")
            # Without a size: a dump is compressed, about to a fourth.
            size_mb = p["size_mb"] or file.stat().st_size * 4 // MB
            server.need(folder, size_mb + RESERVE_MB, "loading the dump beside the database in use")
            module.exit_json(changed=True, content=load(server, scratch, p["owner"], file))
        if action == "swap":
            module.exit_json(changed=True, content=swap(server, database, scratch))
        if action == "merge":
            found, added = merge(server, database, scratch)
            module.exit_json(changed=added > 0, content=found, added=added)
        module.exit_json(changed=server.drop(scratch))
    except (FailError, ImportError, KeyError, OSError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
