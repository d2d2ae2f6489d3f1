"""The steps of an update; after a power cut at any moment `resume` goes on.

fetch to incoming/ → verify the signature, then the hashes → unpack, sync, rename → the playbook:
baseline and rollback archive, switch, gate against the stored baseline → sync, the state says so →
only then remove what was kept. Every state is on the disk before the step that it announces.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol, cast

from unisat_update import state as states
from unisat_update.files import (
    Layout,
    RefusedError,
    free_bytes,
    make_folder,
    remove,
    sync_all,
    sync_folder,
    write,
)
from unisat_update.manifest import (
    DAMAGED,
    MANIFEST,
    SIGNATURE,
    Part,
    Verify,
    parse,
    signed_json,
)
from unisat_update.sources import CHUNK, OfflineError, Source
from unisat_update.state import Release, State

TRIES_MAX = 3
PARTS = "parts"
MB = 1 << 20


class SwitchError(Exception):
    """Why the switch, its gate or the way back failed, as one sentence without a full stop."""


class Machine(Protocol):
    """What the supervisor does to the station."""

    arch: str
    suite: str

    def has_image(self, name: str) -> bool:
        """Whether Kinto runs this image, and all its layers are intact."""
        ...

    def switch(self, release: Path) -> None:
        """Keeps baseline and archive where none is kept, switches, and looks whether it works.

        Raises:
            SwitchError: It does not, or was not begun.
        """
        ...

    def back(self, archive: Path, baseline: Path) -> None:
        """Puts the version before in place again, without Ansible.

        Raises:
            SwitchError: It is in place, and the station is not well.
            OSError: It could not be put in place; to be tried again.
        """
        ...


class Sequence:
    """One station's updates.

    Args:
        layout: Where its files are.
        machine: What is done to the station.
        tell: Shows one sentence; whether it is a problem, which goes on being shown.
        verify: Whether a text has a signature of a key.
    """

    def __init__(
        self,
        layout: Layout,
        machine: Machine,
        tell: Callable[[State], None],
        verify: Verify,
    ) -> None:
        self.layout, self.machine, self.verify = layout, machine, verify
        self._tell = tell
        self.state = states.load(layout)

    def resume(self) -> None:
        """Brings to its end what was interrupted."""
        match self.state.phase:
            case states.READY:
                self._switch()
            case states.SWITCHING if self.state.tries >= TRIES_MAX:
                self._return(f"it was interrupted {TRIES_MAX} times")
            case states.SWITCHING:
                self._switch()
            case states.RETURNING:
                self._return(self.state.reason)
            case states.FORGETTING:
                self._forget()
            case _:
                self._tell(self.state)

    def offer(self, source: Source) -> None:
        """Takes an update if it is newer; tells what came of it."""
        try:
            self._take(source)
        except RefusedError as refused:
            self._clean()
            self.say(f"Update: {source.name} {refused}; nothing was changed.", is_problem=True)
        except OfflineError as offline:
            self.say(f"Update: {offline}; it goes on later where it stopped.")
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            self._clean()
            self.say(
                f"Update: {source.name} does not fit on the card; nothing was changed.",
                is_problem=True,
            )

    def say(self, sentence: str, *, is_problem: bool = False) -> None:
        """Tells a sentence, and keeps it where it is another one."""
        self._change(said=sentence, is_problem=is_problem)
        self._tell(self.state)

    def newest(self, installed: int = 0) -> int:
        """The serial number that a bundle must exceed."""
        return max(self.state.running.serial, installed)

    def _change(self, **values: object) -> None:
        fresh = replace(self.state, **values)  # type: ignore[arg-type]
        if fresh != self.state:
            states.store(self.layout, fresh)
            self.state = fresh

    # Before anything is changed

    def _take(self, source: Source) -> None:
        text, signature = source.manifest()
        manifest = parse(signed_json(text, signature, self._keys(), self.verify))
        if manifest.arch != self.machine.arch:
            raise RefusedError(f"is for {manifest.arch}, and this station is {self.machine.arch}")
        if self.machine.suite not in manifest.suites:
            suites = " and ".join(manifest.suites)
            raise RefusedError(f"is for Debian {suites}, and this station has {self.machine.suite}")
        if manifest.serial in self.state.failed:
            reason = self.state.failed[manifest.serial]
            raise RefusedError(
                f"is not taken again: version {manifest.version} did not work here ({reason})"
            )
        if manifest.serial <= (newest := self.newest(installed_serial(self.layout))):
            runs = "it runs here already" if manifest.serial == newest else "a newer one runs here"
            self.say(f"Update: {source.name} is not newer: version {manifest.version}, {runs}.")
            return
        needed = [part for part in manifest.parts if self._needs(part)]
        folder = self.layout.incoming / str(manifest.serial)
        self._check_room(manifest.room + sum(part.size + part.room for part in needed), folder)
        self._clean(folder.name)
        make_folder(folder / PARTS)
        for part in needed:
            self._bring(source, part, folder / PARTS)
        _unpack_parts(needed, folder)
        write(folder / MANIFEST, text.decode())
        write(folder / SIGNATURE, signature.decode())
        sync_all(folder)
        release = self.layout.releases / str(manifest.serial)
        make_folder(release.parent)
        if release.exists():
            remove(release)
        folder.rename(release)
        sync_folder(release.parent)
        sync_folder(folder.parent)
        target = Release(manifest.version, manifest.serial, source.name)
        self._change(phase=states.READY, target=target, tries=0, reason="")
        self._switch()

    def _keys(self) -> list[Path]:
        keys = sorted(self.layout.keys.glob("*.pub"))
        if not keys:
            raise RefusedError(
                "can't be verified, because no key is installed here: set update_keys and run "
                "site.yml"
            )
        return keys

    def _needs(self, part: Part) -> bool:
        """Whether a part is for this release of Debian, and no image that runs already."""
        if part.suite not in {"", self.machine.suite}:
            return False
        return not part.image or not self.machine.has_image(part.image)

    def _check_room(self, needed: int, folder: Path) -> None:
        there = sum(file.stat().st_size for file in (folder / PARTS).glob("*"))
        needed -= there
        if (free := free_bytes(self.layout.state)) < needed:
            raise RefusedError(
                f"needs {needed // MB + 1} MB of room on the card, and {free // MB} MB are free: "
                "use a larger card"
            )

    def _bring(self, source: Source, part: Part, folder: Path) -> None:
        """Has a part in the folder, with the right content, and on the disk."""
        to, half = folder / part.sha256, folder / f"{part.sha256}.part"
        if to.exists():
            return
        for kept in self.layout.releases.glob(f"*/{PARTS}/{part.sha256}"):
            if sha256(kept) == part.sha256:
                os.link(kept, to)
                return
        source.part(part, half)
        if half.stat().st_size != part.size or sha256(half) != part.sha256:
            half.unlink()
            raise RefusedError(DAMAGED)
        half.rename(to)
        sync_folder(folder)

    def _clean(self, keep: str = "") -> None:
        """Removes what was fetched, but for one version."""
        for folder in self.layout.incoming.glob("*"):
            if folder.name != keep:
                remove(folder)

    # The switch, and what comes of it

    def _switch(self) -> None:
        target = self.state.target
        self._change(
            phase=states.SWITCHING,
            tries=self.state.tries + 1,
            said=f"Update: version {target.version} is being installed; telemetry goes on.",
            is_problem=False,
        )
        self._tell(self.state)
        self.layout.failure.unlink(missing_ok=True)
        try:
            self.machine.switch(self.layout.releases / str(target.serial))
            sync_all(self.layout.state)
        except (SwitchError, OSError) as error:
            self._return(str(error))
            return
        remove(self.layout.kept_dump)
        self._change(
            phase=states.FORGETTING,
            running=target,
            said=f"Update: version {target.version} from {target.source} is installed.",
        )
        self._forget()

    def _return(self, reason: str) -> None:
        target = self.state.target
        if not self.layout.baseline.exists():
            # The switch was not begun: nothing speaks against this version.
            self._change(
                phase=states.FORGETTING,
                said=f"Update: version {target.version} could not be begun: {reason}; nothing was "
                "changed.",
                is_problem=True,
            )
            self._forget()
            return
        self._change(phase=states.RETURNING, reason=reason)
        after = "the station is back on the version before"
        try:
            self.machine.back(self.layout.archive, self.layout.baseline)
        except SwitchError as error:
            after += f", but is not well there: {error}"
            if self.layout.dump.exists():
                self.layout.dump.replace(self.layout.kept_dump)
            if self.layout.kept_dump.exists():
                after += f" (its database of before the update is in {self.layout.kept_dump})"
        sync_all(self.layout.state)
        self._change(
            phase=states.FORGETTING,
            failed={**self.state.failed, target.serial: reason},
            said=f"Update: version {target.version} did not work here ({reason}); {after}.",
            is_problem=True,
        )
        self._forget()

    def _forget(self) -> None:
        remove(self.layout.baseline)
        remove(self.layout.archive)
        remove(self.layout.dump)
        remove(self.layout.failure)
        kept = str(self.state.running.serial)
        self._clean()
        for folder in self.layout.releases.glob("*"):
            # The parts of the one that runs are those that the next update need not fetch.
            if folder.name != kept:
                remove(folder)
        self._change(phase=states.GOOD, target=Release(), tries=0, reason="")
        self._tell(self.state)


def installed_serial(layout: Layout) -> int:
    """The serial number that belongs to what site.yml or the card's image installed."""
    return int(settings(layout).get("serial", 0))


