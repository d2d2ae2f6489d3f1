"""Lookup of what is wrong in the inventory, before any host is asked."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase

DOCUMENTATION = """
name: unisat_inventory
author: UniSat
short_description: the mistakes in the inventory, a sentence each
description:
  - With the term V(host) the mistakes in the variables of the host at hand, by the roles'
    argument specifications, unknown names included.
  - With the term V(fleet) those that take more than one host to see, or the inventory's files.
options:
  _terms:
    description: V(host) or V(fleet)
    required: true
"""

ROLES = Path(__file__).resolve().parents[2] / "roles"
# What the playbooks themselves can be told.
PLAYBOOKS = {
    "update_serial": "raw",
    "update_gate_s": "int",
    "update_packages": "bool",
    "update_backup": "bool",
    "restore_from": "path",
    "restore_keep_present": "bool",
    "restore_other_station": "bool",
    "migrate_container": "str",
    "migrate_data": "path",
    "migrate_dump": "path",
    "migrate_postgres_bin": "path",
    "unisat_backup_dir": "path",
    "unisat_secrets_dir": "path",
}
# Of Ansible's own variables those that are written by hand, and their old names.
CONNECTION = [
    *("ansible_host", "ansible_user", "ansible_port", "ansible_password", "ansible_connection"),
    *("ansible_become", "ansible_become_user", "ansible_become_password", "ansible_become_pass"),
    *("ansible_ssh_host", "ansible_ssh_user", "ansible_ssh_port", "ansible_ssh_pass"),
    *("ansible_ssh_private_key_file", "ansible_private_key_file", "ansible_python_interpreter"),
    *("ansible_become_method", "ansible_ssh_password", "ansible_become_exe"),
]
GROUP_KEYS = ("hosts", "vars", "children")
LIKE = 0.85
YES_OR_NO = {"yes", "no", "true", "false", "on", "off", "1", "0"}

Spec = Mapping[str, Any]


def is_list(value: object) -> bool:
    """Whether it is a list, which a text is not."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def is_int(value: object) -> bool:
    """Whether it is a whole number, also one that a template has made a text of."""
    if isinstance(value, str):
        return value.lstrip("-").isdigit()
    return isinstance(value, int) and not isinstance(value, bool)


KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "list": ("a list, in square brackets", is_list),
    "dict": ("names with values, such as {name: value}", lambda v: isinstance(v, Mapping)),
    "int": ("a whole number", is_int),
    "float": ("a number", lambda v: is_int(v) or isinstance(v, float)),
    "bool": (
        "true or false",
        lambda v: isinstance(v, bool) or str(v).lower() in YES_OR_NO,
    ),
    "str": ("a text", lambda v: isinstance(v, str | int | float) and not isinstance(v, bool)),
    "path": ("a path", lambda v: isinstance(v, str)),
}


def meant(name: str, known: Sequence[str]) -> str:
    """The name that was probably meant; empty where none is like it."""
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=0.7)), "")


def unknown(names: Iterator[str] | Sequence[str], known: Mapping[str, Spec]) -> Iterator[str]:
    """Sentences on names that no role reads: those that begin as a role's, or are very like one."""
    prefixes = {name.partition("_")[0] + "_" for name in known}
    for name in sorted(names):
        if name in known or name in CONNECTION or name.startswith("_"):
            continue
        if name.startswith("ansible_"):
            like = difflib.get_close_matches(name, CONNECTION, n=1, cutoff=LIKE + 0.05)
        elif any(name.startswith(prefix) for prefix in prefixes):
            close = meant(name, list(known))
            hint = f"did you mean {close}?" if close else "remove it, or see the roles' READMEs"
            yield f"{name} is not known: {hint}"
            continue
        else:
            like = difflib.get_close_matches(name, list(known), n=1, cutoff=LIKE)
        if like:
            yield f"{name} is not known: did you mean {like[0]}?"


def mistake(name: str, value: Any, spec: Spec) -> str:
    """What is wrong with a value, or nothing."""
    what, fits = KINDS.get(str(spec.get("type", "str")), ("", lambda _: True))
    if not fits(value):
        return f"{name} must be {what}, not {value!r}"
    choices = spec.get("choices")
    if choices and str(value) not in map(str, choices):
        return f"{name} must be one of {', '.join(map(str, choices))}, not {value!r}"
    if spec.get("type") == "list" and "elements" in spec:
        for number, item in enumerate(value, 1):
            found = mistake(f"{name}, number {number},", item, {"type": spec["elements"]})
            if found:
                return found
    return ""


