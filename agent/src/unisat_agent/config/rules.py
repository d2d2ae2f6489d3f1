"""What a value in the configuration must look like."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

PARITIES = ("N", "E", "O")

# Kinto's own rule for ids (kinto.core.storage.generators), less the dots that it never allowed.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def is_bucket(value: str) -> bool:
    """Whether Kinto takes it as the id of a bucket."""
    return _BUCKET.fullmatch(value) is not None


def is_absolute(value: str) -> bool:
    """Whether it is an absolute path."""
    return value.startswith("/")


def is_clock_source(value: str) -> bool:
    """Whether it names what says that the clock is right."""
    return value in {"kernel", "always"} or is_absolute(value)


def is_port_name(value: str) -> bool:
    """Whether it names a serial port, or "auto"."""
    if value.startswith(("socket://", "rfc2217://")):
        parts = urlsplit(value)
        try:
            return bool(parts.hostname and parts.port)
        except ValueError:
            return False
    return value == "auto" or is_absolute(value)


def is_kinto_url(value: str) -> bool:
    """Whether it may be the URL of a Kinto."""
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        return False
    return (
        parts.scheme in {"http", "https"}
        and bool(parts.hostname)
        and not (parts.query or parts.fragment)
        and parts.path.rstrip("/").endswith("/v1")
    )


def has_password(url: str) -> bool:
    """Whether the URL may hold a password, which must not be shown then."""
    return "@" in url


def is_loopback_host(host: str) -> bool:
    """Whether it is this host under a name that never leaves it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_loopback_address(value: str) -> bool:
    """Whether it is an IPv4 loopback address and a port, as "127.0.0.1:8890"."""
    host, _, port = value.rpartition(":")
    try:
        return ipaddress.IPv4Address(host).is_loopback and 0 < int(port) < 65536
    except ValueError:
        return False


def is_unencrypted(url: str) -> bool:
    """Whether a password sent to this URL can be read on the way."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_loopback_host(parts.hostname or "")
