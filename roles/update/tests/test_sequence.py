"""A bundle is taken whole or not at all, and what is not ours changes nothing."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pretend import (
    Folder,
    make_bundle,
    make_key,
    make_station,
    sentences,
    snapshot,
    versions,
)

from unisat_update import state as states
from unisat_update.files import Layout, write
from unisat_update.sources import BundleFile
from unisat_update.state import State


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_key(tmp_path_factory.mktemp("keys"), "ours")


@pytest.fixture
def station(tmp_path: Path, key: Path) -> Layout:
    return make_station(tmp_path / "station", key)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def offer(layout: Layout, bundle: Path, image: str = "") -> State:
    """What is told at last of a bundle that is offered."""
    told: list[State] = []
    sequence = sentences(layout, Folder(layout, image=image), told)
    sequence.resume()
    sequence.offer(BundleFile(bundle))
    return told[-1]


def test_a_newer_version_is_installed_and_nothing_of_the_way_there_stays(
    station: Layout, key: Path, tmp_path: Path
) -> None:
    told = offer(station, make_bundle(tmp_path / "new.update", key, 2))
    assert told.said == "Update: version 2.0 from new.update is installed."
    assert not told.is_problem
    assert versions(station.root) == {"version 2"}
    assert not station.baseline.exists()
    assert not station.archive.exists()
    assert list(station.incoming.glob("*")) == []
    assert [folder.name for folder in station.releases.glob("*")] == ["2"]


def test_the_second_time_it_is_not_newer(station: Layout, key: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "new.update", key, 2)
    offer(station, bundle)
    before = list(snapshot(station.root))
    told = offer(station, bundle)
    assert told.said == ("Update: new.update is not newer: version 2.0, it runs here already.")
    assert not told.is_problem
    assert list(snapshot(station.root)) == before


def test_a_second_key_is_as_good_as_the_first(station: Layout, key: Path, tmp_path: Path) -> None:
    spare = make_key(tmp_path, "spare")
    (station.keys / "2.pub").write_text(spare.read_text())
    offer(station, make_bundle(tmp_path / "new.update", spare, 2))
    assert versions(station.root) == {"version 2"}


def flip(bundle: Path, at: int) -> Path:
    content = bytearray(bundle.read_bytes())
    content[at] ^= 1
    bundle.write_bytes(content)
    return bundle


def truncate(bundle: Path, size: int) -> Path:
    bundle.write_bytes(bundle.read_bytes()[:size])
    return bundle


def archive(bundle: Path) -> None:
    subprocess.run(["tar", "-cf", bundle, "-C", "/etc", "hostname"], check=True)


def test_what_is_not_ours_or_not_intact_is_refused(
    station: Layout, key: Path, tmp_path: Path
) -> None:
    foreign = make_key(tmp_path, "foreign")
    bundle = tmp_path / "new.update"
    size = make_bundle(bundle, key, 2).stat().st_size
    signed = "is not signed by a key that this station knows, or was changed after it was signed"
    damaged = "is damaged or not complete: copy it once more"
    nothing = "is not an update of a UniSat station"
    makes: dict[str, tuple[Callable[[], object], str]] = {
        "another's key": (lambda: make_bundle(bundle, foreign, 2), signed),
        "a flipped byte in the manifest": (
            lambda: flip(make_bundle(bundle, key, 2), 512 + 40),
            signed,
        ),
        "a flipped byte in a part": (
            lambda: flip(make_bundle(bundle, key, 2), 512 * 8 + 60),
            damaged,
        ),
        "half of it": (lambda: truncate(make_bundle(bundle, key, 2), size // 2), damaged),
        "its first kilobyte": (lambda: truncate(make_bundle(bundle, key, 2), 1024), damaged),
        "an empty file": (lambda: truncate(make_bundle(bundle, key, 2), 0), damaged),
        "another file": (lambda: archive(bundle), nothing),
        "another architecture": (
            lambda: make_bundle(bundle, key, 2, arch="arm64"),
            "is for arm64, and this station is amd64",
        ),
        "another release of Debian": (
            lambda: make_bundle(bundle, key, 2, suites=["forky"]),
            "is for Debian forky, and this station has trixie",
        ),
        "a later format": (
            lambda: make_bundle(bundle, key, 2, format=2),
            "is of a kind that this station does not know: update to the version before it first",
        ),
        "too large": (
            lambda: make_bundle(bundle, key, 2, room=1 << 50),
            "MB are free: use a larger card",
        ),
    }
    before = list(snapshot(station.root))
    for what, (make, sentence) in makes.items():
        make()
        told = offer(station, bundle)
        assert sentence in told.said, what
        assert told.said.startswith("Update: new.update "), what
        assert told.said.endswith("; nothing was changed."), what
        assert told.is_problem, what
        assert list(snapshot(station.root)) == before, what


def test_every_single_flipped_byte_of_a_bundle_is_found_or_harmless(
    station: Layout, key: Path, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "new.update", key, 2)
    whole = bundle.read_bytes()
    for at in range(0, len(whole), len(whole) // 60):
        bundle.write_bytes(whole)
        told = offer(station, flip(bundle, at))
        # Padding and the tar's own dates are of no meaning.
        assert told.is_problem == (versions(station.root) == {"version 1"}), (at, told.said)
        if not told.is_problem:
            assert versions(station.root) == {"version 2"}
            break


def test_an_older_one_is_refused_also_with_our_signature(
    station: Layout, key: Path, tmp_path: Path
) -> None:
    offer(station, make_bundle(tmp_path / "3.update", key, 3))
    told = offer(station, make_bundle(tmp_path / "2.update", key, 2))
    assert "a newer one runs here" in told.said
    assert versions(station.root) == {"version 3"}
    # What a card's image or site.yml installed counts as well.
    write(station.settings, '{"serial": 5}')
    assert "is not newer" in offer(station, make_bundle(tmp_path / "4.update", key, 4)).said


def test_without_a_key_nothing_is_believed(station: Layout, key: Path, tmp_path: Path) -> None:
    (station.keys / "1.pub").unlink()
    told = offer(station, make_bundle(tmp_path / "new.update", key, 2))
    assert "no key is installed here" in told.said
    assert versions(station.root) == {"version 1"}


def test_a_disk_that_fills_up_leaves_the_station_as_it_was(
    small_disk: Path, key: Path, tmp_path: Path
) -> None:
    station = make_station(small_disk, key)
    before = list(snapshot(small_disk))
    ballast = bytes(range(256)) * 12000
    told = offer(station, make_bundle(tmp_path / "new.update", key, 2, ballast=ballast, room=1))
    assert told.said == "Update: new.update does not fit on the card; nothing was changed."
    assert list(snapshot(small_disk)) == before
    told = offer(station, make_bundle(tmp_path / "new.update", key, 2, room=2 << 20))
    assert "needs 3 MB of room on the card, and 0 MB are free" in told.said


def test_a_version_that_does_not_work_goes_back_and_is_not_tried_again(
    station: Layout, key: Path, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "bad.update", key, 2, bad=True)
    told = offer(station, bundle)
    assert told.said == (
        "Update: version 2.0 did not work here (no record came in within 180 s); the station is "
        "back on the version before."
    )
    assert versions(station.root) == {"version 1"}
    assert not station.baseline.exists()
    assert list(station.releases.glob("*")) == []
    before = list(snapshot(station.root))
    told = offer(station, bundle)
    assert (
        "not taken again: version 2.0 did not work here (no record came in within 180 s)"
        in told.said
    )
    assert list(snapshot(station.root)) == before
    offer(station, make_bundle(tmp_path / "good.update", key, 3))
    assert versions(station.root) == {"version 3"}


def test_the_third_unfinished_try_goes_back(station: Layout, key: Path, tmp_path: Path) -> None:
    offer(station, make_bundle(tmp_path / "2.update", key, 2))

    class Interrupted(Folder):
        def switch(self, release: Path) -> None:
            super().switch(release)
            raise KeyboardInterrupt  # as the power goes

    with pytest.raises(KeyboardInterrupt):
        sentences(station, Interrupted(station), []).offer(
            BundleFile(make_bundle(tmp_path / "3.update", key, 3))
        )
    for tries in (2, 3):
        with pytest.raises(KeyboardInterrupt):
            sentences(station, Interrupted(station), []).resume()
        assert states.load(station).tries == tries
        assert versions(station.root) == {"version 3"}
    told: list[State] = []
    sentences(station, Interrupted(station), told).resume()
    assert "it was interrupted 3 times" in told[-1].said
    assert versions(station.root) == {"version 2"}
    assert states.load(station).running.serial == 2


def test_a_gate_that_was_interrupted_judges_by_the_version_before(
    station: Layout, key: Path, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "bad.update", key, 2, bad=True)

    class Interrupted(Folder):
        def switch(self, release: Path) -> None:
            try:
                super().switch(release)
            finally:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sentences(station, Interrupted(station), []).offer(BundleFile(bundle))
    assert versions(station.root) == {"version 2 bad"}
    assert "version 1" in station.baseline.read_text()
    sentences(station, Folder(station), []).resume()
    assert versions(station.root) == {"version 1"}


def test_a_switch_that_was_not_begun_speaks_against_no_version(
    station: Layout, key: Path, tmp_path: Path
) -> None:
    from unisat_update.sequence import SwitchError  # noqa: PLC0415

    class Unwilling(Folder):
        def switch(self, release: Path) -> None:
            raise SwitchError("the disk is busy")

    told: list[State] = []
    bundle = BundleFile(make_bundle(tmp_path / "new.update", key, 2))
    sentences(station, Unwilling(station), told).offer(bundle)
    assert told[-1].said == (
        "Update: version 2.0 could not be begun: the disk is busy; nothing was changed."
    )
    assert offer(station, bundle.path).said.endswith("is installed.")


def test_a_dump_of_the_database_is_kept_while_the_station_is_not_well(
    station: Layout, key: Path, tmp_path: Path
) -> None:
    from unisat_update.sequence import SwitchError  # noqa: PLC0415

    class Migrated(Folder):
        well = False

        def switch(self, release: Path) -> None:
            write(self.layout.dump, "all records")
            super().switch(release)

        def back(self, archive: Path, baseline: Path) -> None:
            super().back(archive, baseline)
            if not self.well:
                raise SwitchError("Kinto does not answer")

    def take(serial: int, *, bad: bool, well: bool) -> str:
        machine = Migrated(station)
        machine.well = well
        told: list[State] = []
        bundle = make_bundle(tmp_path / "new.update", key, serial, bad=bad)
        sentences(station, machine, told).offer(BundleFile(bundle))
        assert not station.dump.exists()
        return told[-1].said

    assert "database" not in take(2, bad=True, well=True)
    assert not station.kept_dump.exists()
    assert take(3, bad=True, well=False).endswith(
        "is back on the version before, but is not well there: Kinto does not answer (its "
        f"database of before the update is in {station.kept_dump})."
    )
    assert station.kept_dump.read_text() == "all records"
    take(4, bad=False, well=True)
    assert not station.kept_dump.exists()


def test_an_image_that_runs_already_and_parts_of_the_version_before_are_not_fetched(
    station: Layout, key: Path, tmp_path: Path
) -> None:
    brought: list[str] = []

    class Counting(BundleFile):
        def part(self, part, to):  # type: ignore[no-untyped-def]
            brought.append(part.name)
            super().part(part, to)

    def take(serial: int, image: str) -> list[str]:
        brought.clear()
        bundle = Counting(make_bundle(tmp_path / "new.update", key, serial))
        sentences(station, Folder(station, image=image), []).offer(bundle)
        assert versions(station.root) == {f"version {serial}"}
        return list(brought)

    assert take(2, "unisat-kinto:0") == ["project", "ansible", "kinto.tar.xz"]
    assert take(3, "unisat-kinto:1") == ["project"]
    # A kept part that the card has spoiled is fetched anew.
    for kept in station.releases.glob("*/parts/*"):
        flip(kept, 8)
    assert take(4, "unisat-kinto:1") == ["project", "ansible"]


def test_a_state_that_cannot_be_read_is_a_new_one(station: Layout) -> None:
    write(station.state / "state.json", "")
    assert states.load(station) == State()
    write(station.state / "state.json", '{"phase": "unheard of"}')
    assert states.load(station) == State()
