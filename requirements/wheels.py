#!/usr/bin/env python3
"""Installs what a lock file names, for another machine, and packs it as one archive.

The machine that runs this needs uv and a way to PyPI; the machine that gets the archive
needs neither. Archives are cached by what goes into them, under ``$XDG_CACHE_HOME/unisat``
(``~/.cache/unisat``), so that a second call asks nobody.

Prints one JSON object: ``archive`` (its path; a gzipped tar of packages, to be laid into a
folder of Python's), ``id`` (12 hex digits that change when the content has to).
"""

from __future__ import annotations

import argparse
import fcntl
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

# What uv calls an architecture that Debian names otherwise. glibc 2.36 (bookworm) is the oldest.
PLATFORMS = {"amd64": "x86_64-manylinux_2_36", "arm64": "aarch64-manylinux_2_36"}
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unisat"
# What names this machine: the programs' first lines, and where and when uv found a package.
OF_THIS_MACHINE = ("bin", ".lock", "*.dist-info/RECORD", "*.dist-info/direct_url.json")


def install(target: Path, *arguments: str | Path) -> None:
    """Runs uv of this Python's environment, or the one on PATH."""
    here = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    uv = shutil.which("uv", path=here)
    if uv is None:
        sys.exit("wheels: uv is needed to gather wheels: pip install uv")
    command = [uv, "pip", "install", "--quiet", "--no-deps", "--no-installer-metadata"]
    # The machine's certificates and its mirror, as pip: a school's proxy has its own authority.
    settings = {"UV_SYSTEM_CERTS": "1"}
    if mirror := os.environ.get("PIP_INDEX_URL"):
        settings["UV_DEFAULT_INDEX"] = mirror
    done = subprocess.run(
        [*command, "--link-mode", "copy", "--target", str(target), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=settings | os.environ,
    )
    if done.returncode:
        said = " ".join(done.stderr.split()) or "no reason given"
        sys.exit(
            f"wheels: is PyPI reachable from this machine? uv could not gather the wheels: {said}"
        )


def sources(project: Path) -> list[Path]:
    """The files that a project's wheel is built from, in a fixed order."""
    files = [project / "pyproject.toml", *project.glob("README.md"), *project.glob("src/**/*")]
    return sorted(
        path
        for path in files
        if path.is_file() and "__pycache__" not in path.parts and ".egg-info" not in str(path)
    )


def gather(arguments: argparse.Namespace, work: Path) -> Path:
    """Installs the lock file's packages, and the own one; returns the folder to pack."""
    tree, project = work / "tree", work / "project"
    target = ["--python-platform", PLATFORMS[arguments.arch], "--python-version", arguments.python]
    install(tree, *target, "--only-binary=:all:", "--require-hashes", "-r", arguments.lock)
    if arguments.own:
        # From a copy: setuptools writes into the tree that it builds.
        for path in sources(arguments.own):
            copy = project / path.relative_to(arguments.own)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        install(tree, *target, project)
    for pattern in OF_THIS_MACHINE:
        for path in tree.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return tree


def pack(folder: Path, archive: Path) -> None:
    """Writes the folder as a tar whose bytes depend on the content alone."""

    def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = member.mtime = 0
        member.uname = member.gname = ""
        member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
        return member

    with (
        archive.open("wb") as plain,
        gzip.GzipFile("", "wb", 6, plain, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for path in sorted(folder.rglob("*")):
            tar.add(path, path.relative_to(folder), recursive=False, filter=anonymous)


def main() -> None:
    """Parses the arguments, makes the archive where the cache has none, prints where it is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--lock", type=Path, required=True, help="lock file with hashes")
    parser.add_argument("--arch", choices=sorted(PLATFORMS), required=True)
    parser.add_argument("--python", required=True, help="the target's Python, such as 3.13")
    parser.add_argument("--own", type=Path, help="a project whose own package is added")
    arguments = parser.parse_args()
    content = hashlib.sha256(f"tree {arguments.arch} {arguments.python}\n".encode())
    content.update(arguments.lock.read_bytes())
    for path in sources(arguments.own) if arguments.own else ():
        content.update(f"\0{path.relative_to(arguments.own)}\0".encode() + path.read_bytes())
    name = content.hexdigest()[:12]
    archive = CACHE / f"{arguments.lock.resolve().parent.name}-{name}.tree.tar.gz"
    CACHE.mkdir(parents=True, exist_ok=True)
    # One at a time: a fleet's hosts ask for the same archive at the same moment.
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not archive.exists():
            with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
                fresh = Path(scratch, "archive")
                pack(gather(arguments, Path(scratch)), fresh)
                fresh.rename(archive)
    print(json.dumps({"archive": str(archive), "id": name}))  # noqa: T201


if __name__ == "__main__":
    main()
