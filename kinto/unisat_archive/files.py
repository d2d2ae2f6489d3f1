"""The archive's files: written beside, read back, then put in place: a power cut harms none.

ROOT/DEVICE/DEVICE-MONTH.parquet, .csv.gz, and .json, which is the month's manifest. All three are
made in the folder `.new-MONTH`, the manifest last: with a manifest in it the folder is complete,
and is put in place by whoever finds it; without one it is removed.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import itertools
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow
from pyarrow import parquet

from unisat_archive.tables import (
    Kinds,
    Record,
    cell,
    columns,
    decoded,
    encoded,
    moment,
)

# Rows in memory at a time, and in a row group.
GROUP = 5000
_TYPES = {
    "boolean": pyarrow.bool_(),
    "integer": pyarrow.int64(),
    "double": pyarrow.float64(),
    "string": pyarrow.string(),
    "json": pyarrow.string(),
}
_TIME = pyarrow.timestamp("ms", tz="UTC")
Manifest = dict[str, Any]


class DamagedError(Exception):
    """A file of the archive is not what it was; the text says which, and what to do."""


def names(device: str, month: str) -> tuple[str, str, str]:
    """What a month's Parquet, CSV and manifest are called."""
    stem = f"{device}-{month}"
    return f"{stem}.parquet", f"{stem}.csv.gz", f"{stem}.json"


def manifest(root: Path, device: str, month: str) -> Manifest | None:
    """What the archive holds of a month; None where that is nothing."""
    try:
        text = (root / device / names(device, month)[2]).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    return cast("Manifest", json.loads(text))


def records(root: Path, device: str, month: str) -> Iterator[Record]:
    """The records of a month that is archived, as they were.

    Raises:
        DamagedError: The file's hash is not the manifest's.
    """
    found = manifest(root, device, month)
    if found is None:
        return
    file = root / device / names(device, month)[0]
    if not file.exists() or _digest(file) != found["files"][file.name]["sha256"]:
        raise DamagedError(
            f"{file} is damaged: its SHA-256 is not the one in its manifest; put back an intact"
            f" copy of it, or remove it and the files beside it"
        )
    yield from _rows(file, found["columns"])


def write(root: Path, device: str, month: str, kinds: Kinds, rows: Iterable[Record]) -> Manifest:
    """Writes a month beside its place, and reads it back.

    Raises:
        DamagedError: What was read back is not what was written.
        OSError: There is no room.
    """
    folder = root / device / f".new-{month}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    parquet_name, csv_name, manifest_name = names(device, month)
    made = _write_tables(folder / parquet_name, folder / csv_name, kinds, rows)
    for file, content in (
        (folder / parquet_name, _digest_of_rows(_rows(folder / parquet_name, kinds), kinds)),
        (folder / csv_name, _digest_of_csv(folder / csv_name)),
    ):
        if content != made["csv_sha256"]:
            raise DamagedError(f"{file} was not read back as it was written: is the disk sound?")
        made["files"][file.name] = {"bytes": file.stat().st_size, "sha256": _digest(file)}
    whole: Manifest = {"device": device, "month": month, **made}
    replace_text(folder / manifest_name, json.dumps(whole, indent=1) + "\n")
    _sync(folder)
    return whole


def put_in_place(root: Path, device: str, month: str) -> None:
    """Gives a month that was written its place; can be done again after it was cut off."""
    target = root / device
    folder = target / f".new-{month}"
    # The manifest last: as long as it is here, the folder counts as complete.
    for name in names(device, month):
        if (folder / name).exists():
            (folder / name).replace(target / name)
            _sync(target)
    folder.rmdir()
    _sync(root)


def recover(root: Path) -> None:
    """Finishes or removes what an interrupted run has left."""
    for folder in sorted(root.glob("*/.new-*")):
        device, month = folder.parent.name, folder.name.removeprefix(".new-")
        if (folder / names(device, month)[2]).exists() or not list(folder.iterdir()):
            put_in_place(root, device, month)
        else:
            shutil.rmtree(folder)


