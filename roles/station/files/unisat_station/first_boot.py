"""The first boot: room on the card, Kinto's container, its database and its accounts.

Each step can be repeated, after a power cut at any moment as well; the program starts again from
the first one until all are done. Nothing here waits for a network, and the agent for none of it.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen

from unisat_station.machine import STATE, StationError, notice, run, say, write
from unisat_station.secrets import secret

DONE = STATE / "first-boot-done"
LOADING = STATE / "loading"
ARCHIVE = Path("/var/lib/unisat-kinto/image.tar.gz")
DOCKER_DATA = Path("/var/lib/docker")
BLOCK_DEVICES = Path("/sys/dev/block")
SECTOR = 512
# What may stay behind the last partition: less is not worth a change of the partition table.
SPARE_BYTES = 16 * 1024 * 1024
CHUNK = 256 * 1024
TOPIC = "first-boot"

# \gexec runs the statement that was selected, if one was; the password in no log even on an error.
DATABASE = """\
SET log_min_error_statement = panic;
SET password_encryption = 'scram-sha-256';
SELECT 'CREATE ROLE kinto' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'kinto') \\gexec
ALTER ROLE kinto LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD '{password}';
SELECT 'CREATE DATABASE kinto OWNER kinto ENCODING UTF8 TEMPLATE template0'
 WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'kinto') \\gexec
"""


def first_boot() -> None:
    """Does what is left of the first boot.

    Raises:
        StationError: A step failed; to be tried again.
    """
    if DONE.exists():
        return
    try:
        progress("making room on the card")
        grow()
        load()
        progress("making the database")
        make_database()
        progress("starting Kinto")
        make_accounts()
    except StationError as error:
        notice(TOPIC, [f"First boot: {error}; it is tried again."])
        raise
    write(DONE, "")
    notice(TOPIC, [])
    say("First boot: done.")


def progress(doing: str, *, aloud: bool = True) -> None:
    """Tells what is being done now."""
    notice(TOPIC, [f"First boot: {doing}; telemetry is taken meanwhile."], aloud=aloud)


def grow() -> None:
    """Grows the root partition to the end of the card, and the file system to the partition's."""
    number = Path("/").stat().st_dev
    device = (BLOCK_DEVICES / f"{os.major(number)}:{os.minor(number)}").resolve()
    if not (device / "partition").exists():
        return  # a disk without partitions, or a container
    disk = device.parent
    index = (device / "partition").read_text().strip()
    end = sum(int((device / name).read_text()) for name in ("start", "size"))
    if (int((disk / "size").read_text()) - end) * SECTOR > SPARE_BYTES:
        # The kernel uses the partition, so it is told of the new end by partx and not by sfdisk.
        run(
            *("sfdisk", "--force", "--no-reread", "--no-tell-kernel", "-N", index),
            f"/dev/{disk.name}",
            given=", +\n",
        )
        run("partx", "--update", "--nr", index, f"/dev/{disk.name}")
    run("resize2fs", f"/dev/{device.name}")


def load() -> None:
    """Loads Kinto's container, and removes the archive when it is safe on the card.

    Docker does not put every file of a layer on the card before it calls the layer complete; what
    a power cut left of a load is not believed, and all of Docker's data (nothing else is there
    before) is made anew.
    """
    if not ARCHIVE.exists():
        return
    if LOADING.exists():
        run("systemctl", "stop", "docker.socket", "docker.service")
        shutil.rmtree(DOCKER_DATA, ignore_errors=True)
    else:
        write(LOADING, "")
    run("systemctl", "start", "docker.service")
    feed(ARCHIVE, ["docker", "load", "--quiet"])
    os.sync()
    ARCHIVE.unlink()
    os.sync()
    LOADING.unlink()


def feed(archive: Path, argv: list[str]) -> None:
    """Gives an archive to a command, and tells how far it is."""
    size, read, told = archive.stat().st_size, 0, -1
    with (
        archive.open("rb") as file,
        Popen(argv, stdin=PIPE, stdout=DEVNULL, stderr=PIPE) as process,
    ):
        assert process.stdin is not None and process.stderr is not None  # noqa: S101, PT018 - pipes
        try:
            while chunk := file.read(CHUNK):
                process.stdin.write(chunk)
                read += len(chunk)
                if (percent := read * 100 // max(size, 1) // 5 * 5) != told:
                    told = percent
                    progress(f"unpacking Kinto, {percent} %", aloud=percent == 0)
            process.stdin.close()
        except BrokenPipeError:
            pass  # its exit code and its words say why
        said = process.stderr.read().decode(errors="replace")
    if process.returncode:
        raise StationError(f"{' '.join(argv[:2])} failed: {' '.join(said.split())}")


def make_database() -> None:
    """Makes the database and its owner, whose password is the kept one."""
    run("systemctl", "start", "postgresql.service")
    text = DATABASE.format(password=secret("kinto_database_password"))
    psql = ["psql", "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--host=/run/postgresql"]
    run(*psql, "--dbname=postgres", given=text, user="postgres")


def make_accounts() -> None:
    """Makes the accounts as the kinto role does on a publisher."""
    run("systemctl", "start", "unisat-kinto.service")
    wanted = {
        "admin_password": secret("kinto_admin_password"),
        "bucket": "telemetry",
        "bucket_permissions": {
            # Kinto listens on loopback: it is the station's page that reads without an account.
            "read": ["system.Everyone", "account:agent"],
            "collection:create": ["account:agent"],
        },
        "accounts": {"agent": secret("kinto_agent_password")},
        "writers": {},
    }
    run(
        *("docker", "exec", "--interactive", "unisat-kinto"),
        *("/usr/bin/python3", "/opt/kinto/unisat_container.py", "provision"),
        given=json.dumps(wanted),
    )
