"""The controller's part of the module station_secrets: decides, and keeps both copies."""

from __future__ import annotations

import os
import secrets
import string
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase

LENGTH = 32
ALPHABET = string.ascii_letters + string.digits  # safe in an address and in a settings file
ON_HOST = "/var/lib/unisat-station/secrets"
# Given by the hub's keeper, who may give another one.
OF_CONTROLLER = frozenset({"agent_hub_password"})


class _UnreadableError(Exception):
    """A secret that cannot be read, as one sentence."""


def decide(
    names: list[str], found: dict[str, str], copies: dict[str, str], *, of_card: bool
) -> dict[str, str]:
    """Each secret as it is from now on, in both places.

    Args:
        names: The secrets.
        found: Those that the host has.
        copies: Those that the controller has.
        of_card: The host takes its settings from its card.
    """
    decided = {}
    for name in names:
        order = [found.get(name), copies.get(name)]
        if name in OF_CONTROLLER and not of_card:
            order.reverse()
        made = "".join(secrets.choice(ALPHABET) for _ in range(LENGTH))
        decided[name] = next((secret for secret in order if secret), made)
    return decided


class ActionModule(ActionBase):
    """Runs on the controller, for one host."""

    _requires_connection = True

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Returns `changed`, and a sentence in `msg` where it failed."""
        del tmp
        known = task_vars or {}
        names = [str(name) for name in self._task.args["names"]]
        looked = self._execute_module("station_secrets", {"names": names}, task_vars=known)
        if looked.get("failed") or looked.get("unreachable"):
            return dict(looked)
        found = {str(name): str(secret) for name, secret in looked["found"].items()}
        folder = Path(
            self._templar.template(known.get("unisat_secrets_dir"))
            or f"{known.get('inventory_dir') or '.'}/secrets",
            known["inventory_hostname"],
        )
        try:
            copies = self._copies(folder, names)
        except _UnreadableError as error:
            return {"failed": True, "msg": str(error)}
        of_card = bool(self._task.args.get("of_card"))
        decided = decide(names, found, copies, of_card=of_card)
        stale = [name for name in copies if copies[name] != decided[name]]
        for name in stale:
            if (folder / name).read_bytes().startswith(b"$ANSIBLE_VAULT"):
                return {
                    "failed": True,
                    "msg": f"{folder / name} is not the secret that the host has, which holds: "
                    "remove the file, run this again, and encrypt what it writes",
                }
        here = [name for name in names if copies.get(name) != decided[name]]
        written = self._execute_module(
            "config_files",
            {
                "files": [
                    {"dest": f"{ON_HOST}/{name}", "content": f"{decided[name]}\n", "mode": "0600"}
                    for name in names
                ]
            },
            task_vars=known,
        )
        if written.get("failed") or written.get("unreachable"):
            return dict(written)
        if not self._task.check_mode:
            for name in here:
                self._write(folder / name, decided[name])
        return {"changed": bool(written["changed"] or here), "names": here}

    def _copies(self, folder: Path, names: list[str]) -> dict[str, str]:
        found = {}
        for name in names:
            if (folder / name).exists():
                try:
                    secret = str(self._loader.get_text_file_contents(str(folder / name))).strip()
                except AnsibleError as error:
                    raise _UnreadableError(
                        f"The secret {folder / name} cannot be decrypted: give the vault password "
                        "that it was encrypted with (--ask-vault-pass or --vault-password-file)"
                    ) from error
                if secret:
                    found[name] = secret
        return found

    def _write(self, path: Path, secret: str) -> None:
        if not path.parent.parent.exists():
            path.parent.parent.mkdir(mode=0o700, parents=True)
            (path.parent.parent / ".gitignore").write_text("*\n")
        path.parent.mkdir(mode=0o700, exist_ok=True)
        fresh = path.with_name(f".{path.name}.new")
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"{secret}\n")
            os.fsync(file.fileno())
        fresh.replace(path)
