"""What a bundle says of itself, and whether it comes from whom it should."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unisat_update.files import RefusedError

FORMAT = 1
MANIFEST, SIGNATURE = "manifest.json", "manifest.json.minisig"
MANIFEST_MAX, SIGNATURE_MAX = 256 * 1024, 4096
PRODUCT = "unisat-station"
NOT_OURS = "is not signed by a key that this station knows, or was changed after it was signed"
DAMAGED = "is damaged or not complete: copy it once more"

_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z._+-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[a-z0-9][a-z0-9._+~-]{0,127}")

# Whether a text has a signature of a key file.
Verify = Callable[[bytes, bytes, Path], bool]


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a bundle, which is named by its SHA-256.

    Attributes:
        name: What it is called in the release.
        sha256: Of its content, in hex.
        size: In bytes.
        kind: "tree" is a .tar.xz that becomes a folder; "file" is kept as it is.
        image: The container image that it holds; not needed where that image runs already.
        suite: The release of Debian that needs it; empty for all.
        room: Bytes that are needed beside its size, where it is needed.
    """

    name: str
    sha256: str
    size: int
    kind: str
    image: str = ""
    suite: str = ""
    room: int = 0


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a bundle holds.

    Attributes:
        version: For people.
        serial: For programs; a later bundle has a higher one.
        arch: Debian's word for the architecture.
        suites: Debian's words for the releases that it runs on.
        room: Bytes that are needed beside those of its parts, at the worst moment.
    """

    version: str
    serial: int
    arch: str
    suites: tuple[str, ...]
    room: int
    parts: tuple[Part, ...]


def signed_json(text: bytes, signature: bytes, keys: Iterable[Path], verify: Verify) -> Any:
    """What a signed text says.

    Raises:
        RefusedError: None of the keys has signed it.
    """
    if not any(verify(text, signature, key) for key in sorted(keys)):
        raise RefusedError(NOT_OURS)
    return json.loads(text)


def parse(said: Any) -> Manifest:
    """The manifest of a bundle whose signature was verified.

    Raises:
        RefusedError: It is of a kind that this version does not know.
    """
    try:
        return _parse(said)
    except (KeyError, TypeError, ValueError) as error:
        raise RefusedError(
            "is of a kind that this station does not know: update to the version before it first"
        ) from error


def _parse(said: Mapping[str, Any]) -> Manifest:
    if said["format"] != FORMAT or said["product"] != PRODUCT:
        raise ValueError(said["format"])
    parts = tuple(
        Part(
            _text(part["name"], _NAME),
            _text(part["sha256"], _SHA256),
            _whole(part["size"]),
            _text(part["kind"], re.compile("tree|file")),
            str(part.get("image", "")),
            str(part.get("suite", "")),
            _whole(part.get("room", 0)),
        )
        for part in said["parts"]
    )
    if len({part.name for part in parts}) != len(parts):
        raise ValueError("two parts have one name")
    return Manifest(
        _text(said["version"], _VERSION),
        _whole(said["serial"]),
        str(said["arch"]),
        tuple(str(suite) for suite in said["suites"]),
        _whole(said["room"]),
        parts,
    )


def _text(value: object, pattern: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(value)
    return value


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(value)
    return value


def minisign(text: bytes, signature: bytes, key: Path) -> bool:
    """Whether `minisign` finds the signature right; the trusted comment is part of that.

    Raises:
        RefusedError: minisign is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="unisat-update.") as folder:
        file, beside = Path(folder, "text"), Path(folder, "signature")
        file.write_bytes(text)
        beside.write_bytes(signature)
        command = ["minisign", "-Vq", "-p", str(key), "-m", str(file), "-x", str(beside)]
        try:
            return not subprocess.run(command, capture_output=True, check=False).returncode
        except FileNotFoundError:
            raise RefusedError(
                "can't be verified, because minisign is not installed here: run site.yml, or write "
                "the card anew"
            ) from None
