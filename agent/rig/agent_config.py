"""Writes the agent's configuration: its TOML file, and the passwords beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Tables = Mapping[str, Mapping[str, Any]]


def write_config(file: Path, tables: Tables, passwords: Mapping[str, str] | None = None) -> None:
    """Writes the file.

    Args:
        file: The TOML file.
        tables: Its tables; `[serial]` in brackets of its own.
        passwords: By sink; each becomes a file beside it, which the sink's table names.
    """
    written = {name: dict(table) for name, table in tables.items()}
    for name, password in (passwords or {}).items():
        secret = file.with_name(f"{name}.password")
        secret.touch(mode=0o600)
        secret.write_text(password)
        written[name]["password_file"] = str(secret)
    # JSON's strings, numbers, booleans and lists of strings are TOML's as well.
    file.write_text(
        "\n".join(
            f"[{name}]\n"
            + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
            for name, table in written.items()
        )
    )
