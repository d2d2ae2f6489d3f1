"""A station that is a folder: its program is three files that must always be of one version.

Run as a program it is one start of the supervisor, which a test may kill at any moment:
``pretend.py ROOT BUNDLE`` resumes, and takes the bundle.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

from unisat_update.files import Layout, make_folder, write
from unisat_update.manifest import MANIFEST, SIGNATURE, minisign
from unisat_update.sequence import Sequence, SwitchError
from unisat_update.state import State

FILES = ("agent", "kinto", "settings")
ARCH, SUITE = "amd64", "trixie"


class Folder:
    """What is done to the station, with time to be killed in."""

    arch, suite = ARCH, SUITE

    def __init__(self, layout: Layout, pause_s: float = 0.0, image: str = "") -> None:
        self.layout, self.pause_s, self.image = layout, pause_s, image

    def has_image(self, name: str) -> bool:
        return name == self.image

    def switch(self, release: Path) -> None:
        if not self.layout.baseline.exists():
            self._archive()
        for name in FILES:
            time.sleep(self.pause_s)
            text = (release / "project" / name).read_text()
            write(self.layout.root / "opt" / name, text)
        time.sleep(self.pause_s)
        if "bad" in text:
            raise SwitchError("no record came in within 180 s")

    def _archive(self) -> None:
        make_folder(self.layout.state)
        with tarfile.open(self.layout.archive, "w:gz") as tar:
            for name in FILES:
                tar.add(self.layout.root / "opt" / name, f"opt/{name}")
        time.sleep(self.pause_s)
        write(self.layout.baseline, json.dumps({"was": sorted(versions(self.layout.root))}))

    def back(self, archive: Path, baseline: Path) -> None:
        assert json.loads(baseline.read_text())["was"]
        with tarfile.open(archive) as tar:
            for member in tar:
                time.sleep(self.pause_s)
                tar.extract(member, self.layout.root)


def versions(root: Path) -> set[str]:
    """The versions that the station's files are of."""
    return {(root / "opt" / name).read_text() for name in FILES}


def make_station(root: Path, key: Path) -> Layout:
    """A station of version 1 that knows a key."""
    layout = Layout(root)
    make_folder(root / "opt")
    for name in FILES:
        (root / "opt" / name).write_text("version 1")
    make_folder(layout.keys)
    (layout.keys / "1.pub").write_text(key.read_text())
    return layout


def make_key(folder: Path, name: str) -> Path:
    """A pair of keys without a password; returns the public one, the secret is NAME.key."""
    public = folder / f"{name}.pub"
    command = ["minisign", "-G", "-W", "-p", str(public), "-s", str(folder / f"{name}.key")]
    subprocess.run(command, check=True, capture_output=True)
    return public


def sign(text: bytes, key: Path) -> bytes:
    """Minisign's signature of a text."""
    file = key.with_name("text")
    file.write_bytes(text)
    secret = str(key.with_suffix(".key"))
    command = ["minisign", "-S", "-s", secret, "-m", str(file)]
    subprocess.run(command, check=True, capture_output=True)
    return Path(f"{file}.minisig").read_bytes()


def tree(files: dict[str, bytes]) -> bytes:
    """A part of kind tree."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return lzma.compress(plain.getvalue(), preset=0)


def contents(serial: int, *, bad: bool = False, ballast: bytes = b"") -> dict[str, bytes]:
    """The parts of a version by name."""
    word = f"version {serial}{' bad' if bad else ''}".encode()
    return {
        "project": tree(dict.fromkeys(FILES, word)),
        "ansible": tree({"big": ballast or b"the same in every version" * 4000}),
        "kinto.tar.xz": lzma.compress(b"layers" * 10000),
    }


def manifest_of(parts: dict[str, bytes], serial: int, **other: object) -> bytes:
    """The manifest of some parts."""
    listed = [
        {
            "name": name,
            "sha256": hashlib.sha256(content).hexdigest(),
            "size": len(content),
            "kind": "file" if name == "kinto.tar.xz" else "tree",
            "image": "unisat-kinto:1" if name == "kinto.tar.xz" else "",
        }
        for name, content in parts.items()
    ]
    said = {
        "format": 1,
        "product": "unisat-station",
        "version": f"{serial}.0",
        "serial": serial,
        "arch": ARCH,
        "suites": ["bookworm", SUITE],
        "room": 3 << 20,
        "parts": listed,
    }
    return json.dumps(said | other).encode()


def make_bundle(
    file: Path, key: Path, serial: int, *, bad: bool = False, ballast: bytes = b"", **other: object
) -> Path:
    """A bundle of one version, signed by a key."""
    parts = contents(serial, bad=bad, ballast=ballast)
    text = manifest_of(parts, serial, **other)
    members = {MANIFEST: text, SIGNATURE: sign(text, key)}
    members |= {f"parts/{hashlib.sha256(part).hexdigest()}": part for part in parts.values()}
    with tarfile.open(file, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file


def sentences(layout: Layout, machine: Folder, told: list[State]) -> Sequence:
    """A supervisor that tells a list."""
    return Sequence(layout, machine, told.append, minisign)


def snapshot(root: Path) -> Iterator[tuple[str, str]]:
    """Every file of the station with its content, but for what was told."""
    for file in sorted(path for path in root.rglob("*") if path.is_file()):
        if file.name != "state.json":
            yield str(file.relative_to(root)), hashlib.sha256(file.read_bytes()).hexdigest()


if __name__ == "__main__":
    from unisat_update.sources import BundleFile

    station = Layout(Path(sys.argv[1]))
    supervisor = sentences(station, Folder(station, pause_s=0.01), [])
    supervisor.resume()
    supervisor.offer(BundleFile(Path(sys.argv[2])))
