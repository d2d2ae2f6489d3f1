"""The harness itself, without an image."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from card import Card, CardError, partitions, run, without_boot
from machine import command_line
from powercut import TornLogError, apply, entries

KIB = 1024


def log_of(directory: Path, *requests: str) -> tuple[Path, Path]:
    """An empty card and the log of requests to QEMU's block layer."""
    card, overlay, log = (directory / name for name in ("card", "overlay", "log"))
    card.write_bytes(bytes(64 * KIB))
    log.touch()
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", str(card), "-F", "raw", str(overlay))
    image = "driver=blklogwrites,file.driver=qcow2,log.driver=file"
    image += f",file.file.filename={overlay},log.filename={log}"
    # `abort` is the power cut: an orderly end would flush.
    words = [word for request in (*requests, "abort") for word in ("-c", request)]
    run("qemu-io", "-t", "writeback", "--image-opts", image, *words, accept=(-6, 134))
    return card, log


def first_bytes(card: Path) -> list[int]:
    return [card.read_bytes()[at * 4 * KIB] for at in range(16)]


def test_what_was_flushed_is_kept_and_of_the_rest_a_part(tmp_path: Path) -> None:
    later = [f"write -P 2 {at * 4}k 4k" for at in range(1, 16)]
    card, log = log_of(tmp_path, "write -P 1 0 4k", "flush", *later)
    done = apply(log, card, random.Random(1))
    assert first_bytes(card)[0] == 1
    assert 0 < first_bytes(card).count(2) < 15
    assert (done.kept, done.dropped) == (1 + first_bytes(card).count(2), first_bytes(card).count(0))
    assert done.written_bytes == 64 * KIB


def test_a_write_that_asked_for_it_is_kept(tmp_path: Path) -> None:
    card, log = log_of(tmp_path, "flush", *(f"write -f -P 3 {at * 4}k 4k" for at in range(16)))
    apply(log, card, random.Random(1))
    assert first_bytes(card) == [3] * 16


def test_after_an_orderly_end_all_is_there(tmp_path: Path) -> None:
    card, log = log_of(tmp_path, *(f"write -P 4 {at * 4}k 4k" for at in range(16)))
    assert apply(log, card, None).dropped == 0
    assert first_bytes(card) == [4] * 16


def test_a_log_with_a_hole_is_refused(tmp_path: Path) -> None:
    card, log = log_of(tmp_path, "write -P 1 0 4k", "write -P 1 4k 4k")
    data = bytearray(log.read_bytes())
    data[512:1024] = bytes(512)
    log.write_bytes(data)
    with pytest.raises(TornLogError):
        apply(log, card, random.Random(1))
    log.write_bytes(data[:512])
    assert list(entries(log)) == []


def test_a_torn_end_of_the_log_is_left_out(tmp_path: Path) -> None:
    _, log = log_of(tmp_path, "write -P 1 0 4k", "write -P 1 4k 4k")
    log.write_bytes(log.read_bytes()[:-1])
    assert len(list(entries(log))) == 1


def test_the_card_is_edited_as_by_a_person(tmp_path: Path) -> None:
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(96 << 20)
    table = b"label: dos\nstart=2048, size=131072, type=c\nstart=133120, type=83\n"
    run("sfdisk", "-q", str(image), stdin=table)
    boot, root = partitions(image)
    assert (boot.start, boot.length, root.start) == (1 << 20, 64 << 20, 65 << 20)
    run("mformat", "-i", f"{image}@@{boot.start}", "-T", "131072", "-F", "::")
    card = Card.flash(image, tmp_path / "card")
    card.write("unisat.toml", "[station]\n")
    card.write("unisat.toml", '[station]\nname = "x"\n')
    assert card.names() == ["unisat.toml"]
    assert card.read("unisat.toml") == '[station]\nname = "x"\n'
    assert card.path.stat().st_size == 4 << 30
    with pytest.raises(CardError):
        card.read("absent.txt")
    with card.path.open("r+b") as file:
        file.write(without_boot(card.table))
    assert partitions(card.path) == [root], "a boot partition that is not there yet"


def test_only_the_consoles_of_the_command_line_are_changed() -> None:
    words = "console=serial0,115200 console=tty1 root=LABEL=rootfs rootwait"
    changed = "console=tty1 console=ttyAMA0 root=LABEL=rootfs rootwait"
    assert command_line(words, "tty1", "ttyAMA0") == changed
