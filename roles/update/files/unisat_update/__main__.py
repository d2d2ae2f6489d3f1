"""unisat-update run | daily | stick DEVICE | from FILE | status."""

from __future__ import annotations

import contextlib
import fcntl
import json
import subprocess
import sys
import time
import tomllib
import urllib.parse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from unisat_update import rings
from unisat_update.files import Layout, RefusedError
from unisat_update.machine import Station, output
from unisat_update.manifest import SIGNATURE_MAX, minisign, signed_json
from unisat_update.sequence import Sequence, installed_serial, settings
from unisat_update.sources import (
    BundleFile,
    OfflineError,
    UntrustedError,
    WebBundle,
    bundles,
    read,
)
from unisat_update.tell import PROGRAM, tell

STICK = "the USB stick"
# What role firstboot's program leaves when its work is done.
FIRST_BOOT = "first-boot-done"
FIRST_BOOT_POLL_S = 5


def main(argv: list[str], layout: Layout | None = None) -> int:
    """Runs one command; returns its exit code: 0, or 1 where an update did not go well."""
    layout = layout or Layout()
    if argv == ["status"]:
        return status(layout)
    if argv[:1] not in (["run"], ["daily"], ["stick"], ["from"]):
        sys.stderr.write(f"usage: {__doc__}\n")
        return 2
    with alone(layout):
        sequence = Sequence(layout, Station(layout), partial(tell, layout), minisign)
        wait_for_first_boot(layout, sequence, partial(time.sleep, FIRST_BOOT_POLL_S))
        sequence.resume()
        match argv:
            case ["run"]:
                from_card(layout, sequence)
            case ["daily"]:
                from_web(layout, sequence)
            case ["stick", device]:
                from_stick(layout, sequence, device)
            case ["from", file] if Path(file).is_file():
                sequence.offer(BundleFile(Path(file)))
            case _:
                sys.stderr.write(f"{' '.join(argv[1:])} is not a file\n")
                return 2
    # The others are services, for which a bundle that is refused is no failure.
    return 1 if argv[0] == "from" and sequence.state.is_problem else 0


def status(layout: Layout) -> int:
    """Prints what the state is, for people."""
    file = layout.root / "run/unisat/update.json"
    said = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    sys.stdout.write(f"{said.get('said') or 'no update was installed yet'}\n")
    return 1 if said.get("problem") else 0


@contextlib.contextmanager
def alone(layout: Layout) -> Iterator[None]:
    """One at a time: the boot, the day and a stick may come together."""
    layout.run.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (layout.run / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def wait_for_first_boot(layout: Layout, sequence: Sequence, pause: Callable[[], None]) -> None:
    """Waits until a flashed station has its Kinto: both would unpack it, and make its database."""

    def is_done() -> bool:
        return not (layout.root / PROGRAM).exists() or (layout.station / FIRST_BOOT).exists()

    if is_done():
        return
    sequence.say("Update: the station looks for one when its first boot is done.")
    while not is_done():
        pause()
    sequence.say("")


def from_card(layout: Layout, sequence: Sequence) -> None:
    """Takes what lies beside unisat.toml."""
    for bundle in bundles(layout.boot) if layout.boot.is_dir() else []:
        sequence.offer(bundle)


def from_stick(layout: Layout, sequence: Sequence, device: str) -> None:
    """Takes what lies on a USB stick, whose files can run and open nothing."""
    mount = layout.run / "stick"
    mount.mkdir(exist_ok=True)
    options = "ro,noexec,nodev,nosuid"
    done = subprocess.run(
        ["mount", "-o", options, device, str(mount)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sequence.say(f"Update: {STICK} can't be read: format it as FAT32 and copy the file again.")
        return
    try:
        found = bundles(mount)
        for bundle in found:
            sequence.offer(bundle)
        if not found:
            sequence.say(f"Update: {STICK} holds no update: copy the file NAME.update onto it.")
    finally:
        output("umount", "--lazy", str(mount))


def from_web(layout: Layout, sequence: Sequence) -> None:
    """Takes what the server offers, when it is this station's turn."""
    told, card = settings(layout), applied(layout)
    base, ca = server(layout, str(told.get("url", "")))
    when = str(card.get("update.when") or told.get("when", ""))
    if not base or when == rings.MANUAL:
        return
    keys = layout.keys.glob("*.pub")
    try:
        text = read(f"{base}{rings.STABLE}", rings.STABLE_MAX, ca)
        signature = read(f"{base}{rings.STABLE}.minisig", SIGNATURE_MAX, ca)
        offer = rings.parse(signed_json(text, signature, keys, minisign), sequence.machine.arch)
    except UntrustedError as error:
        note(sequence, str(error))
        return
    except (OfflineError, RefusedError) as error:
        # Every day again, on a station without a network.
        print(f"{base}{rings.STABLE}: {error}")  # noqa: T201 - for the journal
        return
    ring = str(card.get("update.ring") or told.get("ring", ""))
    host = urllib.parse.urlsplit(base).hostname
    if offer is None or offer.serial <= sequence.newest(installed_serial(layout)):
        runs = sequence.state.running.version
        note(sequence, f"{host} offers nothing newer than {runs or 'what runs here'}")
    elif not rings.joins(str(told.get("name", "")), offer, ring=ring, when=when):
        note(sequence, f"{host} offers version {offer.version}; this station has its turn later")
    elif offer.serial not in sequence.state.failed:
        sequence.offer(WebBundle(base, offer.manifest, ca))


def note(sequence: Sequence, sentence: str) -> None:
    """Tells what came of looking, unless something graver is to be told."""
    if not sequence.state.is_problem:
        sequence.say(f"Update: {sentence}.")


def applied(layout: Layout) -> dict[str, object]:
    """What unisat.toml on the card said."""
    try:
        said = json.loads((layout.station / "applied.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def server(layout: Layout, url: str) -> tuple[str, Path | None]:
    """The folder that updates come from, and whose certificate it has: by default the hub's."""
    try:
        hub = tomllib.loads(layout.agent.read_text(encoding="utf-8")).get("hub", {})
    except (OSError, ValueError):
        hub = {}
    ca = Path(str(hub["ca_file"])) if hub.get("ca_file") else None
    if url == "none":
        return "", None
    if url:
        return f"{url.rstrip('/')}/", None
    found = str(hub.get("url", "")).rstrip("/").removesuffix("/v1")
    return (f"{found}/updates/", ca) if found else ("", None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
