"""`unisat-data`, as a reader runs it, against a real Kinto."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rig.kinto import Kinto
from unisat_data import hub as hubs
from unisat_data.__main__ import main
from unisat_data.download import download
from unisat_data.hub import Hub, HubError

READER = "school"
PASSWORD = "reads-along"
BEGIN = 1_700_000_000
COUNT = 250
# Every 3 s, but for one silence.
TIMES = [BEGIN + 3 * n + (600 if n >= 100 else 0) for n in range(COUNT)]


@pytest.fixture(scope="module")
def kinto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kinto]:
    with Kinto(
        tmp_path_factory.mktemp("hub"), "hub", settings={"kinto.paginate_by": "50"}
    ) as kinto:
        admin = kinto.client()
        admin.create_bucket(id="telemetry")
        kinto.provision_reader(READER, PASSWORD)
        kinto.create_account("stranger", PASSWORD)
        for name in ("u01kz", "u02kz"):
            admin.create_collection(id=name, bucket="telemetry")
        with admin.batch() as batch:
            for n, timestamp in enumerate(TIMES):
                batch.create_record(
                    id=f"r{n}", collection="u01kz",
                    data={
                        "devID": "u01kz", "timestamp": timestamp, "temperature": n / 2,
                        "seq": n, "epoch": "e", "clock": "synced", "groups": {"meteo": []},
                    },
                )  # fmt: skip
        yield kinto


@pytest.fixture
def hub(kinto: Kinto, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setenv("UNISAT_PASSWORD", PASSWORD)
    monkeypatch.setenv("UNISAT_HUB", kinto.url)
    monkeypatch.setattr(hubs, "PAGE", 50)
    return Hub(kinto.url, READER, PASSWORD, pause=lambda _: None)


def table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_devices_are_listed(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--user", READER, "devices"]) == 0
    assert capsys.readouterr().out.split() == ["u01kz", "u02kz"]


def test_records_become_a_table_with_an_account(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "week.csv"
    assert main(["--user", READER, "records", "u01kz", "--out", str(file)]) == 0
    rows = table(file)
    assert [int(row["timestamp"]) for row in rows] == TIMES
    assert rows[0]["time"] == "2023-11-14T22:13:20Z"
    assert [row["temperature"] for row in rows[:3]] == ["0.0", "0.5", "1.0"]
    assert list(rows[0])[:4] == ["time", "timestamp", "devID", "temperature"]
    told = capsys.readouterr().out
    assert "250 records from 2023-11-14T22:13:20Z" in told
    assert "1 gap of 603 s" in told
    assert not file.with_name("week.csv.part").exists()


def test_a_range_is_of_the_devices_time(hub: Hub, tmp_path: Path) -> None:
    file = tmp_path / "range.jsonl"
    account = download(hub, "u01kz", file, "jsonl", TIMES[10], TIMES[20], lambda _: None)
    assert account.records == 10
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert [record["timestamp"] for record in records] == TIMES[10:20]


def test_parquet_has_the_same_rows(hub: Hub, tmp_path: Path) -> None:
    """In processes of their own: pyarrow's threads stay, and take signals meant for others."""
    file = tmp_path / "u01kz.parquet"
    words = ["--user", READER, "records", "u01kz", "--format", "parquet", "--out", str(file)]
    subprocess.run([sys.executable, "-m", "unisat_data", *words], check=True, timeout=60)
    code = "import sys; from pyarrow import parquet; t = parquet.read_table(sys.argv[1])"
    told = subprocess.run(
        [sys.executable, "-c", f"{code}; print(t.column('timestamp').to_pylist())", str(file)],
        check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert json.loads(told.stdout) == TIMES


class CutError(Exception):
    """The reader's computer was switched off."""


def test_a_download_that_was_cut_off_goes_on(hub: Hub, tmp_path: Path) -> None:
    file = tmp_path / "all.csv"

    def cut(count: int) -> None:
        if count >= 100:
            raise CutError

    with pytest.raises(CutError):
        download(hub, "u01kz", file, "csv", None, None, cut)
    assert not file.exists()
    # And with half a line, as a power cut leaves it.
    part = file.with_name("all.csv.part")
    part.write_text(part.read_text()[:-10])
    counts: list[int] = []
    account = download(hub, "u01kz", file, "csv", None, None, counts.append)
    assert counts[0] == 149  # what was there is not fetched again
    assert account.records == COUNT
    assert [int(row["timestamp"]) for row in table(file)] == TIMES


def test_the_beginning_of_another_download_is_not_mixed_in(hub: Hub, tmp_path: Path) -> None:
    file = tmp_path / "all.csv"

    def cut(_: int) -> None:
        raise CutError

    with pytest.raises(CutError):
        download(hub, "u01kz", file, "csv", None, None, cut)
    with pytest.raises(HubError, match="another download"):
        download(hub, "u02kz", file, "csv", None, None, cut)


def test_a_record_that_changed_meanwhile_is_there_once(
    hub: Hub, kinto: Kinto, tmp_path: Path
) -> None:
    file = tmp_path / "all.jsonl"
    admin = kinto.client()
    changed = False

    def change(count: int) -> None:
        nonlocal changed
        if not changed:
            changed = True
            admin.patch_record(id="r3", collection="u01kz", data={"clock": "corrected"})

    account = download(hub, "u01kz", file, "jsonl", None, None, change)
    assert (account.records, account.duplicates) == (COUNT, 1)
    clocks = {
        record["id"]: record["clock"]
        for record in (json.loads(line) for line in file.read_text().splitlines())
    }
    assert clocks["r3"] == "corrected"
    admin.patch_record(id="r3", collection="u01kz", data={"clock": "synced"})


def test_a_hub_that_is_away_is_waited_for(hub: Hub, kinto: Kinto, tmp_path: Path) -> None:
    waits: list[float] = []
    patient = replace(hub, url="http://127.0.0.1:9/v1", pause=waits.append)
    with pytest.raises(HubError, match="does not answer"):
        patient.devices()
    assert len(waits) == hubs.TRIES - 1
    assert waits == sorted(waits)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--user", "nobody", "records", "u01kz"], "does not know this account"),
        (["--user", "stranger", "records", "u01kz"], "may not read"),
        (["--user", READER, "records", "nosuch"], "no such device"),
        (["--user", READER, "series", "u01kz", "--fields", "temperature"], "an older one"),
        (["--hub", "hub.example.org", "devices"], "write https://"),
    ],
)
def test_what_is_refused_is_one_sentence(
    hub: Hub, words: list[str], told: str, capsys: pytest.CaptureFixture[str],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_an_empty_range_says_so(hub: Hub, tmp_path: Path, capsys: Any) -> None:
    words = ["--user", READER, "records", "u01kz", "--from", "2020-01-01", "--to", "2020-01-02"]
    assert main([*words, "--out", str(tmp_path / "none.csv")]) == 0
    assert "0 records" in capsys.readouterr().out
