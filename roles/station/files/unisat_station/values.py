"""The values of unisat.toml, each by itself: what is right is returned, else the mend is raised."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

HASH = re.compile(r"\$(?:6|y)\$[A-Za-z0-9./$=,]+")


class Mistake(Exception):  # noqa: N818 - of the user, not of the program
    """What to write instead, as the end of a sentence."""


def printable(text: str) -> str:
    """The text with a question mark for what cannot be shown."""
    return "".join(c if c.isprintable() else "?" for c in text)[:80]


def match(value: object, pattern: str, mend: str) -> str:
    """A text that is wholly of the pattern."""
    if not isinstance(value, str) or re.fullmatch(pattern, value) is None:
        raise Mistake(mend)
    return value


def name(value: object) -> str:
    """A station's name, fit to be a host's."""
    return match(
        value,
        r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?",
        "write up to 63 letters, digits and hyphens, such as school-12.",
    )


def devices(value: object) -> list[str]:
    """A list of devIDs."""
    mend = 'write a list of devIDs, such as ["u01kz"], each a letter, then letters or digits.'
    if not isinstance(value, list):
        raise Mistake(mend)
    return [match(item, r"[A-Za-z][A-Za-z0-9_-]{0,63}", mend) for item in value]


def port(value: object) -> str | list[str]:
    """`auto`, a port, or a list of ports."""
    mend = 'write "auto", a port such as "/dev/ttyUSB0", or a list of ports.'
    if isinstance(value, list):
        ports = [match(item, r"/dev/[A-Za-z0-9_./:+-]+", mend) for item in value]
        if not ports or len(set(ports)) < len(ports):
            raise Mistake('write each port once, such as ["/dev/ttyUSB0", "/dev/ttyUSB1"].')
        return ports
    return match(value, r"auto|/dev/[A-Za-z0-9_./:+-]+", mend)


def baud(value: object) -> int:
    """A speed in bits a second."""
    if isinstance(value, bool) or not isinstance(value, int) or not 50 <= value <= 4_000_000:
        raise Mistake("write a whole number without quotes, such as 9600.")
    return value


def url(value: object) -> str:
    """The hub's address, ending in /v1."""
    mend = 'write the address of the hub, such as "https://hub.example.org/v1".'
    url = match(value, r"https?://[!-~]+", mend)
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if "@" in url:
        raise Mistake("write the address without user and password.")
    if not usable or parts.query or parts.fragment:
        raise Mistake(mend)
    if parts.hostname in {"127.0.0.1", "localhost", "::1"}:
        raise Mistake("is the station itself: write the address of the hub.")
    url = url.rstrip("/")
    return url if url.endswith("/v1") else f"{url}/v1"


def user(value: object) -> str:
    """An account's name."""
    return match(value, r"[A-Za-z0-9][A-Za-z0-9_@.+-]{0,127}", "write the account's name.")


def password(value: object) -> str:
    """A password of the hub."""
    return match(value, r"[^\x00-\x1f\x7f]{1,256}", "write the password in one line.")


def ssid(value: object) -> str:
    """A network's name."""
    mend = "write the name of the network, at most 32 letters."
    name = match(value, r"[^\x00-\x1f\x7f]+", mend)
    if len(name.encode()) > 32:
        raise Mistake(mend)
    return name


def wifi_password(value: object) -> str:
    """A passphrase or key of WPA."""
    return match(value, r"[ -~]{8,63}|[0-9A-Fa-f]{64}", "write 8 to 63 plain characters.")


def yes_or_no(value: object) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise Mistake("write true or false, without quotes.")
    return value


def idle(value: object) -> float:
    """Seconds."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.1 <= value <= 3600:
        raise Mistake("write the seconds without quotes, such as 5.")
    return value


def address(value: object) -> str:
    """An address with the length of its network."""
    mend = 'write the address with the length of the network, such as "192.168.1.20/24".'
    text = match(value, r"[0-9a-fA-F.:]+/\d+", mend)
    try:
        return str(ipaddress.ip_interface(text))
    except ValueError:
        raise Mistake(mend) from None


def gateway(value: object) -> str:
    """An address."""
    mend = 'write an address, such as "192.168.1.1".'
    try:
        return str(ipaddress.ip_address(match(value, r"[0-9a-fA-F.:]+", mend)))
    except ValueError:
        raise Mistake(mend) from None


def dns(value: object) -> list[str]:
    """A list of addresses."""
    if not isinstance(value, list):
        raise Mistake('write a list of addresses, such as ["192.168.1.1"].')
    return [gateway(item) for item in value]


def ring(value: object) -> str:
    """Whether the station is among the first to take an update."""
    return match(value, "first", 'write "first" to be among the first, or nothing.')


def when(value: object) -> str:
    """Whether the station takes updates from the network."""
    return match(value, "manual", 'write "manual" to take no update from the network, or nothing.')


def login(value: object) -> str:
    """A password, or its hash."""
    password = match(value, r"[^\x00-\x1f\x7f]{8,256}", "write at least 8 characters.")
    if password.startswith("$") and not HASH.fullmatch(password):
        raise Mistake("begins with $ but is no hash that is known: begin with a letter.")
    return password


def keys(value: object) -> list[str]:
    """A list of public keys of ssh."""
    mend = 'write a list of public keys, such as ["ssh-ed25519 AAAA… me@laptop"].'
    if not isinstance(value, list):
        raise Mistake(mend)
    kinds = r"(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp\d+|sk-[a-z0-9@.-]+)"
    return [
        match(key, kinds + r" AAAA[A-Za-z0-9+/]+=*( [^\x00-\x1f\x7f]*)?", mend) for key in value
    ]
