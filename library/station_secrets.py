"""Ansible module: the secrets that a station or hub has."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: station_secrets
short_description: Keeps a host's secrets on the host, and a copy on the controller
description:
  - A secret is made on the host and stays there; this finds it, also where an earlier version or
    the first boot of a flashed card left it. Where a host has none, the controller's copy is
    taken, and where that has none either, one is made.
  - C(agent_hub_password) comes from the hub's keeper, so the controller's copy goes first, unless
    the host takes its settings from its card.
  - The controller's part is an action plugin of the same name. No secret is returned by it.
options:
  names: {description: The secrets., type: list, elements: str, required: true}
author: UniSat
"""

EXAMPLES = r"""
- name: Take over the secrets
  station_secrets:
    names: [kinto_database_password]
  no_log: true
"""

FOLDER = "var/lib/unisat-station/secrets"
KINTO = "etc/unisat-kinto/secrets.env"
CREDENTIALS = "etc/unisat-agent/credentials"
# Where a secret is in use, for hosts of versions that kept no other copy.
IN_USE = {
    "kinto_database_password": (KINTO, r"^KINTO_STORAGE_URL=[^:\n]+://[^:\n]*:([^@\n]*)@"),
    "kinto_hmac_secret": (KINTO, r"^KINTO_USERID_HMAC_SECRET=(.+)$"),
    "kinto_agent_password": (f"{CREDENTIALS}/local.password", r"^(.+)$"),
    "agent_hub_password": (f"{CREDENTIALS}/hub.password", r"^(.+)$"),
}
# unisat.toml's: the one that the hub knows, where it has a hub.
FROM_CARD = {"agent_hub_password": "hub_password"}


def text(path: Path) -> str:
    """What is in a file; nothing where there is none."""
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""


def find(root: Path, names: list[str]) -> dict[str, str]:
    """The secrets that are there, by name."""
    found = {}
    for name in names:
        file, pattern = IN_USE.get(name, ("", ""))
        used = re.search(pattern, text(root / file), re.MULTILINE) if file else None
        in_use = unquote(used[1]) if used and "URL" in pattern else used[1] if used else ""
        card = text(root / FOLDER / FROM_CARD[name]) if name in FROM_CARD else ""
        # The hub's password is wherever it was written last; the others are made once.
        order = [card, in_use] if name in FROM_CARD else []
        secret = next(filter(None, [*order, text(root / FOLDER / name), in_use]), "")
        if secret:
            found[name] = secret
    return found


def main() -> None:
    """Looks, and changes nothing."""
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str", "required": True, "no_log": False}
        },
        supports_check_mode=True,
    )
    module.exit_json(changed=False, found=find(Path("/"), module.params["names"]))


if __name__ == "__main__":
    main()