def settings(layout: Layout) -> dict[str, Any]:
    """What the role was told."""
    try:
        said = json.loads(layout.settings.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def _unpack_parts(parts: list[Part], folder: Path) -> None:
    for part in parts:
        into = folder / part.name
        remove(into)
        if part.kind == "file":
            os.link(folder / PARTS / part.sha256, into)
        else:
            unpack(folder / PARTS / part.sha256, part.sha256, into)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Hashing:
    """A file whose bytes are hashed as they are read."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("rb")
        self.hash = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        chunk = self.file.read(size)
        self.hash.update(chunk)
        return chunk


def unpack(archive: Path, expected: str, into: Path) -> None:
    """Makes a folder of a .tar.xz whose SHA-256 is as expected, also while it is read.

    Raises:
        RefusedError: It is not, or it holds what does not belong into one.
    """
    source = _Hashing(archive)
    into.mkdir()
    with source.file:
        try:
            with tarfile.open(fileobj=cast("IO[bytes]", source), mode="r|xz") as tar:
                for member in tar:
                    _extract(tar, member, into)
        except (tarfile.TarError, EOFError) as error:
            raise RefusedError(DAMAGED) from error
        while source.read(CHUNK):
            pass
    if source.hash.hexdigest() != expected:
        raise RefusedError(DAMAGED)


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, into: Path) -> None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or not (member.isdir() or member.isfile()):
        raise RefusedError(DAMAGED)
    to = into / path
    if member.isdir():
        to.mkdir(parents=True, exist_ok=True)
        return
    to.parent.mkdir(parents=True, exist_ok=True)
    content = tar.extractfile(member)
    if content is None:
        raise RefusedError(DAMAGED)
    with content, to.open("wb") as file:
        shutil.copyfileobj(content, file, CHUNK)
    to.chmod(0o755 if member.mode & 0o100 else 0o644)
