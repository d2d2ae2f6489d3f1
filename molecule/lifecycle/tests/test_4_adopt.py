"""A flashed station is taken over by a controller, and given back to its card."""

from __future__ import annotations

import re
import shutil

from life import play, sentences

from outside import inside, wait_until
from station import KEPT, STATION, flash, status

SETTINGS = """\
[station]
name = "school-7"
devices = ["u01kz"]
timezone = "Asia/Almaty"
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
    flash(STATION, SETTINGS)
    # As of an image of before.
    program = "/usr/local/lib/unisat-station/unisat_station/__init__.py"
    inside(STATION, "sh", "-c", f"echo '# old' >>{program}")
    born = secrets_of("station")

    said = play("site", check=False, note=", refused for a flashed station")
    assert f"run playbooks/adopt.yml --limit {STATION}" in sentences(said)
    assert "changed=0" in said
    play("adopt", "--limit", STATION)
    assert secrets_of("controller") == secrets_of("station") == born
    play("site", "--limit", STATION, note=", of an adopted station")
    assert "# old" not in inside(STATION, "cat", program)
    assert "python3 -BI" in inside(STATION, "cat", "/usr/local/sbin/unisat-station")
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
