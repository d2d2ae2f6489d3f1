"""What an update of a station by itself changes, it can put back."""

from __future__ import annotations

import re

import yaml

from conftest import PROJECT

# What is the same in every version, or of no effect after the installation.
OF_NO_VERSION = (
    *("etc/localtime", "etc/hostname", "etc/postgresql-common/createcluster.conf"),
    # Secrets are made once.
    "usr/local/bin/unisat-agent",
)


def test_going_back_puts_back_every_file_that_the_roles_write() -> None:
    (play,) = yaml.safe_load((PROJECT / "playbooks/local.yml").read_text())
    tasks = {task["name"]: task for task in play["tasks"][0]["block"]}
    kept = tasks["Keep what the version before is made of"]["vars"]["also"]
    kept += re.findall(
        r"(?:etc|opt|usr)/[\w./-]+", (PROJECT / "playbooks/tasks/configuration.yml").read_text()
    )
    written = set()
    for role in (
        "base",
        "docker",
        "postgres",
        "memcached",
        "kinto",
        "agent",
        "dashboard",
        "station",
        "update",
    ):
        for file in (PROJECT / "roles" / role).glob("[tv]*/*.yml"):
            found = re.findall(r"'?dest'?: '?/((?:etc|opt|usr)/[\w./@-]+)", file.read_text())
            written |= {path.rstrip("/") for path in found}
    missing = [
        path
        for path in sorted(written)
        if path not in OF_NO_VERSION
        and not any(path == one or path.startswith(f"{one}/") for one in kept)
    ]
    assert len(written) > 20
    assert missing == []
