"""A station's backups and updates, in their order: each test goes on from the one before."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess

from life import newest_backup, other_agent, other_image, play, sentences

from outside import INVENTORY, PROJECT, inside, wait_until
from station import KEPT, STATION, image, judge, release, sent, status, stored


def test_an_interrupted_installation_was_finished() -> None:
    """prepare.yml left it half done, and site.yml has been run since."""
    assert inside(STATION, "dpkg", "--audit") == ""
    left = "ls /var/lib/dpkg/updates; ls /usr/sbin | grep policy-rc.d || true"
    assert inside(STATION, "sh", "-c", left) == ""
    for service in ("memcached", "postgresql@15-main"):
        inside(STATION, "systemctl", "is-active", service)
    query = "psql --tuples-only --no-align --command 'show data_checksums'"
    assert inside(STATION, "su", "postgres", "-c", query).strip() == "on"


def test_a_backup_holds_everything_and_is_private() -> None:
    wait_until(lambda: len(sent()) >= 3 and stored(), "some packages were sent")
    before = len(stored())
    said = play("backup")
    folder = newest_backup()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert before <= manifest["content"]["record"]["count"] <= len(stored())
    assert {path.name for path in folder.iterdir()} == {
        *("database.dump", "spool.db", "configuration.tar.gz", "manifest.json", "secrets")
    }
    for path in (KEPT / "backups").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    for secret in (KEPT / "secrets").glob("*/*"):
        assert secret.read_text().strip() not in said, secret.name
    assert "unisat-backup" not in inside(STATION, "ls", "-R", "/var")


# A package of the kind that waits for update.yml, and a newer one of it in the only mirror left.
UPGRADE = r"""
set -eu
for version in 1 2; do
    mkdir -p /srv/mirror/$version/DEBIAN
    {
        printf 'Package: postgresql-unisat-test\nVersion: %s\nArchitecture: all\n' $version
        printf 'Maintainer: UniSat\nDescription: a test\n'
    } >/srv/mirror/$version/DEBIAN/control
    dpkg-deb --build /srv/mirror/$version /srv/mirror/$version.deb
done
dpkg --install /srv/mirror/1.deb
cd /srv/mirror
{
    dpkg-deb --field 2.deb
    printf 'Filename: ./2.deb\nSize: %s\n' "$(stat --format %s 2.deb)"
    printf 'SHA256: %s\n' "$(sha256sum 2.deb | cut -d' ' -f1)"
} >Packages
mv /etc/apt/sources.list /root/
echo 'deb [trusted=yes] file:/srv/mirror ./' >/etc/apt/sources.list
"""


PAGE = "/usr/share/unisat-dashboard/index.html"


def test_an_update_changes_agent_image_page_and_packages_and_nothing_is_lost() -> None:
    old_release, old_image = release(), image()
    new_page = inside(STATION, "cat", PAGE)
    inside(STATION, "sh", "-c", f"echo of before >{PAGE}")
    inside(STATION, "sh", "-c", UPGRADE)
    try:
        said = play(
            "update",
            *(other_agent("good", "9.0.0"), other_image("new")),
            *("--extra-vars", '{"update_packages": true}'),
            note=", a new agent, image and package",
        )
    finally:
        inside(STATION, "mv", "/root/sources.list", "/etc/apt/sources.list")
    version = inside(STATION, "dpkg-query", "--show", "postgresql-unisat-test")
    assert version.split()[1] == "2"
    assert status()["version"].startswith("9.0.0+")
    assert release() != old_release
    assert image() == "unisat-kinto:new" != old_image
    assert inside(STATION, "cat", PAGE) == new_page
    assert f"{STATION} runs unisat-kinto:new and agent 9.0.0" in sentences(said)
    assert judge() > 0


# Starts, says that it is ready, and does nothing: only a look at the records finds that out.
USELESS = """

def _run(args: argparse.Namespace) -> int:
    import os
    import socket
    import time

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
    time.sleep(1000)
    return 0
"""


BASELINE = "/var/lib/unisat-update/before.json"


def test_a_failing_update_goes_back_by_itself_also_when_its_first_run_was_killed() -> None:
    good_release, good_image, before = release(), image(), len(sent())
    inside(STATION, "sh", "-c", f"echo of before >{PAGE}")
    useless = other_agent("useless", "9.9.9", cli_run=USELESS), other_image("newer")
    update = [*("ansible-playbook", "--inventory", INVENTORY), *useless]
    killed = subprocess.Popen([*update, f"{PROJECT}/playbooks/update.yml"], start_new_session=True)
    # In the gate: the useless agent runs, and Kinto of the new image.
    running = "systemctl is-active unisat-agent >/dev/null && readlink /opt/unisat-agent/current"
    try:
        wait_until(
            lambda: (
                image() == "unisat-kinto:newer"
                and inside(STATION, "sh", "-c", running, check=False).strip()
                not in {"", good_release}
            ),
            "the new version runs",
            600,
        )
    finally:
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
    # A school's weekend later.
    inside(STATION, "sh", "-c", "touch --date='3 days ago' /var/lib/unisat-update/before.*")
    said = play(
        "update",
        *(*useless, "--extra-vars", '{"update_gate_s": 20}'),
        check=False,
        note=", a useless agent, again after a kill, until the return",
    )
    assert (
        f"{STATION} did not pass its update (See whether it works as well as before:"
        in sentences(said)
    )
    assert "works as before; the roll-out stops here" in sentences(said)
    assert (release(), image()) == (good_release, good_image)
    assert inside(STATION, "cat", PAGE) == "of before\n"
    assert status()["health"] == "ok"
    wait_until(lambda: len(sent()) > before, "the satellite goes on")
    assert judge() > before
    assert inside(STATION, "systemctl", "--failed", "--no-legend", "--plain") == ""
    assert inside(STATION, "ls", "/var/lib/unisat-update") == ""


# A release of a later schema. It works, but for what the test's other address of Kinto spoils.
LATER_SCHEMA = """

_STEPS[SCHEMA_VERSION] = lambda db, _: db.execute("ALTER TABLE package ADD COLUMN later TEXT")
SCHEMA_VERSION += 1
"""
SCHEMA = """
import sqlite3
print(sqlite3.connect("{}").execute("PRAGMA user_version").fetchone()[0])
"""


def schema(path: str = "/var/lib/unisat-agent/spool.db") -> int:
    return int(inside(STATION, "python3", "-", stdin=SCHEMA.format(path)))


def test_going_back_over_a_change_of_the_spools_schema_loses_nothing() -> None:
    """What the new release stored, and never delivered, is delivered by the previous one."""
    good_release, before = release(), len(sent())
    good_schema = schema()
    said = play(
        "update",
        other_agent("later", "9.9.10", spool_migrations=LATER_SCHEMA),
        *("--extra-vars", '{"update_gate_s": 20, "update_backup": false}'),
        *("--extra-vars", "agent_local_url=http://127.0.0.1:9/v1"),
        check=False,
        note=", back over a change of the spool's schema",
    )
    assert "works as before; the roll-out stops here" in sentences(said)
    assert release() == good_release
    assert schema() == good_schema
    aside = inside(STATION, "sh", "-c", "echo /var/lib/unisat-agent/spool.db.*-1")
    assert schema(aside.strip()) == good_schema + 1
    assert judge() > before + 10
