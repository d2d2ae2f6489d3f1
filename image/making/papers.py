"""What is written about an image: the list of its parts, Imager's manifest, the release notes."""

from __future__ import annotations

import dataclasses
import datetime
import re
import sys
import urllib.parse
import uuid
from pathlib import Path
from typing import Any

from making.parts import CONTAINER, Content, Part, count
from making.steps import PROJECT, MakingError, run, sha256_of

CHECKLIST = PROJECT / "docs/hardware-checklist.md"
ICON = PROJECT / "docs/pictures/unisat.svg"
# What Raspberry Pi Imager calls the models that the image is for; CM4 and 400 are Pi 4 to it.
MODELS = (
    ("Raspberry Pi 4", "Models B, 400 and CM4", "pi4-64bit"),
    ("Raspberry Pi 3", "Models B and B+", "pi3-64bit"),
)

# Whose versions the release notes tell.
WORTH_TELLING = {
    "unisat-agent",
    "linux-image-arm64",
    "linux-image-rpi-v8",
    "postgresql",
    "docker.io",
    "memcached",
    "cloud-init",
}
UNRECORDED = "the container has no record of its Debian packages, so they are not in the list"


@dataclasses.dataclass(frozen=True)
class Version:
    """What is released: git's name for the commit, its hash, and when it was made."""

    name: str
    commit: str
    time: datetime.datetime


def spdx(name: str, version: Version, image_sha256: str, content: Content) -> dict[str, Any]:
    """The list of all parts as an SPDX 2.3 document."""
    packages: list[dict[str, Any]] = []
    relations: list[dict[str, str]] = []

    def add(parent: str, relation: str, ref: str, **fields: object) -> None:
        unsaid = ("downloadLocation", "copyrightText", "licenseConcluded", "licenseDeclared")
        common = {"SPDXID": ref, "filesAnalyzed": False, **dict.fromkeys(unsaid, "NOASSERTION")}
        packages.append(common | {key: value for key, value in fields.items() if value})
        relations.append(
            {"spdxElementId": parent, "relationshipType": relation, "relatedSpdxElement": ref}
        )

    def add_parts(parent: str, parts: tuple[Part, ...]) -> None:
        for number, part in enumerate(parts, start=1):
            url = {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": package_url(part, content.system),
            }
            add(
                parent,
                "CONTAINS",
                f"{parent}-{number}",
                name=part.name,
                versionInfo=part.version,
                supplier=part.supplier,
                sourceInfo=part.source and f"built from the source package {part.source}",
                licenseDeclared=part.license,
                externalRefs=[url],
            )

    add(
        "SPDXRef-DOCUMENT",
        "DESCRIBES",
        "SPDXRef-image",
        name=name,
        versionInfo=version.name,
        primaryPackagePurpose="OPERATING-SYSTEM",
        checksums=[{"algorithm": "SHA256", "checksumValue": image_sha256}],
    )
    add_parts("SPDXRef-image", content.parts)
    repository, _, tag = content.kinto.name.partition(":")
    add(
        "SPDXRef-image",
        "CONTAINS",
        "SPDXRef-container",
        name=repository,
        versionInfo=tag,
        primaryPackagePurpose="CONTAINER",
        packageFileName=CONTAINER,
        checksums=[{"algorithm": "SHA256", "checksumValue": content.kinto.sha256}],
    )
    add_parts("SPDXRef-container", content.kinto.parts)
    unique = uuid.uuid5(uuid.NAMESPACE_OID, f"{name} {version.commit} {image_sha256}")
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": unique.urn,
        "creationInfo": {
            "created": f"{version.time:%Y-%m-%dT%H:%M:%SZ}",
            "creators": [f"Tool: unisat-release-{version.name}"],
        },
        "packages": packages,
        "relationships": relations,
    }


def package_url(part: Part, system: dict[str, str]) -> str:
    """The name by which scanners for known weaknesses look a part up."""
    name, version = (urllib.parse.quote(text, safe="") for text in (part.name, part.version))
    if part.kind == "pypi":
        return f"pkg:pypi/{name}@{version}"
    release = f"debian-{system['VERSION_ID']}"
    return f"pkg:deb/debian/{name}@{version}?arch={part.architecture}&distro={release}"


def check_spdx(path: Path) -> None:
    """Has spdx-tools judge the list.

    Raises:
        MakingError: With what it said, or where it is not there.
    """
    tool = Path(sys.executable).parent / "pyspdxtools"
    if not tool.exists():
        raise MakingError("spdx-tools is needed: call this by `make release`, which brings it")
    run(str(tool), "--infile", str(path))


def imager_manifest(
    flavour: str, version: Version, image: Path, image_sha256: str, packed: Path, url: str
) -> dict[str, Any]:
    """What Raspberry Pi Imager shows of the image, and that cloud-init takes its customisation."""
    devices = [
        {"name": name, "description": text, "tags": [tag], "architecture": "armv8"}
        for name, text, tag in MODELS
    ]
    system = {
        "name": f"UniSat station {version.name} ({flavour})",
        "description": "Takes telemetry from UniSat satellites, with or without a network",
        "icon": f"{url}/{ICON.name}",
        "url": f"{url}/{urllib.parse.quote(packed.name)}",
        "extract_size": image.stat().st_size,
        "extract_sha256": image_sha256,
        "image_download_size": packed.stat().st_size,
        "image_download_sha256": sha256_of(packed),
        "release_date": f"{version.time:%Y-%m-%d}",
        "init_format": "cloudinit",
        "architecture": "armv8",
        "devices": [tag for _, _, tag in MODELS],
    }
    return {"imager": {"devices": devices}, "os_list": [system]}


def notes(
    name: str,
    version: Version,
    image: Path,
    image_sha256: str,
    files: list[Path],
    content: Content,
    signature: str,
) -> str:
    """The release notes, in Markdown."""
    parts, inside = content.parts, content.kinto.parts
    told = [(part.name, part.version) for part in parts if part.name in WORTH_TELLING]
    told += [(part.name, part.version) for part in inside if part.name == "kinto"]
    debian, python = (count(parts, kind) for kind in ("deb", "pypi"))
    lines = [
        f"# {name}",
        "",
        "The SD card image of the UniSat station for Raspberry Pi 3, 3B+, 4B and CM4, on "
        f"{content.system['PRETTY_NAME']}. How to use it: docs/image.md.",
        "",
        f"Commit {version.commit}, {version.time:%Y-%m-%d}. {signature}",
        "",
        "| file | bytes | SHA-256 |",
        "|---|--:|---|",
        f"| the image, unpacked | {image.stat().st_size} | `{image_sha256}` |",
        *(f"| {file.name} | {file.stat().st_size} | `{sha256_of(file)}` |" for file in files),
        "",
        "## What is in it",
        "",
        "| | version |",
        "|---|---|",
        *(f"| {part} | {number} |" for part, number in told),
        "",
        f"{debian} Debian packages and {python} of Python; in Kinto's container "
        f"({content.kinto.name}, {content.kinto.size} bytes) {count(inside, 'deb')} and "
        f"{count(inside, 'pypi')}. All are listed in {name}.spdx.json.",
    ]
    if not count(inside, "deb"):
        lines += ["", f"{UNRECORDED[0].upper()}{UNRECORDED[1:]}."]
    lines += ["", "## What only hardware can prove", ""]
    titles = re.findall(r"^## \d+\. (.+)$", CHECKLIST.read_text(), re.MULTILINE)
    lines += [f"- {title}" for title in titles]
    lines += ["", "The build tests none of these. How to: docs/hardware-checklist.md."]
    return "\n".join(lines) + "\n"
