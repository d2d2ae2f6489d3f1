"""The passwords that a station makes for itself, once, and never replaces."""

from __future__ import annotations

import secrets
import string
from pathlib import Path

from unisat_station.machine import STATE, owner, write

LENGTH = 32
ALPHABET = string.ascii_letters + string.digits  # safe in an address and in a settings file
FOLDER = STATE / "secrets"
CREDENTIALS = Path("/etc/unisat-agent/credentials")
KINTO = Path("/etc/unisat-kinto/secrets.env")


def secret(name: str) -> str:
    """The secret of that name, which is made when it is asked for the first time."""
    path = FOLDER / name
    FOLDER.mkdir(mode=0o700, parents=True, exist_ok=True)
    kept = path.read_text(encoding="utf-8").strip() if path.exists() else ""
    if kept:
        return kept
    made = "".join(secrets.choice(ALPHABET) for _ in range(LENGTH))
    write(path, made + "\n", 0o600)
    return made


def make() -> None:
    """Makes what is missing of the secrets and of the files that carry them."""
    if owner() == "controller":
        return  # which writes these files, with the same secrets
    password = secret("kinto_database_password")
    url = f"postgresql+psycopg2://kinto:{password}@/kinto?host=/run/postgresql"
    write(
        KINTO,
        f"KINTO_STORAGE_URL={url}\n"
        f"KINTO_PERMISSION_URL={url}\n"
        f"KINTO_USERID_HMAC_SECRET={secret('kinto_hmac_secret')}\n",
        0o600,
    )
    CREDENTIALS.mkdir(mode=0o755, parents=True, exist_ok=True)
    write(CREDENTIALS / "local.password", secret("kinto_agent_password") + "\n", 0o600)
    hub = CREDENTIALS / "hub.password"
    # Until unisat.toml brings the hub's own: systemd refuses a service whose credential is missing.
    if not hub.exists() or not hub.stat().st_size:
        write(hub, secret("agent_hub_password") + "\n", 0o600)
