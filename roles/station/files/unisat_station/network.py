"""NetworkManager's keyfiles of what unisat.toml says."""

from __future__ import annotations

from unisat_station.settings import Value


def wifi(values: dict[str, Value], password: str) -> str:
    """The profile of a wireless network; without a password it is an open one."""
    name = str(values["wifi.name"])
    text = (
        # Before a network that Imager set.
        "[connection]\nid=unisat-wifi\ntype=wifi\nautoconnect-priority=10\n\n"
        f"[wifi]\nmode=infrastructure\nssid={';'.join(map(str, name.encode()))};\n"
        f"{'hidden=true' if values.get('wifi.hidden') else ''}\n\n"
    )
    if password:
        # A keyfile drops blanks at the ends.
        blanks = len(password) - len(password.lstrip(" "))
        escaped = "\\s" * blanks + password[blanks:].replace("\\", "\\\\")
        text += f"[wifi-security]\nkey-mgmt=wpa-psk\npsk={escaped}\n\n"
    return text + _addresses(values)


def cable(values: dict[str, Value]) -> str:
    """The profile of the cable."""
    text = "[connection]\nid=unisat-cable\ntype=ethernet\nautoconnect-priority=10\n\n"
    return text + _addresses(values)


def _addresses(values: dict[str, Value]) -> str:
    """The end of a keyfile: how the network gets its address."""
    found = {"ipv4": ["method=auto"], "ipv6": ["method=auto"]}
    if address := str(values.get("network.address") or ""):
        family = "ipv6" if ":" in address else "ipv4"
        lines = ["method=manual", f"address1={address},{values.get('network.gateway')}"]
        names = values.get("network.dns")
        if isinstance(names, list):
            same = [name for name in names if (":" in name) == (family == "ipv6")]
            lines += [f"dns={';'.join(same)};"] if same else []
        found[family] = lines
    return "\n".join(
        f"[{name}]\n" + "".join(f"{x}\n" for x in keys) for name, keys in found.items()
    )
