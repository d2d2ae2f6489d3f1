"""What Raspberry Pi Imager set, beside unisat.toml: cloud-init applies it, once.

Imager writes cloud-init's files onto the boot partition. cloud-init holds up the start of whatever
has to wait for it, so it runs only where these files say something, and they are emptied when it
has ended. What unisat.toml says goes before: it is applied once more then.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unisat_station.machine import StationError, run, scrub_on_boot, write

FILES = ("user-data", "network-config")
STOCK = """#cloud-config
# For Raspberry Pi Imager. Your own settings are in unisat.toml.
"""
BOOT = Path("/boot/firmware")
SHADOW = Path("/etc/shadow")
# cloud-init's units start only where it is there; it has the password of `pi` to come back to.
WANTED = Path("/run/unisat/imager")


def prepare(*, keep_password: bool) -> None:
    """Lets cloud-init start where Imager set something.

    Args:
        keep_password: unisat.toml set the one that `pi` has now; Imager may have set another.
    """
    if any(_says_something(name) for name in FILES):
        write(WANTED, _password() if keep_password else "", 0o600)
    else:
        WANTED.unlink(missing_ok=True)


def finish() -> None:
    """Sets the password of `pi`, and takes what was applied, with its secrets, off the card.

    unisat.toml's password goes before Imager's. cloud-init sets none for a user who is there.

    Raises:
        StationError: One of the two failed; cloud-init runs again at the next start.
    """
    password = WANTED.read_text(encoding="utf-8") if WANTED.exists() else ""
    if (password := password or _wanted_password()) and password != _password():
        run("chpasswd", "--encrypted", given=f"pi:{password}\n")
    for name in FILES:
        if _says_something(name):
            try:
                scrub_on_boot(BOOT / name, STOCK.encode())
            except OSError as error:
                raise StationError(f"{name} can't be written ({error.strerror})") from error


def _read(name: str) -> str:
    """One of Imager's files; empty where it can't be read."""
    try:
        return (BOOT / name).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _says_something(name: str) -> bool:
    """Whether a file has more than comments."""
    lines = _read(name).splitlines()
    return any(line.strip() and not line.lstrip().startswith("#") for line in lines)


def _wanted_password() -> str:
    """The hash that Imager has for `pi`, or what stands for none."""
    # cloud-init brings it; what runs at each start does without.
    import yaml  # noqa: PLC0415

    try:
        said: Any = yaml.safe_load(_read("user-data"))
    except yaml.YAMLError:
        return ""
    said = said if isinstance(said, dict) else {}
    users = said.get("users")
    for user in [said.get("user"), *(users if isinstance(users, list) else [])]:
        if (
            isinstance(user, dict)
            and user.get("name") == "pi"
            and not user.get("lock_passwd", True)
        ):
            return str(user.get("passwd") or user.get("hashed_passwd") or "")
    return ""


def _password() -> str:
    """The hash of the password of `pi`, or what stands for none."""
    for line in SHADOW.read_text(encoding="utf-8").splitlines():
        name, password = line.split(":")[:2]
        if name == "pi":
            return password
    return ""
