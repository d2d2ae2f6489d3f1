"""What the supervisor does to a real station."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unisat_update.files import Layout, sync_all
from unisat_update.sequence import SwitchError

SWITCH_MAX_S = 3600
WELL_MAX_S = 180
ANSIBLE = "from ansible.cli.playbook import main; main()"
AGENT, KINTO = "unisat-agent.service", "unisat-kinto.service"
# Interrupted in unpacking: only the package itself repairs it.
BROKEN = "reinstreq"
# What reads a file anew when the one before comes back: the command, and how its path begins.
READERS = {
    ("systemctl", "restart", "postgresql.service"): "etc/(postgresql/|systemd/system/postgresql@)",
    ("systemctl", "restart", "memcached.service"): "etc/memcached.conf",
    ("systemctl", "restart", "containerd.service"): "etc/containerd/",
    ("systemctl", "restart", "docker.service"): "etc/docker/",
    ("systemctl", "restart", "chrony.service"): "etc/(chrony/|systemd/system/chrony)",
    ("systemctl", "reload", "unisat-firewall.service"): "etc/unisat/firewall",
    ("systemctl", "try-reload-or-restart", "nginx.service"): "etc/nginx/",
    ("systemctl", "try-reload-or-restart", "ssh.service"): "etc/ssh/",
    ("udevadm", "control", "--reload"): "etc/udev/",
}


def output(*command: str) -> str:
    """What a command prints; nothing where it is not installed or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return "" if done.returncode else done.stdout.strip()


