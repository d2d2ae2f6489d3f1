"""How an image is packed, and tried out when it is."""

from __future__ import annotations

import lzma
import shutil
from pathlib import Path

from making.steps import MakingError, run

PIECE_BYTES = 1 << 20


def pack(image: Path, packed: Path) -> None:
    """Compresses the image, and unpacks it again to see that it is the same.

    Raises:
        MakingError: Where it is not.
    """
    # A fixed size of blocks, or the number of processors would show in the result.
    with packed.open("wb") as file:
        run("xz", "--stdout", "--threads=0", "--block-size=24MiB", "-6", str(image), stdout=file)
    with lzma.open(packed) as unpacked, image.open("rb") as file:
        while True:
            piece = file.read(PIECE_BYTES)
            if unpacked.read(PIECE_BYTES) != piece:
                raise MakingError(
                    f"{packed.name} does not unpack to the image: is the disk broken?"
                )
            if not piece:
                return


def map_blocks(image: Path, packed: Path, block_map: Path, scratch: Path) -> None:
    """Lists the blocks that need writing, and writes them to a file to see that it is the image.

    Raises:
        MakingError: Where it is not.
    """
    run("bmaptool", "create", "--output", str(block_map), str(image))
    written = scratch / "card"
    run("bmaptool", "--quiet", "copy", "--bmap", str(block_map), str(packed), str(written))
    with image.open("rb") as one, written.open("rb") as other:
        # What is not mapped at the end is not written, and so is missing in a file.
        for piece in iter(lambda: one.read(PIECE_BYTES), b""):
            if other.read(PIECE_BYTES).ljust(len(piece), b"\0") != piece:
                raise MakingError(f"what bmaptool writes by {block_map.name} is not the image")
    written.unlink()


def check_space(folder: Path, image: Path) -> None:
    """Looks whether the result and what is made on the way have room.

    Raises:
        MakingError: Where they have not.
    """
    used = image.stat().st_blocks * 512
    needed = 3 * used  # a copy with holes, what bmaptool writes, and the compressed one at worst
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise MakingError(
            f"no space in {folder}: {needed >> 20} MB are needed, {free >> 20} MB are free"
        )
