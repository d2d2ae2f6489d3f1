"""The parts of a station's image: Debian's packages, Python's, and those of Kinto's container."""

from __future__ import annotations

import dataclasses
import email.parser
import email.utils
import json
import re
import subprocess
import tarfile
from collections.abc import Iterable, Iterator
from email.message import Message
from pathlib import Path
from typing import IO

from making.steps import PROJECT, MakingError, sha256_of

AGENT_LOCK = PROJECT / "agent/requirements.lock"
CONTAINER = "/var/lib/unisat-kinto/image.tar.gz"
# Where dpkg, and images made without it, keep the records of their packages.
DPKG = re.compile(r"var/lib/dpkg/status(\.d/[^/]+)?")
WHEEL = re.compile(r"(opt|usr/local|app)/.*[^/]+\.dist-info/METADATA")


@dataclasses.dataclass(frozen=True, order=True)
class Part:
    """One package: ``kind`` is deb or pypi; ``source`` the source package and version of a deb."""

    kind: str
    name: str
    version: str
    architecture: str = ""
    supplier: str = ""
    license: str = ""
    source: str = ""


@dataclasses.dataclass(frozen=True)
class Container:
    """Kinto's container: its name and tag, its archive's SHA-256 and size in bytes, its parts."""

    name: str
    sha256: str
    size: int
    parts: tuple[Part, ...]


@dataclasses.dataclass(frozen=True)
class Content:
    """What is in an image: os-release of its system, the system's parts, Kinto's container."""

    system: dict[str, str]
    parts: tuple[Part, ...]
    kinto: Container


class Root:
    """The root file system of an image, read without mounting it.

    Raises:
        MakingError: Where the file is no image, or its file system cannot be read.
    """

    def __init__(self, image: Path) -> None:
        with image.open("rb") as file:
            sector = file.read(512)
        if len(sector) < 512 or sector[510:] != b"\x55\xaa":
            raise MakingError(f"{image} is not an image: it has no partition table")
        start = int.from_bytes(sector[446 + 16 + 8 :][:4], "little") * 512
        if not start:
            raise MakingError(f"{image} is not an image of a station: it has no second partition")
        self._where = f"{image}?offset={start}"
        if not self.names("/"):
            raise MakingError(f"{image} is not an image of a station: its root cannot be read")

    def _ask(self, request: str) -> tuple[bytes, bool]:
        """What debugfs answers, and whether it complained: its exit code is 0 then as well."""
        command = ("debugfs", "-R", request, self._where)
        try:
            done = subprocess.run(command, capture_output=True, check=False)
        except FileNotFoundError:
            raise MakingError("debugfs is needed: install e2fsprogs") from None
        return done.stdout, len(done.stderr.splitlines()) > 1  # its version is always there

    def names(self, folder: str) -> list[str]:
        """What a folder holds, in order; nothing where it is not there."""
        listed, _ = self._ask(f"ls -p {folder}")
        # /inode/mode/user/group/name/size/
        rows = (line.split("/") for line in listed.decode().splitlines())
        names = {row[5] for row in rows if len(row) > 5 and row[1] != "0"}
        return sorted(names - {".", ".."})

    def read(self, path: str) -> str | None:
        """A text file, or None where it is not there."""
        data, complained = self._ask(f"cat {path}")
        return None if complained else data.decode()

    def copy(self, path: str, to: Path) -> bool:
        """Copies a file out of the image; False where it is not there."""
        _, complained = self._ask(f"dump {path} {to}")
        return not complained


def debs(status: str) -> Iterator[Part]:
    """The packages that dpkg's status says are there."""
    for paragraph in status.strip().split("\n\n"):
        fields = email.parser.HeaderParser().parsestr(paragraph.strip())
        # The folder status.d of images without dpkg has no Status.
        if not fields["Package"] or not fields.get("Status", "ok installed").endswith(" installed"):
            continue
        source, _, version = (fields["Source"] or fields["Package"]).partition(" ")
        version = version.strip("()") or fields["Version"]
        maintainer, address = email.utils.parseaddr(fields.get("Maintainer", ""))
        supplier = f"Organization: {maintainer} ({address})" if maintainer and address else ""
        yield Part(
            "deb",
            fields["Package"],
            fields["Version"],
            fields.get("Architecture", ""),
            supplier,
            source=f"{source} {version}",
        )


