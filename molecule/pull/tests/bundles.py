"""The bundles: real ones that `image/update` makes of other trees, and spoiled ones."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tarfile
from pathlib import Path

from outside import PROJECT, run
from station import KEPT

ARCH = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
OUT = KEPT / "update"
MANIFEST = "manifest.json"
# Later than any commit: serial numbers only rise.
SERIAL = 4_000_000_000
GOOD, USELESS, CRASHING, HANGING = "2.0", "2.1-useless", "2.2-crashing", "2.3-hanging"
VERSIONS = (GOOD, USELESS, CRASHING, HANGING)

# Starts, says that it is ready, and reads nothing: only a look at the records finds that out.
READS_NOTHING = """

def _run(args: argparse.Namespace) -> int:
    import os
    import socket
    import time

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
    time.sleep(1000)
    return 0
"""
# Takes connections and answers none of them.
HANGS = "import socket, time; s = socket.create_server(('127.0.0.1', 8888)); time.sleep(9999)"


def serial(version: str) -> int:
    """The serial number of a version."""
    return SERIAL + VERSIONS.index(version)


def bundle(version: str) -> Path:
    """The file of a version."""
    return OUT / version / f"unisat-{version}-{ARCH}.update"


def change(file: Path, pattern: str, by: str) -> None:
    """Changes the one place of a file that a pattern fits, where ^ and $ are a line's."""
    text, count = re.subn(pattern, lambda _: by, file.read_text(), flags=re.MULTILINE)
    assert count == 1, f"{file}: {pattern} fits {count} times"
    file.write_text(text)


def tree(version: str) -> Path:
    """A copy of this repository that is another version."""
    folder = KEPT / f"tree-{version}"
    folder.mkdir()
    copy = f"git ls-files -z ':!docs' ':!dashboard' | tar --null -T - -c | tar -x -C '{folder}'"
    run("sh", "-ec", f"cd '{PROJECT}' && {copy}")
    (folder / "build").mkdir()
    (folder / "build/dashboard").symlink_to(PROJECT / "build/dashboard")
    agent, roles = folder / "agent", folder / "roles"
    # A default that no inventory and no card names.
    history = f"agent_history_days: {8 + VERSIONS.index(version)}"
    change(roles / "agent/defaults/main.yml", r"^agent_history_days: \d+", history)
    # Two agents are enough, for each takes its time to be packed.
    number = int(version == USELESS)
    change(agent / "pyproject.toml", "^version = .*", f'version = "9.0.{number}"')
    if version == USELESS:
        change(agent / "src/unisat_agent/cli/run.py", r"\Z", READS_NOTHING)
    if version == CRASHING:
        unit = roles / "agent/templates/unisat-agent.service.j2"
        change(unit, "^ExecStart=.*", "ExecStart=/bin/false")
    if version == HANGING:
        unit = roles / "kinto/templates/unisat-kinto.service.j2"
        image = "    {{ __kinto_image }}$"
        change(unit, image, f'    --entrypoint /usr/bin/python3 {image.strip(" $")} -c "{HANGS}"')
        # systemd itself would wait for a minute and a half.
        change(unit, "^ExecStartPost=.*\n", "")
    run("git", "-C", str(folder), "init", "--quiet")
    run("git", "-C", str(folder), "add", "--all", "--force", ".")
    return folder


def make_all() -> None:
    """Makes the bundle of every version, side by side."""
    makers = {}
    for version in VERSIONS:
        folder = tree(version)
        command = [
            *(f"{folder}/image/update", "--key", f"{KEPT}/ours.key", "--arch", ARCH),
            *("--version", version, "--serial", str(serial(version)), "--percent", "100"),
            *("--out", str(OUT / version)),
        ]
        makers[version] = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    for version, maker in makers.items():
        said, _ = maker.communicate()
        assert maker.returncode == 0, f"{version}: {said}"


def spoil(name: str, key: str = "ours", **values: object) -> Path:
    """The good version with other words in its manifest, signed anew; its parts are left out."""
    file = KEPT / f"{name}.update"
    with tarfile.open(bundle(GOOD)) as whole:
        manifest = whole.extractfile(MANIFEST)
        assert manifest is not None
        said = json.load(manifest) | values
    folder = KEPT / name
    folder.mkdir()
    (folder / MANIFEST).write_text(json.dumps(said))
    run("minisign", "-S", "-s", f"{KEPT}/{key}.key", "-m", f"{folder}/{MANIFEST}")
    with tarfile.open(file, "w", format=tarfile.USTAR_FORMAT) as tar:
        for member in (MANIFEST, f"{MANIFEST}.minisig"):
            tar.add(folder / member, member)
    return file
