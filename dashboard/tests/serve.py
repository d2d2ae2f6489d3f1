"""What the browser tests look at: a simulated satellite, the agent, two Kintos and nginx, all real.

nginx runs the role's own configuration on a free port; the local Kinto has the plugin, on
PostgreSQL. The program prints one line of JSON with the address and the processes' ids, then obeys
one command a line on standard input and answers each with "done":

    cut, open          the network between agent and hub
    unplug, plug       the satellite's cable
    kill-agent, start-agent
    stop-kinto, start-kinto        the local one
    history DEVICE HOURS           records in the local Kinto that the spool never had
    update JSON                    what the station's supervisor says of an update
    send TEXT          bytes on the second port, written as a JSON string
    flood BYTES        a package there with a field name of so many bytes

With UNISAT_HUB_URL and UNISAT_HUB_PASSWORD the agent sends to that hub, as account `browser`.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import jinja2
import requests
import yaml
from hub import PLUGIN, package

from rig import reserve_port
from rig.cable import Cable
from rig.kinto import BUCKET, Kinto
from rig.servers import Memcached, Postgres
from rig.valve import Mode, Valve
from rig.wait import wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
ROLE = REPOSITORY / "roles/dashboard"
DEVICES = ("sim01", "sim02")
OLD = "old01"


def nginx_conf(directory: Path, port: int, agent: int, kinto: int) -> Path:
    """A configuration around the role's own server block."""
    template = (ROLE / "templates/unisat-dashboard.conf.j2").read_text()
    defaults = yaml.safe_load((ROLE / "defaults/main.yml").read_text())
    values = defaults | {
        "dashboard_port": port,
        "dashboard_agent_port": agent,
        "dashboard_kinto_port": kinto,
        "__dashboard_root": str(REPOSITORY / "build/dashboard"),
        "__dashboard_names": ["station"],
    }
    site = directory / "site.conf"
    site.write_text(jinja2.Template(template, undefined=jinja2.StrictUndefined).render(values))
    temporary = "\n".join(
        f"{name}_temp_path {directory}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    conf = directory / "nginx.conf"
    conf.write_text(
        f"daemon off;\npid {directory}/nginx.pid;\nerror_log {directory}/nginx.log;\n"
        f"events {{}}\nhttp {{\ninclude /etc/nginx/mime.types;\n{temporary}\ninclude {site};\n}}\n"
    )
    return conf


class Station:
    """The running parts; `close` ends them."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory = directory
        self._stack = stack
        passwords = {name: secrets.token_hex(12) for name in ("local", "hub")}
        postgres = stack.enter_context(Postgres())
        self._postmaster = postgres.directory / "data/postmaster.pid"
        self.local = local = Kinto(
            directory,
            "local",
            storage_url=postgres.url(postgres.new_database()),
            memcached=stack.enter_context(Memcached()).address,
            settings=PLUGIN,
        )
        stack.callback(local.close)
        hub_url = os.environ.get("UNISAT_HUB_URL", "")
        if hub_url:
            passwords["hub"] = os.environ["UNISAT_HUB_PASSWORD"]
            hub_port = int(hub_url.rpartition(":")[2])
            local.start()
        else:
            hub = Kinto(directory, "hub")
            stack.callback(hub.close)
            with ThreadPoolExecutor(2) as both:
                list(both.map(Kinto.start, (local, hub)))
            hub.provision_hub("browser", passwords["hub"], [*DEVICES, OLD, "wrong"])
            hub_port = hub.port
        local.provision_local(passwords["local"])
        self.valve = stack.enter_context(Valve("127.0.0.1", hub_port))
        self.cable = Cable(directory / "usb-second")
        stack.callback(self.cable.close)
        self._agent_port = stack.enter_context(reserve_port()).getsockname()[1]
        self.port: int = stack.enter_context(reserve_port()).getsockname()[1]
        for name, password in passwords.items():
            secret = directory / f"{name}.password"
            secret.touch(mode=0o600)
            secret.write_text(password)
        (directory / "agent.toml").write_text(
            f'[station]\nname = "browser"\n[spool]\npath = "{directory}/spool.db"\n'
            f'[[serial]]\nport = "{directory}/usb-UniSat"\n'
            f'[[serial]]\nport = "{self.cable.name}"\n'
            f'[local]\nurl = "{local.url}"\npassword_file = "{directory}/local.password"\n'
            f'[hub]\nurl = "http://127.0.0.1:{self.valve.port}/v1"\nuser = "browser"\n'
            f'password_file = "{directory}/hub.password"\n'
            f'[clock]\nsynchronised = "always"\n'
            f'[status]\nlisten = "127.0.0.1:{self._agent_port}"\n'
            f'notices = "{directory}/notices"\n'
        )
        self.agent = self.start_agent()
        self.satellite = self._run(
            "satellite",
            *(sys.executable, "-m", "unisat_agent.simulator.run"),
            *("--link", f"{directory}/usb-UniSat", "--devices", ",".join(DEVICES)),
            *("--interval", "1.25", "--faults", "garbage,nan,missing"),
        )
        conf = nginx_conf(directory, self.port, self._agent_port, local.port)
        command = ("nginx", "-c", str(conf), "-e", str(directory / "nginx.log"))
        self.nginx = self._run("nginx", *command)

    def start_agent(self) -> subprocess.Popen[bytes]:
        """Starts the agent on the spool that is there."""
        config = str(self._directory / "agent.toml")
        command = (sys.executable, "-m", "unisat_agent", "--config", config, "run")
        self.agent = self._run("agent", *command)
        return self.agent

    def _run(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        with (self._directory / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._stack.callback(_end, process)
        return process

    def processes(self) -> dict[str, int | None]:
        """The ids of what runs on a station."""
        return {
            "agent": self.agent.pid,
            "nginx": self.nginx.pid,
            "Kinto": self.local.pid,
            "PostgreSQL": int(self._postmaster.read_text().split()[0]),
        }

    def answers(self) -> bool:
        """Whether the agent answers through nginx."""
        if self.agent.poll() is not None:
            raise RuntimeError((self._directory / "agent.log").read_text())
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/status", timeout=5):
                return True
        except OSError:
            return False

    def obey(self, command: str, argument: str) -> None:
        """Carries out one command."""
        if command == "cut":
            self.valve.set(Mode.CUT)
        elif command == "open":
            self.valve.set(Mode.OPEN)
        elif command == "unplug":
            self.satellite.send_signal(signal.SIGUSR1)
        elif command == "plug":
            self.satellite.send_signal(signal.SIGUSR2)
        elif command == "kill-agent":
            self.agent.kill()
            self.agent.wait()
        elif command == "start-agent":
            self.start_agent()
            wait_until(self.answers, 60, "the agent to answer through nginx", 0.1)
        elif command == "stop-kinto":
            self.local.terminate()
        elif command == "start-kinto":
            self.local.start()
        elif command == "history":
            device, hours = argument.split(" ")
            self._history(device, int(hours))
        elif command == "update":
            (self._directory / "update.json").write_text(argument)
        elif command == "send":
            self._send(json.loads(argument).encode())
        elif command == "flood":
            self._send(b"\r\ndevID=flood\r\n" + b"x" * int(argument) + b"=1\r\n")
            self._send(b"temperature=1\r\nhumidity=2\r\npressure=3\r\npm25=4\r\n\r\n")
        else:
            raise ValueError(f"unknown command: {command}")

    def _history(self, device: str, hours: int) -> None:
        """A record a minute, up to an hour ago."""
        path = f"{self.local.url}/buckets/{BUCKET}/collections/{device}"
        session = requests.Session()
        session.auth = ("admin", self.local.admin_password)
        # As the agent makes it, which may not have come to it yet.
        rights = {"write": ["account:agent"]}
        session.put(path, json={"permissions": rights}, timeout=60).raise_for_status()
        begun = time.time() - 3600 * (hours + 1)
        count = 60 * hours
        records = [package(device, n, begun + 60 * n, epoch=device) for n in range(1, count + 1)]
        session.post(f"{path}/records:ingest", json=records, timeout=60).raise_for_status()

    def _send(self, data: bytes) -> None:
        while data:
            data = data[self.cable.write(data) :]


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(30)


def main() -> None:
    """Runs until standard input ends."""
    os.environ["PATH"] += ":/usr/sbin"
    with tempfile.TemporaryDirectory(prefix="unisat-page-") as name, ExitStack() as stack:
        station = Station(Path(name), stack)
        wait_until(station.answers, 60, "the agent to answer through nginx", 0.1)
        said = {"url": f"http://127.0.0.1:{station.port}", "processes": station.processes()}
        print(json.dumps(said), flush=True)
        for line in sys.stdin:
            command, _, argument = line.strip().partition(" ")
            station.obey(command, argument)
            print("done", flush=True)


if __name__ == "__main__":
    main()
