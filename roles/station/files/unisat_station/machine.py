"""What the other modules do to the machine: files that survive a power cut, commands, notices."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

STATE = Path("/var/lib/unisat-station")
NOTICES = Path("/run/unisat/notices")
ISSUE = Path("/run/issue.d/unisat.issue")
# It is there when what unisat.toml says was read in this boot.
CARD = Path("/run/unisat/card")
CONSOLES = Path("/sys/class/tty/console/active")


class StationError(Exception):
    """What stops a step, as one sentence that names the thing to mend."""


def owner(state: Path = STATE) -> str:
    """Who owns the settings: "card" (unisat.toml), or "controller" (an inventory)."""
    file = state / "owner"
    said = file.read_text(encoding="utf-8").strip() if file.exists() else ""
    return "controller" if said == "controller" else "card"


def sync_folder(folder: Path) -> None:
    """Puts the names in a folder on the card."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def make_folder(path: Path) -> None:
    """Makes a folder that everybody may look into, whatever the umask: sshd reads keys as `pi`."""
    if not path.exists():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        path.chmod(0o755)


def write(path: Path, text: str, mode: int = 0o644, group: str | None = None) -> bool:
    """Writes a file whole or not at all, also when the power goes; returns whether it changed.

    It has its mode and group before its first byte: nobody else reads a secret, not for a moment.
    """
    with contextlib.suppress(FileNotFoundError, UnicodeDecodeError):
        if path.read_text(encoding="utf-8") == text and path.stat().st_mode & 0o777 == mode:
            return False
    make_folder(path.parent)
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    number = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(number, "w", encoding="utf-8") as file:
        if group is not None:
            shutil.chown(fresh, group=group)
        os.fchmod(number, mode)
        file.write(text)
        file.flush()
        os.fsync(number)
    fresh.replace(path)
    sync_folder(path.parent)
    return True


def write_on_boot(path: Path, content: bytes) -> None:
    """Writes a file of the boot partition whole or not at all."""
    fresh = path.with_name(f"{path.name}.new")
    with fresh.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    sync_folder(path.parent)


def scrub_on_boot(path: Path, content: bytes) -> None:
    """Writes a file of the boot partition anew, and zeros over what it said before.

    Held open, the old file's blocks are still there to be overwritten when its name is gone: at
    any moment the card has the old file or the new one, never a torn one.
    """
    with path.open("r+b", buffering=0) as old:
        size = os.fstat(old.fileno()).st_size
        write_on_boot(path, content)
        old.write(b"\0" * size)
        os.fsync(old.fileno())


def run(*argv: str, given: str = "", user: str | None = None) -> str:
    """Runs a command with `given` as its input; returns what it prints.

    Raises:
        StationError: It failed. The sentence has what it said, and never what it was given.
    """
    groups: list[int] | None = [] if user else None
    try:
        done = subprocess.run(
            argv,
            input=given,
            capture_output=True,
            text=True,
            check=False,
            user=user,
            group=user,
            extra_groups=groups,
            cwd="/",
        )
    except OSError as error:
        raise StationError(f"{argv[0]} can't be run: {error.strerror}") from error
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split()) or f"exit code {done.returncode}"
        raise StationError(f"{' '.join(argv[:2])} failed: {said}")
    return done.stdout


def notice(topic: str, lines: list[str], *, aloud: bool = True) -> None:
    """Shows lines, a sentence each, in place of what the topic said before.

    The agent reads them for /status, and the consoles show them above the log-in prompt; those
    that are new also at once, which is `aloud`.
    """
    file = NOTICES / topic
    before = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    if lines:
        _put(file, "".join(f"{line}\n" for line in lines))
    else:
        file.unlink(missing_ok=True)
    for line in lines:
        if aloud and line not in before:
            say(line)
    show()


def say(line: str) -> None:
    """Prints a line for the journal, and on the screen and the serial console."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
    for name in CONSOLES.read_text(encoding="utf-8").split() if CONSOLES.exists() else []:
        # A console that nobody drains must not hold the station up.
        with contextlib.suppress(OSError):
            number = os.open(f"/dev/{name}", os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
            try:
                os.write(number, f"\r\nUniSat: {line}\r\n".encode())
            finally:
                os.close(number)


def remember_card(*, there: bool) -> None:
    """Notes whether unisat.toml could be read in this boot."""
    if there:
        _put(CARD, "")


def addresses() -> str:
    """The station's addresses in its networks, as words for the screen."""
    # agetty's own \\4 shows 127.0.1.1 where there is no network.
    try:
        found = [text for text in run("hostname", "--all-ip-addresses").split() if "." in text]
    except StationError:
        found = []
    return f"address {', '.join(found)}" if found else "no network"


def show() -> None:
    """Puts the station's name, addresses and notices above the log-in prompt."""
    lines = [
        line
        for file in sorted(NOTICES.glob("*"))
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    # In this file a backslash begins a word of agetty's: \n is the name.
    told = "".join("  " + line.replace("\\", "\\\\") + "\n" for line in lines)
    _put(ISSUE, f"UniSat station \\n, {addresses()}\n{told}\n")
    # Nothing to tell where no prompt is shown yet.
    with contextlib.suppress(StationError):
        run("agetty", "--reload")


def _put(path: Path, text: str) -> None:
    """Writes a file of /run, where there is no power cut to survive."""
    make_folder(path.parent)
    fresh = path.with_name(f".{path.name}")
    fresh.write_text(text, encoding="utf-8")
    fresh.chmod(0o644)
    fresh.replace(path)