def write_index(root: Path) -> None:
    """Writes index.json: how many records of each device and month there are."""
    index: dict[str, dict[str, int]] = {}
    for file in sorted(root.glob("*/*.json")):
        found = json.loads(file.read_text(encoding="utf-8"))
        index.setdefault(found["device"], {})[found["month"]] = found["records"]
    replace_text(root / "index.json", json.dumps({"devices": index}, indent=1) + "\n")


def replace_text(file: Path, text: str) -> None:
    """Writes a small file, on the disk before it has its name."""
    part = file.with_name(f".{file.name}.part")
    with part.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(file)
    _sync(file.parent)


def _write_tables(
    parquet_file: Path, csv_file: Path, kinds: Kinds, rows: Iterable[Record]
) -> Manifest:
    """Both tables in one pass; returns what the manifest says of them."""
    schema = pyarrow.schema([(name, _type(name, kinds)) for name in columns(kinds)])
    count, first, last = 0, None, None
    digest = hashlib.sha256()
    with ExitStack() as opened:
        packed = opened.enter_context(
            gzip.GzipFile("", "wb", 6, opened.enter_context(_created(csv_file)), mtime=0)
        )
        table = opened.enter_context(
            parquet.ParquetWriter(
                opened.enter_context(_created(parquet_file)), schema, compression="zstd"
            )
        )
        for group in _groups(rows):
            text = _text(group, kinds, head=not count)
            digest.update(text)
            packed.write(text)
            table.write_batch(_batch(group, kinds, schema))
            first = group[0]["timestamp"] if first is None else first
            last = group[-1]["timestamp"]
            count += len(group)
    return {
        "records": count, "first": first, "last": last, "columns": kinds,
        "csv_sha256": digest.hexdigest(), "files": {},
    }  # fmt: skip


def _type(name: str, kinds: Kinds) -> Any:
    # A column that is no field is `time`.
    return _TYPES[kinds[name]] if name in kinds else _TIME


def _groups(rows: Iterable[Record]) -> Iterator[list[Record]]:
    rest = iter(rows)
    while group := list(itertools.islice(rest, GROUP)):
        yield group


def _values(record: Record, name: str, kinds: Kinds) -> Any:
    return encoded(record.get(name), kinds[name]) if name in kinds else moment(record)


def _batch(group: list[Record], kinds: Kinds, schema: Any) -> Any:
    arrays = [
        pyarrow.array([_values(record, field.name, kinds) for record in group], field.type)
        for field in schema
    ]
    return pyarrow.record_batch(arrays, schema=schema)


def _text(group: list[Record], kinds: Kinds, *, head: bool) -> bytes:
    """Lines of CSV."""
    order = columns(kinds)
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    if head:
        table.writerow(order)
    for record in group:
        table.writerow(cell(_values(record, name, kinds)) for name in order)
    return text.getvalue().encode()


def _rows(file: Path, kinds: Kinds) -> Iterator[Record]:
    """The records of a Parquet file, as they were before they were encoded."""
    with parquet.ParquetFile(file) as table:
        for batch in table.iter_batches(GROUP, columns=list(kinds)):
            for row in batch.to_pylist():
                yield {
                    name: decoded(value, kinds[name])
                    for name, value in row.items()
                    if value is not None
                }


def _digest_of_rows(rows: Iterator[Record], kinds: Kinds) -> str:
    digest = hashlib.sha256()
    for number, group in enumerate(_groups(rows)):
        digest.update(_text(group, kinds, head=not number))
    return digest.hexdigest()


def _digest_of_csv(file: Path) -> str:
    with gzip.GzipFile(file, "rb") as text:
        return hashlib.file_digest(text, "sha256").hexdigest()


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


@contextmanager
def _created(file: Path) -> Iterator[BinaryIO]:
    """A new file, on the disk when it is closed."""
    with file.open("wb") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())


def _sync(folder: Path) -> None:
    """What was named or renamed in the folder, on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
