"""`unisat-data series` against the plugin."""

from __future__ import annotations

import csv
import io

import pytest

from conftest import Network, User
from test_reading import START, at
from unisat_data.__main__ import main


def test_series_as_csv(
    network: Network, station: User, collection: str,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    station.ingest(collection, [at(0, pm25=1.0), at(30, pm25=3.0), at(3600)])
    reader = network.user("reader")
    monkeypatch.setenv("UNISAT_PASSWORD", reader.password)
    device = collection.rpartition("/")[2]
    words = ["--hub", reader.url, "--user", reader.name, "series", device]
    window = ["--from", "2022-08-19T14:00", "--to", "2022-08-19T16:00"]
    assert main([*words, *window, "--fields", "pm25,absent", "--points", "4"]) == 0
    assert START == 1660917600  # 14:00 of that day
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert rows == [
        ["time", "field", "min", "mean", "max", "count"],
        ["2022-08-19T14:00:00+00:00", "pm25", "1.0", "2.0", "3.0", "2"],
        ["2022-08-19T15:00:00+00:00", "pm25", "4.0", "4.0", "4.0", "1"],
    ]
