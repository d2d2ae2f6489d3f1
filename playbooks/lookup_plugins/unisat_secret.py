"""Lookup of a host's secret, which is made when it is asked for the first time."""

from __future__ import annotations

import os
import re
import secrets
import string
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError, AnsibleLookupError
from ansible.plugins.lookup import LookupBase

DOCUMENTATION = """
name: unisat_secret
author: UniSat
short_description: a host's secret, made on first use
description:
  - Reads C(DIRECTORY/HOST/NAME) on the controller, or makes it, with 32 random characters. With
    C(--check) nothing is made.
  - A file that C(ansible-vault encrypt) encrypted is decrypted with the vault password given.
  - DIRECTORY is the variable C(unisat_secrets_dir), by default C(secrets) beside the inventory.
options:
  _terms:
    description: the secret's name
    required: true
  host:
    description: whose secret; by default that of the host at hand
    type: str
"""

LENGTH = 32
ALPHABET = string.ascii_letters + string.digits  # safe in an address and in a settings file
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


# Stands for a secret in a dry run.
NOT_MADE = "made-by-the-first-real-run"


def make_folder(folder: Path) -> None:
    """Makes the folder of all secrets, which git leaves alone wherever it lies."""
    if not folder.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / ".gitignore").write_text("*\n")


class LookupModule(LookupBase):
    """Reads or makes one secret for each name given."""

    def run(
        self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[str]:
        """Returns the secrets named, in their order."""
        known = variables or {}
        self.set_options(var_options=known, direct=kwargs)
        host = self.get_option("host") or known["inventory_hostname"]
        folder = known.get("unisat_secrets_dir") or f"{known.get('inventory_dir') or '.'}/secrets"
        folder = str(self._templar.template(folder))
        for part in (host, *terms):
            if not NAME.fullmatch(part):
                raise AnsibleLookupError(f"{part!r} cannot be the name of a secret or its host")
        dry = bool(known.get("ansible_check_mode"))
        return [self._read(Path(folder, host, name), dry=dry) for name in terms]

    def _read(self, path: Path, *, dry: bool) -> str:
        if dry and not path.exists():
            return NOT_MADE
        make_folder(path.parent.parent)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        if not path.exists():
            # Written whole under another name first: of several that make it at once, one wins.
            fresh.touch(mode=0o600)
            fresh.write_text("".join(secrets.choice(ALPHABET) for _ in range(LENGTH)) + "\n")
            try:
                os.link(fresh, path)
            except FileExistsError:
                pass
            finally:
                fresh.unlink()
        try:
            content = self._loader.get_text_file_contents(str(path))
        except AnsibleError as error:
            raise AnsibleLookupError(
                f"The secret {path} cannot be decrypted: give the vault password that it was"
                " encrypted with (--ask-vault-pass or --vault-password-file)"
            ) from error
        secret = str(content).strip()
        if not secret:
            raise AnsibleLookupError(f"The secret {path} is empty: fill it in, or remove the file")
        return secret
