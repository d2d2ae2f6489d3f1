"""`unisat-data replay`: one page with the data inside."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from unisat_data.__main__ import main


def flight(page: Path) -> dict[str, object]:
    """The data in a page."""
    found = re.search(r'id="flight">(.*?)</script>', page.read_text())
    assert found is not None
    read: dict[str, object] = json.loads(found[1])
    return read


def test_a_csv_becomes_one_page_that_asks_nobody(tmp_path: Path) -> None:
    (tmp_path / "u01.csv").write_text(
        "received_at,timestamp,devID,seq,temperature,note\r\n"
        "2026-11-25T08:00:03.5Z,1795593603,u01,2,21.5,</script><b>\r\n"
        "2026-11-25T08:00:00Z,1795593600,u01,1,nan,x\r\n"
        "# u01 epoch e numbers 1-2: sent 2, stored 2\r\n"
    )
    assert main(["replay", str(tmp_path / "u01.csv")]) == 0
    page = tmp_path / "u01.html"
    assert flight(page)["time"] == [1795593600.0, 1795593603.5]
    assert flight(page)["fields"] == {"temperature": [None, 21.5]}
    text = page.read_text()
    assert "default-src 'none'" in text
    assert not re.search(r"https?://|src=|href=", text)


def test_json_lines_become_a_page(tmp_path: Path) -> None:
    record = {"devID": "<img>", "timestamp": 5, "lat": 1.5, "long": 2, "battery": True}
    (tmp_path / "f.jsonl").write_text(f"{json.dumps(record)}\n")
    out = tmp_path / "out.html"
    assert main(["replay", str(tmp_path / "f.jsonl"), "--out", str(out)]) == 0
    assert flight(out)["fields"] == {"lat": [1.5], "long": [2.0]}
    assert flight(out)["device"] == "<img>"
    assert "<img>" not in out.read_text()


@pytest.mark.parametrize("text", ["a,b\r\n1,2\r\n", ""])
def test_a_file_without_records_is_named(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.csv").write_text(text)
    assert main(["replay", str(tmp_path / "x.csv")]) == 1
    assert "x.csv holds no records with a time" in capsys.readouterr().err
