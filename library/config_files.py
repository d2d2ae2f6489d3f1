"""Ansible module: several configuration files written in one step."""

from __future__ import annotations

import math
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: config_files
short_description: Writes several configuration files in one step
description:
  - What ansible.builtin.copy with O(files[].content) does, for many files at once. A task costs
    about a second on a test host, two on a Raspberry Pi and twenty in an emulated chroot,
    whatever it does; a role that writes nine files as nine tasks spends its time on connecting.
  - Missing parent directories are made (root, 0755). Works with --check and --diff.
options:
  files:
    description: The files. Nothing is written when one of them fails its validation.
    type: list
    elements: dict
    required: true
    suboptions:
      dest: {description: Absolute path on the host., type: path, required: true}
      content: {description: The whole text., type: str}
      link: {description: Make dest a symbolic link to this path instead., type: path}
      state:
        description: Whether the file should be there.
        type: str
        choices: [present, absent]
        default: present
      mode: {description: Permissions of the file., type: raw, default: "0644"}
      owner: {description: Name of the owner., type: str, default: root}
      group: {description: Name of the group., type: str, default: root}
      validate:
        description: Command that must accept the text, which it finds in a file named %s.
        type: str
      secret: {description: Keep the text out of --diff., type: bool, default: false}
      unit:
        description:
          - The systemd unit that reads the file. Where it runs, and was last started or reloaded
            before the file was written, the file counts as changed, and so notifies. What a run
            wrote that was killed before its handlers is applied by the next one.
        type: str
author: UniSat
"""

EXAMPLES = r"""
- name: Write the configuration
  config_files:
    files:
      - {dest: /etc/localtime, link: /usr/share/zoneinfo/Etc/UTC}
      - dest: /etc/example.conf
        content: "{{ lookup('ansible.builtin.template', 'example.conf.j2') }}"
        validate: example --check %s
  register: __example_files
  notify: Restart example
"""

RETURN = r"""
paths:
  description: The files that were changed, or would be with --check, or wait for their unit.
  type: list
  elements: str
  returned: always
"""

OPTIONS: dict[str, Any] = {
    "dest": {"type": "path", "required": True},
    "content": {"type": "str"},
    "link": {"type": "path"},
    "state": {"choices": ["present", "absent"], "default": "present"},
    "mode": {"type": "raw", "default": "0644"},
    "owner": {"default": "root"},
    "group": {"default": "root"},
    "validate": {"type": "str"},
    "secret": {"type": "bool", "default": False},
    "unit": {"type": "str"},
}


def text_of(path: Path) -> str | None:
    """The text of a file; None where there is none."""
    try:
        return path.read_bytes().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return None


def encoded(item: dict[str, Any]) -> bytes:
    """The bytes that the file should hold."""
    text: str = item["content"]
    return text.encode("utf-8", "surrogateescape")


def difference(item: dict[str, Any]) -> tuple[str, str] | None:
    """What is there and what should be, for --diff; None when both are the same."""
    dest = Path(item["dest"])
    if item["state"] == "absent":
        there = dest.is_symlink() or dest.exists()
        return (text_of(dest) or "", "") if there else None
    if item["link"] is not None:
        target = str(dest.readlink()) if dest.is_symlink() else "nothing"
        wanted = item["link"]
        return None if target == wanted else (f"link to {target}\n", f"link to {wanted}\n")
    before, after = text_of(dest), item["content"]
    return None if before == after and not dest.is_symlink() else (before or "", after)


def validate(module: AnsibleModule, item: dict[str, Any]) -> None:
    """Ask the program that will read the file; ends the module when it refuses."""
    if not item["validate"] or item["content"] is None:
        return
    with tempfile.NamedTemporaryFile(dir=module.tmpdir) as file:
        file.write(encoded(item))
        file.flush()
        code, out, err = module.run_command(item["validate"].replace("%s", file.name))
    if code:
        said = "\n".join(part.strip() for part in (err, out) if part.strip())
        module.fail_json(msg=f"{item['dest']} was refused by its own program: {said}")


def write(module: AnsibleModule, item: dict[str, Any]) -> None:
    """Make one change; a file is replaced whole or not at all, also when the power goes."""
    dest = Path(item["dest"])
    if item["state"] == "absent":
        dest.unlink()
        sync(dest.parent)
        return
    dest.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    new = dest.with_name(f".{dest.name}.new")
    new.unlink(missing_ok=True)
    if item["link"] is not None:
        new.symlink_to(item["link"])
    else:
        # 0600 and the owner before the first byte: nobody else reads a secret, not for a moment.
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            module.set_fs_attributes_if_different(attributes(new, item), changed=False)
            file.write(encoded(item))
            file.flush()
            os.fsync(file.fileno())
    new.replace(dest)
    sync(dest.parent)


def sync(folder: Path) -> None:
    """Put the names in a folder on the disk."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def attributes(path: Path, item: dict[str, Any]) -> dict[str, Any]:
    """Mode and owner in the form that AnsibleModule takes."""
    unset = ("seuser", "serole", "setype", "selevel", "secontext", "attributes")
    wanted = {key: item[key] for key in ("mode", "owner", "group")}
    return {**dict.fromkeys(unset), "path": str(path), **wanted}


