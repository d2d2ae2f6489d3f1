"""A Raspberry Pi that is not there: the image in QEMU, with its serial console and its plugs.

with Machine(card, directory) as machine:
    machine.power_on()
    machine.log_in("pi", password)
    print(machine.run("systemctl --failed"))
    machine.cut_power(random.Random(7))       # see powercut.py
    machine.power_on(hub_port=8888)           # the same card, now with a network
"""

from __future__ import annotations

import base64
import json
import random
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from card import Card, run, without_boot
from console import Console
from powercut import Applied, TornLogError, apply
from rig.processes import Process, program
from rig.wait import wait_until

MEMORY_MB = 2048
LOGIN_S = 420
COMMAND_S = 180
HUB_ADDRESS = "10.0.2.100"
HUB_PORT = 8888


# The kernel would read the whole table anew only when nothing of the card is in use.
_BRING_BOOT = """
import os, subprocess, sys
card = os.open("/dev/vda", os.O_WRONLY)
os.pwrite(card, bytes.fromhex(sys.argv[1]), 0)
os.fsync(card)
subprocess.run(["partx", "--add", "--nr", "1", "/dev/vda"], check=True)
"""


class MachineError(AssertionError):
    """The machine did not do what was asked; with the end of its console."""


@dataclass(frozen=True, slots=True)
class Done:
    """A command that ran inside."""

    code: int
    output: str


def free_port() -> int:
    """A TCP port of the loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def command_line(cmdline: str, *consoles: str) -> str:
    """The image's own kernel command line, with other consoles."""
    words = [word for word in cmdline.split() if not word.startswith("console=")]
    return " ".join([*(f"console={console}" for console in consoles), *words])