@functools.cache
def specs() -> dict[str, Spec]:
    """All variables that a role or a playbook reads, with their types."""
    found: dict[str, Spec] = {name: {"type": kind} for name, kind in PLAYBOOKS.items()}
    for file in sorted(ROLES.glob("*/meta/argument_specs.yml")):
        loaded = yaml.safe_load(file.read_text(encoding="utf-8"))
        for entry in loaded["argument_specs"].values():
            found |= entry.get("options") or {}
    return found


class _Loader(yaml.SafeLoader):
    """Reads the shape of a file; what is encrypted, or Ansible's own, is of no interest here."""


_Loader.add_multi_constructor("!", lambda *_: None)


def wrong_groups(content: object, where: str) -> Iterator[str]:
    """Sentences on keys of an inventory file that Ansible skips with a warning."""
    for group, keys in (content if isinstance(content, Mapping) else {}).items():
        for key in keys if isinstance(keys, Mapping) else []:
            if key not in GROUP_KEYS:
                yield (
                    f"{where}: {key} stands directly below {group}, where only hosts, vars and "
                    "children can: correct its indentation"
                )
        if isinstance(keys, Mapping):
            yield from wrong_groups(keys.get("children"), where)


def twice(values: Mapping[str, Sequence[object]], what: str, mend: str) -> Iterator[str]:
    """Sentences on what two hosts have both."""
    seen: dict[object, str] = {}
    for host, items in values.items():
        for item in items:
            if item in seen:
                yield f"{seen[item]} and {host}: both have {item} {what}; {mend}"
            seen[item] = host


class LookupModule(LookupBase):
    """Finds the mistakes."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **_: Any) -> list[str]:
        """Returns a sentence for each mistake."""
        known = variables or {}
        if terms == ["host"]:
            return list(self._of_host(known["hostvars"][known["inventory_hostname"]]))
        return list(self._of_fleet(known))

    def _of_host(self, its: Mapping[str, Any]) -> Iterator[str]:
        known = specs()
        yield from unknown(list(its), known)
        for name in sorted(set(its) & set(known)):
            # A secret may be encrypted, or not be made yet.
            if known[name].get("no_log"):
                continue
            try:
                found = mistake(name, its[name], known[name])
            except AnsibleError as error:
                found = f"{name} cannot be read: {str(error).splitlines()[0]}"
            if found:
                yield found

    def _of_fleet(self, variables: Mapping[str, Any]) -> Iterator[str]:
        groups, hostvars = variables["groups"], variables["hostvars"]
        for source in map(Path, variables.get("ansible_inventory_sources") or []):
            files = sorted(source.iterdir()) if source.is_dir() else [source]
            for file in files:
                if file.is_file() and file.suffix in {".yml", ".yaml"}:
                    text = str(self._loader.get_text_file_contents(str(file)))
                    # Nothing but plain values is made of it.
                    yield from wrong_groups(yaml.load(text, _Loader), str(file))  # noqa: S506
        stations, hubs = groups.get("publishers", []), groups.get("hubs", [])

        def of(host: str, name: str) -> list[Any]:
            try:
                value = hostvars[host].get(name)
            except AnsibleError:
                return []
            return [value] if value and isinstance(value, str | int) else []

        def devices(host: str) -> list[object]:
            value = hostvars[host].get("agent_devices")
            return list(value) if is_list(value) else []

        yield from twice(
            {host: devices(host) for host in stations},
            "in agent_devices",
            "a devID belongs to one device of one station, so take it out of one of the two",
        )
        addresses = {
            host: [f"{address} (port {port})" for address in of(host, "ansible_host")
                   for port in of(host, "ansible_port") or [22]]
            for host in dict.fromkeys([*hubs, *stations])
            if of(host, "ansible_connection") in ([], ["ssh"])
        }  # fmt: skip
        yield from twice(
            addresses, "as ansible_host", "give each its own address, or remove one of the two"
        )
