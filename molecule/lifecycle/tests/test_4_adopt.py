"""A flashed station is taken over by a controller, and given back to its card."""

from __future__ import annotations

import re
import shutil

from life import KEPT, STATION, play, sentences, status

from outside import PROJECT, inside, run, wait_until

# What a flashed card is after its first boot, with passwords that no controller knows.
FLASH = """
set -eu
# The container's engine mounts it, and a mount cannot be replaced.
umount /etc/hostname
hostname >/etc/hostname
systemctl stop unisat-agent unisat-kinto
su postgres -c "psql --quiet --command 'drop database kinto' --command 'drop role kinto'"
rm -rf /etc/unisat-agent/credentials /etc/unisat-kinto/secrets.env
rm -rf /var/lib/unisat-station /var/lib/unisat-agent/*
cat >/usr/local/sbin/unisat-station <<'END'
#!/bin/sh
cd /usr/local/lib/unisat-station && exec python3 -B -m unisat_station "$@"
END
chmod 755 /usr/local/sbin/unisat-station
cp /etc/unisat-agent/agent.toml /usr/local/lib/unisat-station/
mkdir -p /boot/firmware
mount --types tmpfs tmpfs /boot/firmware
cat >/boot/firmware/unisat.toml <<'END'
[station]
name = "school-7"
devices = ["u01kz"]
timezone = "Asia/Almaty"
END
unisat-station settings
unisat-station first-boot
systemctl start unisat-agent
"""


def secrets_of(where: str) -> dict[str, str]:
    """The secrets on the station, or the controller's copies."""
    if where == "controller":
        return {file.name: file.read_text() for file in (KEPT / "secrets" / STATION).iterdir()}
    folder = "/var/lib/unisat-station/secrets"
    names = inside(STATION, "ls", folder).split()
    return {name: inside(STATION, "cat", f"{folder}/{name}") for name in names}


def reboot() -> dict[str, str]:
    """What a start does to the settings; returns the files that the agent and Kinto read."""
    inside(STATION, "unisat-station", "settings")
    inside(STATION, "systemctl", "restart", "unisat-kinto", "unisat-agent")
    files = "sha256sum /etc/unisat-*/*.* /etc/unisat-agent/credentials/*; readlink /etc/localtime"
    return {"files": inside(STATION, "sh", "-c", files), "name": inside(STATION, "hostname")}


def processes() -> set[str]:
    """The main processes of agent and Kinto."""
    shown = ["systemctl", "show", "--value", "--property=MainPID", "unisat-agent", "unisat-kinto"]
    return set(inside(STATION, *shown).split())


def test_a_flashed_station_is_adopted_and_nothing_flips() -> None:
    shutil.rmtree(KEPT / "secrets" / STATION)
    library = "/usr/local/lib/unisat-station"
    inside(STATION, "mkdir", "-p", library)
    for name in ("unisat_station", "unisat.toml"):
        run("docker", "cp", f"{PROJECT}/roles/firstboot/files/{name}", f"{STATION}:{library}/")
    inside(STATION, "sh", "-c", FLASH)
    born = secrets_of("station")

    said = play("site", check=False, note=", refused for a flashed station")
    assert f"run playbooks/adopt.yml --limit {STATION}" in sentences(said)
    assert "changed=0" in said
    play("adopt", "--limit", STATION)
    assert secrets_of("controller") == secrets_of("station") == born
    play("site", "--limit", STATION, note=", of an adopted station")
    before = reboot()
    assert "Asia/Almaty" in before["files"]
    assert "school-7" in inside(STATION, "cat", "/etc/unisat-agent/agent.toml")
    said = play("site", "--limit", STATION, note=", after a reboot")
    assert re.search(rf"^{STATION} .* changed=0 ", said, re.MULTILINE)

    edit = "sed -i 's/school-7/school-8/' /boot/firmware/unisat.toml"
    inside(STATION, "sh", "-c", edit)
    assert reboot() == before
    errors = inside(STATION, "cat", "/boot/firmware/unisat-errors.txt")
    assert "[station] name: this station is set up from a controller" in errors
    wait_until(lambda: status().get("last_record"), "records flow")
    # As after a run that was killed between the writing of these files and the restarts.
    before_update = processes()
    inside(STATION, "touch", "/etc/unisat-agent/agent.toml", "/etc/unisat-kinto/secrets.env")
    play("update", "--limit", STATION, "--extra-vars", "update_backup=false")
    assert not processes() & before_update
    assert secrets_of("controller") == secrets_of("station") == born
    reboot()
    # Nothing is wrong but the edit, which status tells of as well.
    wait_until(
        lambda: all("unisat.toml" in problem for problem in status().get("problems", [""])),
        lambda: f"the station is well: {status().get('problems')}",
    )

    play("adopt", "--limit", STATION, "--extra-vars", "owner=card")
    assert "school-8" in inside(STATION, "cat", "/etc/unisat-agent/agent.toml")
