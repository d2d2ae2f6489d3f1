"""What `make update` leaves in build/update."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

IMAGE = Path(__file__).resolve().parents[3] / "image"


def maker() -> ModuleType:
    """The program, which has no suffix."""
    sys.path.append(str(IMAGE))
    loader = importlib.machinery.SourceFileLoader("update_maker", str(IMAGE / "update"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = found
    loader.exec_module(found)
    return found


def test_only_the_newest_versions_and_the_one_that_is_offered_stay(tmp_path: Path) -> None:
    web = tmp_path / "web"
    (web / "parts").mkdir(parents=True)
    # Version 1 is offered; each has a part of its own, and one that all share.
    for serial in range(1, 7):
        parts = [{"sha256": "shared"}, {"sha256": f"of-{serial}"}]
        (web / f"{serial}.0-arm64.json").write_text(json.dumps({"serial": serial, "parts": parts}))
        (web / f"{serial}.0-arm64.json.minisig").touch()
        (tmp_path / f"unisat-{serial}.0-arm64.update").touch()
        for part in parts:
            (web / "parts" / part["sha256"]).touch()
    (web / "stable.json").write_text(json.dumps({"manifests": {"arm64": "1.0-arm64.json"}}))
    (web / "stable.json.minisig").touch()
    maker().forget(tmp_path)
    stay = [1, 4, 5, 6]
    assert {file.name for file in tmp_path.glob("*.update")} == {
        f"unisat-{serial}.0-arm64.update" for serial in stay
    }
    assert {file.name for file in web.glob("*.json*")} == {
        *("stable.json", "stable.json.minisig"),
        *(f"{serial}.0-arm64.json{end}" for serial in stay for end in ("", ".minisig")),
    }
    assert {file.name for file in (web / "parts").iterdir()} == {
        "shared",
        *(f"of-{serial}" for serial in stay),
    }
