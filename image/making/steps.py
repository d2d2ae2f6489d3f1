"""What both programs do all the time: run others, say what they do, and hash and sign files."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import IO

PROJECT = Path(__file__).resolve().parents[2]


class MakingError(Exception):
    """What stops the making, as one sentence for the person who called."""


def run(*command: str | Path, stdout: IO[bytes] | int = subprocess.PIPE) -> str:
    """Runs a program and returns what it printed, without white space around it.

    Raises:
        MakingError: With the last line that it said, when it is not there or fails.
    """
    words = list(map(str, command))
    name = Path(words[0]).name
    try:
        done = subprocess.run(words, stdout=stdout, stderr=subprocess.PIPE, check=False)
    except FileNotFoundError:
        raise MakingError(f"{name} is needed: install it") from None
    if done.returncode:
        said = (done.stderr or done.stdout or b"it said nothing").decode(errors="replace")
        raise MakingError(f"{name} failed: {said.strip().splitlines()[-1]}")
    return (done.stdout or b"").decode().strip()


def step(text: str) -> None:
    """Says what is being done."""
    print(f"{Path(sys.argv[0]).name}: {text}", flush=True)  # noqa: T201


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sign(path: Path, key: str) -> None:
    """Signs a file by minisign where the key is a file, or else by GPG, into a file beside it.

    Raises:
        MakingError: Where the program is not there or refuses.
    """
    command = ["gpg", "--local-user", key, "--armor", "--detach-sign", str(path)]
    if Path(key).is_file():
        command = ["minisign", "-S", "-s", key, "-m", str(path), "-t", path.name]
    try:
        # It may ask for the key's password, so it has the terminal.
        refused = subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode
    except FileNotFoundError:
        raise MakingError(f"{command[0]} is needed to sign with {key}: install it") from None
    if refused:
        raise MakingError(f"{command[0]} did not sign with the key {key}")
