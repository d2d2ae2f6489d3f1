#!/usr/bin/env python3
"""Gathers the wheels that a lock file names, for another machine, as one archive.

The machine that runs this needs pip and a way to PyPI; the machine that gets the
archive needs neither. Archives are cached by what goes into them, under
``$XDG_CACHE_HOME/unisat`` (``~/.cache/unisat``), so that a second call asks nobody.

Prints one JSON object: ``archive`` (its path), ``id`` (12 hex digits that change when
the content has to), ``cached`` (false when it was made by this call).
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import gzip
import hashlib
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

# What pip calls an architecture that Debian names otherwise. glibc 2.36 (bookworm) is the oldest.
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
GLIBCS = ("2014", "_2_24", "_2_27", "_2_28", "_2_31", "_2_34")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unisat"


class GatherError(Exception):
    """What stops the gathering, as one sentence for the person who called."""


def requirements(lock: str, arch: str, python: str) -> list[str]:
    """The lines of a lock file that hold for the target, without their markers.

    pip evaluates markers for the Python it runs on, whatever ``--python-version`` says.
    """
    try:
        packaging = importlib.import_module("packaging.requirements")
    except ImportError:  # pip always brings its own
        packaging = importlib.import_module("pip._vendor.packaging.requirements")
    environment = {
        "extra": "",
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_machine": MACHINES[arch],
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"{python}.0",
        "python_version": python,
        "sys_platform": "linux",
    }
    wanted = []
    for line in re.sub(r"#.*|\\\n", "", lock).splitlines():
        name, *hashes = line.split("--hash=")
        if not name.strip():
            continue
        requirement = packaging.Requirement(name)
        if requirement.marker is None or requirement.marker.evaluate(environment):
            options = "".join(f" --hash={value.strip()}" for value in hashes)
            wanted.append(f"{requirement.name}{requirement.specifier}{options}")
    return wanted


def pip(*arguments: str | Path) -> None:
    """Runs pip: of this Python, or the one on PATH where this Python has none."""
    own = [sys.executable, "-m", "pip"]
    if subprocess.run([*own, "--version"], capture_output=True, check=False).returncode:
        found = shutil.which("pip3") or shutil.which("pip")
        if found is None:
            raise GatherError("pip is needed to gather wheels: install python3-pip")
        own = [found]
    environment = os.environ | {
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "SOURCE_DATE_EPOCH": "315532800",  # the first date that a wheel can hold
    }
    done = subprocess.run(
        [*own, "--quiet", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    if done.returncode:
        last = (done.stderr.strip() or "no reason given").splitlines()[-1]
        raise GatherError(
            f"pip could not gather the wheels; is PyPI reachable from this machine? ({last})"
        )


def sources(project: Path) -> list[Path]:
    """The files that a project's wheel is built from, in a fixed order."""
    files = [project / "pyproject.toml", *project.glob("README.md"), *project.glob("src/**/*")]
    return sorted(
        path
        for path in files
        if path.is_file() and "__pycache__" not in path.parts and ".egg-info" not in str(path)
    )


def build_own(project: Path, wheels: Path) -> str:
    """Builds the project's own wheel; returns its requirement line."""
    with tempfile.TemporaryDirectory() as scratch:
        # In a copy: setuptools writes into the tree that it builds.
        for path in sources(project):
            copy = Path(scratch, path.relative_to(project))
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        before = set(wheels.glob("*.whl"))
        pip("wheel", "--no-deps", "--wheel-dir", wheels, scratch)
    (wheel,) = set(wheels.glob("*.whl")) - before
    name, version = wheel.name.split("-")[:2]
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}"


def pack(folder: Path, archive: IO[bytes] | gzip.GzipFile) -> None:
    """Writes the folder as a tar whose bytes depend on the content alone."""

    def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = member.mtime = 0
        member.uname = member.gname = ""
        member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
        return member

    with tarfile.open(fileobj=archive, mode="w") as tar:
        for path in sorted(folder.rglob("*")):
            tar.add(path, path.relative_to(folder), recursive=False, filter=anonymous)


def gather(arguments: argparse.Namespace, wanted: list[str], work: Path) -> Path:
    """Downloads, and where asked builds and installs; returns the folder to pack."""
    wheels, lock = work / "wheels", work / "wheels" / "requirements.txt"
    wheels.mkdir()
    lock.write_text("".join(f"{line}\n" for line in wanted))
    target: list[str | Path] = ["--only-binary=:all:", "--python-version", arguments.python]
    for glibc in GLIBCS:
        target += ["--platform", f"manylinux{glibc}_{MACHINES[arguments.arch]}"]
    pip("download", "--no-deps", "--require-hashes", *target, "-r", lock, "-d", wheels)
    if arguments.own:
        line = build_own(arguments.own, wheels)
        lock.write_text(lock.read_text() + line + "\n")
    if not arguments.tree:
        return wheels
    tree = work / "tree"
    pip(
        *("install", "--no-deps", "--require-hashes", "--no-index", "--no-compile", *target),
        *("--find-links", wheels, "-r", lock, "--target", tree),
    )
    shutil.rmtree(tree / "bin", ignore_errors=True)  # its first lines name this machine's Python
    return tree


@contextlib.contextmanager
def alone(name: Path) -> Iterator[None]:
    """One at a time: a fleet's hosts ask for the same archive at the same moment."""
    with name.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def main() -> int:
    """Parses the arguments, makes the archive where the cache has none, prints where it is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--lock", type=Path, required=True, help="lock file with hashes")
    parser.add_argument("--arch", choices=sorted(MACHINES), required=True)
    parser.add_argument("--python", required=True, help="the target's Python, such as 3.13")
    parser.add_argument("--own", type=Path, help="a project whose own wheel is added")
    parser.add_argument("--tree", action="store_true", help="installed, not as wheels")
    arguments = parser.parse_args()
    wanted = requirements(arguments.lock.read_text(), arguments.arch, arguments.python)
    content = hashlib.sha256(
        json.dumps([wanted, arguments.arch, arguments.python, arguments.tree]).encode()
    )
    if arguments.own:
        for path in sources(arguments.own):
            content.update(f"\0{path.relative_to(arguments.own)}\0".encode() + path.read_bytes())
    name = content.hexdigest()[:12]
    suffix = "tree.tar.gz" if arguments.tree else "wheels.tar"
    archive = CACHE / f"{arguments.lock.resolve().parent.name}-{name}.{suffix}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with alone(CACHE / "lock"):
        cached = archive.exists()
        if not cached:
            with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
                folder = gather(arguments, wanted, Path(scratch))
                fresh = Path(scratch, "archive")
                with (
                    fresh.open("wb") as plain,
                    gzip.GzipFile("", "wb", 6, plain, mtime=0)
                    if arguments.tree
                    else contextlib.nullcontext(plain) as packed,
                ):
                    pack(folder, packed)
                fresh.rename(archive)
    print(json.dumps({"archive": str(archive), "id": name, "cached": cached}))  # noqa: T201
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except GatherError as error:
        sys.exit(f"wheels: {error}")