class Machine:
    """A card in a QEMU machine; a context manager that leaves no process behind.

    Args:
        card: What it boots from.
        directory: For the console's log and what exists while it runs.
        model: "virt", or "raspi3b", which has neither USB serial port nor network here.
    """

    def __init__(self, card: Card, directory: Path, model: str = "virt") -> None:
        self.card = card
        self.model = model
        self.ssh_port = 0
        self.page_port = 0
        self._directory = directory
        self._process: Process | None = None
        self._console: Console | None = None
        self._satellite_port = free_port()
        self._times = 0
        self._sticks = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end(signal.SIGKILL)

    @property
    def console(self) -> Console:
        """The console of this time of power, or of the last."""
        assert self._console is not None, "the machine was never switched on"
        return self._console

    @property
    def running(self) -> bool:
        """Whether it has power."""
        return self._process is not None and self._process.running()

    # Power

    def power_on(self, hub_port: int | None = None, *, boot_is_late: bool = False) -> None:
        """Switches it on.

        Args:
            boot_is_late: The boot partition is not there before `bring_boot_partition`.
            hub_port: Plugs in a network, in which there is nothing but a hub: this port of the
                host's loopback, as `HUB_ADDRESS:HUB_PORT`. And ssh and the page from the host.
        """
        assert not self.running, "the machine is on"
        self._times += 1
        for name in ("overlay", "writes", "console", "qmp"):
            (self._directory / name).unlink(missing_ok=True)
        kernel = self._kernel()
        self._make_drive(without_boot(self.card.table) if boot_is_late else None)
        command = [program("setpriv"), "--pdeathsig", "KILL", "--", "qemu-system-aarch64"]
        command += ["-M", self.model, "-no-reboot", "-display", "none", "-monitor", "none"]
        command += ["-qmp", f"unix:{self._directory}/qmp,server=on,wait=off"]
        command += self._virt(hub_port) if self.model == "virt" else self._raspi()
        command += kernel
        self._process = Process(command, self._directory / f"qemu{self._times}.log")
        try:
            self._console = Console(
                self._directory / "console", self._directory / f"console{self._times}.log"
            )
        except AssertionError as error:
            raise MachineError(f"QEMU did not start: {self._process.tail()}") from error

    def _kernel(self) -> list[str]:
        names = self.card.names()
        found = []
        for option, wanted in (("-kernel", ("vmlinuz", "kernel8")), ("-initrd", ("initr",))):
            name = next((one for one in sorted(names) if one.lower().startswith(wanted)), None)
            if name is None:
                raise MachineError(f"the boot partition has no {wanted[0]}*: {sorted(names)}")
            found += [option, str(self.card.extract(name, self._directory / option[1:]))]
        # systemd tells its steps on the last one.
        consoles = ("tty1", "ttyAMA0") if self.model == "virt" else ("ttyS1,115200",)
        words = command_line(self.card.read("cmdline.txt"), *consoles)
        if self.model != "virt":
            # QEMU's Pi restarts as soon as its watchdog is armed, and not when it runs out.
            words += " modprobe.blacklist=bcm2835_wdt"
        return [*found, "-append", f"{words} audit=0 net.ifnames=0"]

    def _make_drive(self, table: bytes | None) -> None:
        overlay = str(self._directory / "overlay")
        backing = str(self.card.path.resolve())
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", backing, "-F", "raw", overlay)
        if table is not None:
            sector = self._directory / "table"
            sector.write_bytes(table)
            run("qemu-io", "-f", "qcow2", "-c", f"write -q -s {sector} 0 {len(table)}", overlay)
        (self._directory / "writes").touch()

    def _drive(self) -> list[str]:
        """The card as a block device; nothing is synchronised on the host, which stays up."""
        overlay, log = self._directory / "overlay", self._directory / "writes"
        words = [
            *("driver=blklogwrites", "node-name=card"),
            *("file.driver=qcow2", "file.file.driver=file", f"file.file.filename={overlay}"),
            *("file.cache.no-flush=on", "log.driver=file", f"log.filename={log}"),
            "log.cache.no-flush=on",
        ]
        return ["-blockdev", ",".join(words)]

    def _virt(self, hub_port: int | None) -> list[str]:
        words = ["-cpu", "cortex-a72", "-smp", "2", "-m", str(MEMORY_MB), *self._drive()]
        words += ["-device", "virtio-blk-pci,drive=card", "-device", "virtio-rng-pci"]
        words += ["-device", "virtio-gpu-pci,romfile=,xres=800,yres=480"]
        words += ["-chardev", f"socket,id=con,path={self._directory}/console,server=on,wait=on"]
        words += ["-serial", "chardev:con", "-device", "qemu-xhci"]
        # Plugged in while something is connected: a satellite of the host.
        usb = f"socket,id=usb,host=127.0.0.1,port={self._satellite_port},server=on,wait=off"
        words += ["-chardev", usb, "-device", "usb-serial,chardev=usb"]
        if hub_port is None:
            return [*words, "-nic", "none"]
        self.ssh_port, self.page_port = free_port(), free_port()
        # restrict=on: the guest reaches what is named here, and nothing else.
        hub = f"guestfwd=tcp:{HUB_ADDRESS}:{HUB_PORT}-cmd:socat STDIO TCP:127.0.0.1:{hub_port}"
        ports = ((self.ssh_port, 22), (self.page_port, 80))
        forward = ",".join(f"hostfwd=tcp:127.0.0.1:{here}-:{there}" for here, there in ports)
        words += ["-netdev", f"user,id=net,restrict=on,{forward},{hub}"]
        return [*words, "-device", "virtio-net-pci,netdev=net,romfile="]

    def _raspi(self) -> list[str]:
        name = next(one for one in self.card.names() if one.endswith("bcm2837-rpi-3-b.dtb"))
        words = ["-dtb", str(self.card.extract(name, self._directory / "dtb"))]
        words += ["-drive", f"if=sd,format=qcow2,file={self._directory}/overlay"]
        words += ["-serial", "null", "-chardev"]
        words += [f"socket,id=con,path={self._directory}/console,server=on,wait=on"]
        usb = f"socket,id=usb,host=127.0.0.1,port={self._satellite_port},server=on,wait=off"
        return [*words, "-serial", "chardev:con", "-chardev", usb, "-device",
                "usb-serial,chardev=usb"]  # fmt: skip

    def cut_power(self, chance: random.Random) -> Applied:
        """Takes the power away; says what the card has kept."""
        assert self.running, "the machine is off"
        return self._end(signal.SIGKILL, chance)

    def power_off(self) -> Applied:
        """Shuts it down in order; returns what was written while it was on."""
        self._shut_down("poweroff")
        return self._end(signal.SIGTERM)

    def reboot(self, hub_port: int | None = None) -> Applied:
        """Restarts it in order, with the kernel that the card has now."""
        self._shut_down("reboot")
        applied = self._end(signal.SIGTERM)
        self.power_on(hub_port)
        return applied

    def _shut_down(self, how: str) -> None:
        # A reboot ends QEMU as well (-no-reboot), so that the card can be looked at in between.
        self.console.send(f"sudo systemctl {how}\n")
        wait_until(lambda: not self.running, COMMAND_S, lambda: f"the {how}: {self.tail()}", 0.2)

    def _end(self, number: signal.Signals, chance: random.Random | None = None) -> Applied:
        process, self._process = self._process, None
        if process is None:
            return Applied(0, 0, 0)
        process.end(number)
        self.console.close()
        log = self._directory / "writes"
        try:
            applied = apply(log, self.card.path, chance)
        except TornLogError as error:
            # The overlay has every write, flushed or not.
            print(f"power cut without loss of what was not flushed: {error}")
            run("qemu-img", "commit", "-q", str(self._directory / "overlay"))
            applied = Applied(0, 0, 0)
        log.unlink()
        return applied

    # The screen and the console

    def picture(self, file: Path) -> None:
        """Takes a picture (PNG) of what the screen shows now."""
        self._control("screendump", filename=str(file.resolve()), format="png")

    def _control(self, name: str, **arguments: Any) -> None:
        """Has QEMU itself do something (QMP)."""
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(COMMAND_S)
            control.connect(str(self._directory / "qmp"))
            with control.makefile("rw", encoding="utf-8") as talk:
                talk.readline()
                for command, words in (("qmp_capabilities", {}), (name, arguments)):
                    talk.write(json.dumps({"execute": command, "arguments": words}) + "\n")
                    talk.flush()
                    answer: dict[str, Any] = {}
                    while not answer.keys() & {"return", "error"}:  # events come in between
                        answer = json.loads(talk.readline())
                    if "error" in answer:
                        raise MachineError(f"{command}: {answer['error']['desc']}")

    # The USB stick

    def plug_stick(self, image: Path) -> None:
        """Plugs a USB stick into the running machine; another one has to be pulled out before."""
        self._sticks += 1
        node = f"stick{self._sticks}"
        file = {"driver": "file", "filename": str(image.resolve())}
        self._control(
            "blockdev-add", **{"driver": "raw", "node-name": node, "read-only": True, "file": file}
        )
        self._control("device_add", driver="usb-storage", id=node, drive=node)

    def pull_stick(self) -> None:
        """Pulls the USB stick out."""
        self._control("device_del", id=f"stick{self._sticks}")

    def tail(self) -> str:
        """The end of what the console said."""
        return self.console.text()[-3000:]

    def wait_console(self, pattern: str, deadline_s: float, since: int = 0) -> None:
        """Waits until the console has said something."""

        def look() -> bool:
            if self.console.find(pattern, since):
                return True
            if not self.running:
                raise MachineError(f"the machine has ended: {self.tail()}")
            return False

        wait_until(look, deadline_s, lambda: f"{pattern!r} on the console: {self.tail()}", 0.2)

    def log_in(self, user: str, password: str) -> None:
        """Logs in on the serial console, as a person does."""
        self.wait_console(r"login: ?", LOGIN_S)
        here = self.console.position()
        self.console.send("\n")
        self.wait_console(r"login: ?", 60, here)
        for answer, prompt in ((user, r"[Pp]assword: ?"), (password, r"[$#] ?$|incorrect")):
            here = self.console.position()
            self.console.send(f"{answer}\n")
            self.wait_console(prompt, 120, here)
        if self.console.find("incorrect", here):
            raise MachineError(f"{user} can't log in: {self.tail()}")
        # Nothing but answers from here on; the kernel's own lines would fall between them. It is
        # waited for, since sudo takes what is typed ahead for its own command.
        self._ask("stty -echo; PS1= PS2=; unset PROMPT_COMMAND; sudo dmesg -n 1", COMMAND_S)

    def run(self, command: str, deadline_s: float = COMMAND_S, *, check: bool = True) -> str:
        """Runs a shell command over the console as the user who logged in; returns its output."""
        done = self.attempt(command, deadline_s)
        if check and done.code:
            raise MachineError(f"{command}: exit {done.code}\n{done.output}")
        return done.output

    def attempt(self, command: str, deadline_s: float = COMMAND_S) -> Done:
        """Runs a shell command over the console, whatever its exit code."""
        file = "/tmp/.said"  # noqa: S108 - of the guest, where nobody else is
        self._ask(f"( {command}\n) >{file} 2>&1 </dev/null; echo $? >{file}.code", deadline_s)
        crc = f"""python3 -c 'import zlib;print(zlib.crc32(open("{file}","rb").read()))'"""
        # Services write to the console as well: an answer they fell into is asked for again. All
        # of it is said at once, that less falls into it.
        for _ in range(5):
            said = self._ask(
                f'echo "=$(base64 -w0 {file}):$({crc}):$(cat {file}.code)#"', COMMAND_S
            )
            if found := re.search(r"=([A-Za-z0-9+/=]*):(\d+):(\d+)#", said):
                with suppress(ValueError):
                    body = base64.b64decode(found[1], validate=True)
                    if zlib.crc32(body) == int(found[2]):
                        return Done(int(found[3]), body.decode(errors="replace"))
        raise MachineError(f"no whole answer on the console: {self.tail()}")

    def _ask(self, command: str, deadline_s: float) -> str:
        mark = f"{time.monotonic_ns():x}"
        here = self.console.position()
        # The quotes keep the mark's echo, if there is one, from being taken for the mark.
        self.console.send(f"echo; echo '<'{mark}; {command}; echo; echo '>'{mark}\n")
        self.wait_console(f"^>{mark}$", deadline_s, here)
        found = self.console.find(rf"(?s)^<{mark}$(.*)^>{mark}$", here)
        assert found is not None, "the end of an answer without its beginning"
        return found.group(1)

    def python(self, script: str, *words: str) -> str:
        """Runs a Python script inside as root."""
        packed = base64.b64encode(zlib.compress(script.encode(), 9)).decode()
        code = f"import base64,zlib;exec(zlib.decompress(base64.b64decode('{packed}')))"
        return self.run(f"sudo python3 -c {shlex.quote(code)} {shlex.join(words)}")

    def bring_boot_partition(self) -> None:
        """The partition that `power_on` kept away comes, as of a card that has come to itself."""
        self.python(_BRING_BOOT, self.card.table.hex())

    # ssh

    def ssh(self, key: Path, *command: str) -> subprocess.CompletedProcess[str]:
        """Runs a command over ssh as `pi` with a key."""
        known = self._directory / "known_hosts"
        options = {
            "BatchMode": "yes", "StrictHostKeyChecking": "accept-new", "ConnectTimeout": "60",
            "UserKnownHostsFile": known, "IdentitiesOnly": "yes",
        }  # fmt: skip
        words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        known.unlink(missing_ok=True)
        return subprocess.run(
            ["ssh", *words, "-i", str(key), "-p", str(self.ssh_port), "pi@127.0.0.1", *command],
            check=False, capture_output=True, text=True, timeout=COMMAND_S,
        )  # fmt: skip

    # The satellite

    def satellite(self, journal: Path, device: str, *words: str) -> Process:
        """Plugs in a satellite; it sends until its process is ended."""
        address = f"127.0.0.1:{self._satellite_port}"
        return Process(
            [
                *(program("setpriv"), "--pdeathsig", "KILL", "--"),
                *(sys.executable, "-m", "unisat_agent", "simulate", "--connect", address),
                *("--devices", device, "--journal", str(journal), *words),
            ],
            journal.with_suffix(".log"),
        )

    def wait(
        self, condition: Callable[[], object], deadline_s: float, why: str, step_s: float = 1.0
    ) -> None:
        """Waits for something, and shows the console's end where it does not come."""
        wait_until(condition, deadline_s, lambda: f"{why}; {self.tail()}", step_s)