def wheel(metadata: str) -> Part:
    """The Python package that a METADATA file describes."""
    fields: Message = email.parser.HeaderParser().parsestr(metadata)
    name = re.sub(r"[-_.]+", "-", fields["Name"]).lower()
    terms = fields.get("License-Expression", "")
    # A licence of the package's own is not on SPDX's list, and its text is not at hand.
    return Part("pypi", name, fields["Version"], license="" if "LicenseRef" in terms else terms)


def in_order(parts: Iterable[Part]) -> tuple[Part, ...]:
    """Each part once, sorted."""
    return tuple(sorted(set(parts)))


def image_parts(root: Root) -> tuple[Part, ...]:
    """Debian's packages and the agent's Python packages in an image.

    Raises:
        MakingError: Where one of the two is not there, or the agent's are not those of this tree.
    """
    found = list(debs(root.read("/var/lib/dpkg/status") or ""))
    if not found:
        raise MakingError("the image has no record of its Debian packages in /var/lib/dpkg/status")
    wheels: list[Part] = []
    for release in root.names("/opt/unisat-agent/releases"):
        library = f"/opt/unisat-agent/releases/{release}/lib"
        for python in root.names(library):
            packages = f"{library}/{python}/site-packages"
            folders = [name for name in root.names(packages) if name.endswith(".dist-info")]
            records = [root.read(f"{packages}/{name}/METADATA") for name in folders]
            wheels += [wheel(text) for text in records if text]
    if not any(part.name == "unisat-agent" for part in wheels):
        raise MakingError("the image has no agent in /opt/unisat-agent/releases")
    locked = dict(re.findall(r"^([\w.-]+)==(\S+)", AGENT_LOCK.read_text(), re.MULTILINE))
    for part in wheels:
        if part.name != "unisat-agent" and locked.get(part.name) != part.version:
            raise MakingError(
                f"the image is not of this tree: its {part.name} {part.version} is not in "
                "agent/requirements.lock; build it anew"
            )
    return in_order([*found, *wheels])


def container(root: Root, scratch: Path) -> Container:
    """Kinto's container, as the image brings it for the first boot.

    Raises:
        MakingError: Where it is not there or cannot be read.
    """
    archive = scratch / "container.tar.gz"
    if not root.copy(CONTAINER, archive):
        raise MakingError(f"the image has no Kinto container in {CONTAINER}")
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r:gz") as outer:
            manifest = json.loads(member(outer, "manifest.json").read())[0]
            for name in manifest["Layers"]:
                with tarfile.open(fileobj=member(outer, name)) as layer:
                    apply_layer(layer, files)
    except (tarfile.TarError, OSError, EOFError, ValueError, LookupError) as error:
        raise MakingError(
            f"the Kinto container in {CONTAINER} cannot be read: {str(error).splitlines()[0]}"
        ) from None
    parts: list[Part] = []
    for path, data in files.items():
        text = data.decode(errors="replace")
        parts += debs(text) if DPKG.fullmatch(path) else [wheel(text)]
    tags = manifest.get("RepoTags") or ["unisat-kinto"]
    return Container(tags[0], sha256_of(archive), archive.stat().st_size, in_order(parts))


def member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    """A file in an archive.

    Raises:
        LookupError: Where it is not there.
    """
    file = archive.extractfile(name)
    if file is None:
        raise LookupError(f"{name} is not a file")
    return file


def apply_layer(layer: tarfile.TarFile, files: dict[str, bytes]) -> None:
    """Adds what a layer has of packages' records, and takes away those that it removes."""
    for entry in layer:
        path = entry.name.removeprefix("./")
        folder, _, name = path.rpartition("/")
        if name.startswith(".wh."):
            gone = folder if name == ".wh..wh..opq" else f"{folder}/{name.removeprefix('.wh.')}"
            for known in list(files):
                if known == gone or known.startswith(f"{gone}/"):
                    del files[known]
        elif entry.isfile() and (DPKG.fullmatch(path) or WHEEL.fullmatch(path)):
            files[path] = member(layer, entry.name).read()


def look(image: Path, scratch: Path) -> Content:
    """What is in the image.

    Raises:
        MakingError: Where it is not an image of a station.
    """
    root = Root(image)
    text = root.read("/usr/lib/os-release") or ""
    system = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', text, re.MULTILINE))
    if not system.keys() >= {"PRETTY_NAME", "VERSION_ID"}:
        raise MakingError("the image does not say which Debian it is in /usr/lib/os-release")
    return Content(system, image_parts(root), container(root, scratch))


def count(parts: tuple[Part, ...], kind: str) -> int:
    """How many parts are of a kind."""
    return sum(part.kind == kind for part in parts)