class Station:
    """The station that this runs on."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.arch = output("dpkg", "--print-architecture")
        os_release = (layout.root / "etc/os-release").read_text(encoding="utf-8")
        said = dict(line.partition("=")[::2] for line in os_release.splitlines())
        self.suite = said.get("VERSION_CODENAME", "").strip('"')

    def has_image(self, name: str) -> bool:
        """Whether Kinto runs this image, and all its layers are intact."""
        for engine in ("docker", "podman"):
            if shutil.which(engine) is None:
                continue
            runs = output(engine, "inspect", "--format", "{{ .Config.Image }}", "unisat-kinto")
            if runs.removeprefix("localhost/") != name:
                continue
            # The engine calls a layer present whose files a power cut emptied; this reads them all.
            command = [engine, "save", name]
            done = subprocess.run(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
            )
            return not done.returncode
        return False

    def switch(self, release: Path) -> None:
        """Runs the release's own playbook on this station.

        Raises:
            SwitchError: With what the playbook says of its failure.
        """
        repair_packages(release)
        inventory = write_inventory(self.layout, release)
        project = release / "project"
        environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "LC_ALL": "C.UTF-8",
            "PYTHONPATH": f"{release / 'ansible'}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "ANSIBLE_CONFIG": f"{project / 'ansible.cfg'}",
            "ANSIBLE_COLLECTIONS_PATH": f"{release / 'ansible'}",
            # Another one may take the file for a list of hosts, and then there is nothing to do.
            "ANSIBLE_INVENTORY_ENABLED": "yaml",
            "ANSIBLE_LOCAL_TEMP": f"{self.layout.run}/ansible",
            "ANSIBLE_REMOTE_TEMP": f"{self.layout.run}/ansible",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_CALLBACKS_ENABLED": "default",
        }
        command = ["/usr/bin/python3", "-c", ANSIBLE, "-i", str(inventory), "playbooks/local.yml"]
        with subprocess.Popen(
            command,
            cwd=project,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,
        ) as process:
            watch = time.monotonic()
            assert process.stdout is not None  # noqa: S101 - a pipe
            last = ""
            with _alarm(SWITCH_MAX_S, lambda: os.killpg(process.pid, signal.SIGKILL)):
                for line in process.stdout:
                    print(line, end="", flush=True)  # noqa: T201 - for the journal
                    last = line.strip() or last
                code = process.wait()
        if code:
            took = time.monotonic() - watch
            said = f"the update did not end within {SWITCH_MAX_S // 60} minutes"
            if took < SWITCH_MAX_S:
                said = f"the update ended with exit code {code}: {last}"
            with contextlib.suppress(OSError):
                said = self.layout.failure.read_text(encoding="utf-8").strip() or said
            raise SwitchError(said.rstrip("."))
        if not self.layout.baseline.exists():
            raise SwitchError("the update ended without doing anything")

    def back(self, archive: Path, baseline: Path) -> None:
        """Unpacks the archive over the files of the new version, and starts the services anew.

        Raises:
            SwitchError: The services do not come up.
            OSError: The archive can't be unpacked.
        """
        before = json.loads(baseline.read_text(encoding="utf-8"))
        output("systemctl", "stop", AGENT)
        mark_spool(before.get("spool"))
        tar = ["tar", "-C", str(self.layout.root), "-f", str(archive)]
        compared = subprocess.run([*tar, "-dz"], capture_output=True, text=True, check=False)
        done = subprocess.run([*tar, "-xz"], capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(done.returncode, f"{archive} can't be unpacked: {done.stderr.strip()}")
        sync_all(self.layout.state)
        output("systemctl", "daemon-reload")
        for reader, beginning in READERS.items():
            if re.search(f"^{beginning}", compared.stdout, re.MULTILINE):
                output(*reader)
        # Kinto may take minutes, and the telemetry does not wait for it.
        output("systemctl", "start", "--no-block", AGENT)
        output("systemctl", "restart", "--no-block", KINTO)
        wait_until_well(self.layout, str(before.get("health", "ok")))


@contextlib.contextmanager
def _alarm(seconds: int, ring: Callable[[], None]) -> Any:
    """Calls `ring` after so many seconds, unless the block ends before."""
    before = signal.signal(signal.SIGALRM, lambda *_: ring())
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def mark_spool(before: dict[str, Any] | None) -> None:
    """Has the previous agent set a spool aside whose schema the new one has changed.

    It takes over from it what was not delivered.
    """
    if not before:
        return
    path = Path(str(before["path"]))
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            ((schema,),) = database.execute("PRAGMA user_version").fetchall()
    except sqlite3.Error:
        return
    if schema != before["schema"]:
        mark = path.with_name(f"{path.name}.suspect")
        mark.touch(mode=0o600)
        shutil.copystat(path, mark)
        os.chown(mark, path.stat().st_uid, path.stat().st_gid)


def wait_until_well(layout: Layout, health_before: str) -> None:
    """Waits until agent and Kinto answer, and the agent is no worse than it was.

    Raises:
        SwitchError: They do not.
    """
    config = tomllib.loads(layout.agent.read_text(encoding="utf-8"))
    kinto = str(config.get("local", {}).get("url", "http://127.0.0.1:8888/v1"))
    listen = config.get("status", {}).get("listen", "127.0.0.1:8890")
    asked = {"Kinto": f"{kinto}/__heartbeat__", "the agent": f"http://{listen}/healthz"}
    end = time.monotonic() + WELL_MAX_S
    while True:
        wrong = [
            f"{name} {answer}"
            for name, url in asked.items()
            if (answer := _answer(url)) and not (name == "the agent" and health_before == "failed")
        ]
        if not wrong:
            return
        if time.monotonic() > end:
            raise SwitchError(" and ".join(wrong))
        time.sleep(1)


def _answer(url: str) -> str:
    """What is wrong with an answer; nothing where it is right."""
    try:
        with urllib.request.urlopen(url, timeout=10):  # noqa: S310 - of the station itself
            return ""
    except urllib.error.HTTPError as error:
        error.close()
        return f"answers {error.code}"
    except OSError:
        return "does not answer"


def repair_packages(release: Path) -> None:
    """Finishes what an interrupted installation left; packages half unpacked are put in again."""
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    listed = output("dpkg-query", "-W", "-f=${Package}\t${db:Status-Eflag}\t${db:Status-Status}\n")
    rows = [line.split("\t") for line in listed.splitlines()]
    done = {"installed", "not-installed", "config-files"}
    if all(flag == "ok" and status in done for _, flag, status in rows):
        return
    options = ("--force-confdef", "--force-confold")
    for name in [name for name, flag, _ in rows if flag == BROKEN]:
        kept = [
            *(release / "debs").glob(f"{name}_*.deb"),
            *Path("/var/cache/apt/archives").glob(f"{name}_*.deb"),
        ]
        command = ["apt-get", "install", "--yes", "--reinstall", name]
        if kept:
            command = ["dpkg", "--install", *options, str(kept[0])]
        subprocess.run(command, env=quiet, check=False)
    subprocess.run(["dpkg", *options, "--configure", "-a"], env=quiet, check=False)


def write_inventory(layout: Layout, release: Path) -> Path:
    """The inventory of this one station, as its controller or its card's image left it.

    Raises:
        SwitchError: There is none.
    """
    kept = layout.station / "inventory.json"
    try:
        variables = json.loads(kept.read_text(encoding="utf-8"))
        manifest = json.loads((release / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SwitchError(
            f"the station does not know its own settings ({kept} is not there): run site.yml for "
            "it once, or write its card anew"
        ) from error
    name = str(variables.get("inventory_hostname") or variables.get("agent_station_name") or "")
    own = {
        key: value
        for key, value in variables.items()
        if not key.startswith(("ansible_", "inventory_"))
    }
    image = next((part["image"] for part in manifest["parts"] if part.get("image")), "")
    own |= {
        "ansible_connection": "local",
        "ansible_python_interpreter": "/usr/bin/python3",
        # The playbook makes what it needs of it, from the secrets that the station keeps.
        "unisat_secrets_dir": f"{layout.run}/secrets",
        "update_release": str(release),
        "update_image": image,
    }
    layout.run.mkdir(mode=0o700, parents=True, exist_ok=True)
    inventory = layout.run / "inventory.yml"
    number = os.open(inventory, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(number, "w", encoding="utf-8") as file:
        # JSON is YAML as well.
        json.dump({"publishers": {"hosts": {name or output("hostname"): own}}}, file)
    return inventory
