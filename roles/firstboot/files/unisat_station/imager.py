"""What Raspberry Pi Imager set, beside unisat.toml: cloud-init applies it, once.

Imager writes cloud-init's files onto the boot partition. cloud-init holds up the start of whatever
has to wait for it, so it runs only where these files say something that was not applied yet. What
unisat.toml says goes before: it is applied once more when cloud-init has ended.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from unisat_station.machine import run, write

FILES = ("user-data", "network-config")
BOOT = Path("/boot/firmware")
SHADOW = Path("/etc/shadow")
APPLIED = Path("/var/lib/unisat-station/imager-applied")
# cloud-init's units start only where it is there; it has the password of `pi` to come back to.
WANTED = Path("/run/unisat/imager")


def prepare(*, keep_password: bool) -> None:
    """Lets cloud-init start where Imager set something new.

    Args:
        keep_password: unisat.toml set the one that `pi` has now; cloud-init may set another.
    """
    digest = _digest()
    kept = APPLIED.read_text(encoding="utf-8").strip() if APPLIED.exists() else ""
    if digest in {"", kept}:
        WANTED.unlink(missing_ok=True)
        return
    write(WANTED, _password() if keep_password else "", 0o600)


def finish() -> None:
    """Puts back the password that unisat.toml set, and remembers that all of it was applied.

    Raises:
        StationError: The password could not be set; cloud-init runs again at the next start.
    """
    password = WANTED.read_text(encoding="utf-8") if WANTED.exists() else ""
    if password and password != _password():
        run("chpasswd", "--encrypted", given=f"pi:{password}\n")
    write(APPLIED, _digest() + "\n")


def _digest() -> str:
    """A hash of what Imager's files say; empty where they only have comments."""
    said = []
    for name in FILES:
        path = BOOT / name
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        said += [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return hashlib.sha256("\n".join(said).encode()).hexdigest() if said else ""


def _password() -> str:
    """The hash of the password of `pi`, or what stands for none."""
    for line in SHADOW.read_text(encoding="utf-8").splitlines():
        name, password = line.split(":")[:2]
        if name == "pi":
            return password
    return ""
