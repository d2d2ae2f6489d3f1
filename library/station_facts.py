"""Ansible module: what the roles have to know of a host before they change it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.facts.system.chroot import is_chroot

DOCUMENTATION = r"""
module: station_facts
short_description: Sees what is installed on a host, and whether an installation was interrupted
description:
  - C(packages) holds what is installed, by name, in the form of ansible.builtin.package_facts. A
    package that was unpacked and not set up, which that module takes for installed, is not in it.
  - C(postgres_clusters) holds the database clusters that were made whole, such as C(17/main).
  - C(kinto_clusters) holds those of them that this product configured, by version, with what starts
    them, V(auto) or V(manual). An upgrade leaves the older one V(manual) until it is proven.
  - C(install_interrupted) says that apt was cut off, which C(dpkg --configure -a) finishes.
  - C(docker_guests) names the containers of docker that are not this product's.
  - C(var_free_mb) says how much of the disk is free under C(/var).
  - C(station) says who owns the settings, V(card) (unisat.toml) or V(controller), whether the
    program for the card is there, and what the card goes on to set.
author: UniSat
"""

EXAMPLES = r"""
- name: See what is there
  station_facts:
"""

QUERY = ["dpkg-query", "-W", "-f=${Package}\t${Version}\t${Architecture}\t${db:Status-Status}\n"]
JOURNAL = Path("/var/lib/dpkg/updates")
OWN_CONTAINER = "unisat-kinto"
CLUSTERS = Path("/etc/postgresql")
# What ansible.builtin.apt writes for the time that it runs, so that no service starts by itself.
POLICY, NOTHING_STARTS = Path("/usr/sbin/policy-rc.d"), "#!/bin/sh\nexit 101\n"


def packages(listing: str) -> tuple[dict[str, list[dict[str, str]]], bool]:
    """The installed packages by name, and whether others wait to be set up."""
    found: dict[str, list[dict[str, str]]] = {}
    waiting = False
    for line in listing.splitlines():
        name, version, arch, status = line.split("\t")
        if status == "installed":
            package = {"name": name, "version": version, "arch": arch, "source": "apt"}
            found.setdefault(name, []).append(package)
        elif status not in {"config-files", "not-installed"}:
            waiting = True
    return found, waiting


def clusters() -> list[str]:
    """The clusters of PostgreSQL that pg_createcluster has finished: this line is its last."""
    return [
        f"{file.parent.parent.name}/{file.parent.name}"
        for file in sorted(CLUSTERS.glob("*/*/postgresql.conf"))
        if re.search(r"^include_dir\b", file.read_text(errors="replace"), re.MULTILINE)
    ]


def kinto_clusters(etc: Path) -> dict[str, str]:
    """What starts the main cluster of each version that has this product's settings."""
    return {
        file.parents[2].name: next(
            (
                line.strip()
                for line in (file.parents[1] / "start.conf").read_text().splitlines()
                if line.strip() and not line.startswith("#")
            ),
            "auto",
        )
        for file in sorted(etc.glob("*/main/conf.d/unisat.conf"))
        if (file.parents[1] / "start.conf").exists()
    }


def docker_guests(root: Path) -> list[str]:
    """The containers that somebody else runs here; read from docker's files, for it may be off."""
    names = []
    for file in sorted((root / "var/lib/docker/containers").glob("*/config.v2.json")):
        try:
            name = str(json.loads(file.read_text(encoding="utf-8")).get("Name", "")).strip("/")
        except (OSError, ValueError):
            continue
        if name and name != OWN_CONTAINER:
            names.append(name)
    return names


def station(root: Path) -> dict[str, Any]:
    """Who owns the settings, and what unisat.toml on the card sets of them in any case."""
    state = root / "var/lib/unisat-station"
    program = (root / "usr/local/sbin/unisat-station").exists()
    owner = state / "owner"
    try:
        card = json.loads((state / "applied.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        card = {}
    said = owner.read_text(encoding="utf-8").strip() if owner.exists() else ""
    return {
        "owner": said or ("card" if program else "controller"),
        "has_program": program,
        "first_boot_done": not program or (state / "first-boot-done").exists(),
        "timezone": card.get("station.timezone", "") if program else "",
    }


def policy_left(module: AnsibleModule) -> bool:
    """Whether apt's caller was killed and left the rule behind that nothing is to start."""
    # In the chroot of an image it is the builder's.
    left = POLICY.is_file() and POLICY.read_text() == NOTHING_STARTS
    return left and not is_chroot(module)


def main() -> None:
    """Look, and change nothing."""
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    _, listing, _ = module.run_command(QUERY, check_rc=True)
    found, waiting = packages(listing)
    journal = any(file.name.isdigit() for file in JOURNAL.iterdir())
    facts: dict[str, Any] = {
        "packages": found,
        "postgres_clusters": clusters(),
        "kinto_clusters": kinto_clusters(CLUSTERS),
        "install_interrupted": waiting or journal or policy_left(module),
        "station": station(Path("/")),
        "docker_guests": docker_guests(Path("/")),
        "var_free_mb": shutil.disk_usage("/var").free >> 20,
    }
    module.exit_json(changed=False, ansible_facts=facts)


if __name__ == "__main__":
    main()