def read_at(module: AnsibleModule, unit: str) -> float:
    """How many seconds ago a unit read its files, which is infinite where it has yet to.

    An age, and not a time of day: a Raspberry Pi boots with a wrong clock.
    """
    wanted = "ActiveState,NeedDaemonReload,StateChangeTimestampMonotonic"
    code, out, _ = module.run_command(["systemctl", "show", f"--property={wanted}", unit])
    said = dict(line.split("=", 1) for line in out.splitlines() if "=" in line)
    if not code and said.get("NeedDaemonReload") == "yes":
        return math.inf
    if code or said.get("ActiveState") != "active":
        return 0.0  # Its next start reads what is there.
    return time.monotonic() - int(said["StateChangeTimestampMonotonic"]) / 1_000_000


def waiting(module: AnsibleModule, files: list[dict[str, Any]]) -> list[str]:
    """The files that were written after their units last read them."""
    units = {item["unit"] for item in files if item["unit"]}
    ages_s = {unit: read_at(module, unit) for unit in units}
    found = []
    for item in files:
        dest = item["dest"]
        if item["unit"] and item["state"] == "present" and os.path.lexists(dest):
            # Negative, it was written by a clock that was wrong.
            age_s = time.time() - os.lstat(dest).st_mtime
            if 0 <= age_s < ages_s[item["unit"]]:
                found.append(dest)
    return found


def main() -> None:
    """Compare all, validate what differs, then write."""
    module = AnsibleModule(
        argument_spec={
            "files": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": OPTIONS,
                "mutually_exclusive": [("content", "link")],
            }
        },
        supports_check_mode=True,
    )
    files: list[dict[str, Any]] = module.params["files"]
    for item in files:
        if item["state"] == "present" and item["content"] is None and item["link"] is None:
            module.fail_json(msg=f"{item['dest']}: give content, link or state: absent")

    diffs: list[dict[str, str]] = []

    def note(item: dict[str, Any], before: str, after: str) -> None:
        if item["secret"]:
            before, after = "(hidden)\n", "(hidden, different)\n"
        dest = item["dest"]
        diffs.append(
            {"before_header": dest, "after_header": dest, "before": before, "after": after}
        )

    changes = []
    for item in files:
        found = difference(item)
        if found is not None:
            changes.append(item)
            note(item, *found)
    if not module.check_mode:  # where the validating programs may not be installed yet
        for item in changes:
            validate(module, item)
        for item in changes:
            write(module, item)

    paths = [item["dest"] for item in changes]
    for item in files:
        dest = Path(item["dest"])
        if (
            item["content"] is None
            or item["state"] == "absent"
            or dest.is_symlink()
            or not dest.exists()
        ):
            continue
        diff: dict[str, Any] = {}
        if module.set_fs_attributes_if_different(attributes(dest, item), changed=False, diff=diff):
            paths.append(item["dest"])
            note(item, f"{diff.get('before')}\n", f"{diff.get('after')}\n")
    paths += [dest for dest in waiting(module, files) if dest not in paths]
    module.exit_json(changed=bool(paths), paths=paths, diff=diffs)


if __name__ == "__main__":
    main()
