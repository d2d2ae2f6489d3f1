"""Where the passwords are: never in the configuration itself."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from unisat_agent.config.table import Table


def credentials_directory(config: Path) -> Path | None:
    """The folder of the credentials: systemd's for this service, else the one that it reads.

    The second is beside the configuration and lets the operator's commands work with sudo, outside
    of the service. None where there is neither, or this user may not enter it.
    """
    from_systemd = os.environ.get("CREDENTIALS_DIRECTORY")
    if from_systemd:
        return Path(from_systemd)
    beside = config.parent / "credentials"
    return beside if os.access(beside, os.X_OK) else None


def read_password(name: str, table: Table, credentials: Path | None) -> str:
    """The password of a sink: the credential first, then the file that the TOML names."""
    named = table.has("password_file")
    credential = credentials / f"{name}.password" if credentials is not None else None
    if credential is not None and os.access(credential, os.F_OK):
        path = credential
    else:
        if not named:
            table.wrong(
                "password_file",
                f"no password: name a file with mode 0600, or give the systemd credential "
                f"{name}.password",
            )
            return ""
        found = table.file("password_file")
        if found is None:
            return ""
        path = found
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            table.wrong("password_file", f"{path} is open to others: run chmod 600 {path}")
            return ""
    try:
        password = path.read_text(encoding="utf-8").strip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        table.wrong("password_file", f"{path} can't be read: {error}")
        return ""
    if not password:
        table.wrong("password_file", f"{path} is empty: write the password into it")
    return password
