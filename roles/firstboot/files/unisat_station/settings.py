"""Reads and checks unisat.toml; every mistake becomes one sentence with its line and the mend."""

from __future__ import annotations

import difflib
import itertools
import json
import re
import ssl
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

NAME = "unisat.toml"
TAKEN = "(taken over)"
SECRETS = ("hub.password", "wifi.password", "access.password")
LISTS = ("station.devices", "access.ssh_keys")
MAX_BYTES = 65536
MAX_SLIPS = 20

Value = str | int | list[str]

_LITERAL = r'"(?:[^"\\\n]|\\[^\n])*"|' + r"'[^'\n]*'"
_TABLE = re.compile(r"\s*\[\s*([A-Za-z_-]+)\s*\]")
_KEY = re.compile(r"\s*([A-Za-z_-]+)[ \t]*=")
_OPEN = re.compile(r"[^=#]*=\s*\[[^\]]*$")
_SECRET = re.compile(rf"[ \t]*password[ \t]*=[ \t]*({_LITERAL})[ \t]*(?:#.*)?\r?$")
_HASH = re.compile(r"\$(?:6|y)\$[A-Za-z0-9./$=,]+")


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: `line` counts from 1 (None: the whole file), `key` is such as "hub.url"."""

    line: int | None
    key: str
    text: str

    def __str__(self) -> str:
        table, _, key = self.key.partition(".")
        line = f", line {self.line}" if self.line else ""
        what = f"[{table}] {key}: " if key else f"[{table}] " if table else ""
        return f"{NAME}{line}: {what}{self.text}"


@dataclass(frozen=True, slots=True)
class Settings:
    """What the file says and is right; a key with a mistake, or not there, is not in `values`."""

    values: dict[str, Value] = field(default_factory=dict, repr=False)


class Reading(NamedTuple):
    """The settings and the mistakes of one file."""

    settings: Settings
    problems: list[Problem]


class _Mistake(Exception):  # noqa: N818 - of the user, not of the program
    pass


def read(path: Path, root: Path = Path("/"), taken: frozenset[str] = frozenset(SECRETS)) -> Reading:
    """Reads and checks the file; never raises for what is in it.

    Args:
        path: The file; a certificate that it names lies beside it.
        root: Where the system is whose time zones and languages count.
        taken: The secrets that were taken over earlier.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        return Reading(Settings(), [Problem(None, "", f"can't be read ({error.strerror}).")])
    return parse(content, path.parent, root, taken)


def parse(content: bytes, beside: Path, root: Path, taken: frozenset[str]) -> Reading:
    """Checks the bytes of a file that lies in the folder `beside`.

    A line that is not understood is told, and left out of what is read.
    """
    slips: list[Problem] = []
    while True:
        try:
            text = decode(content)
            tables = tomllib.loads(text)
            break
        except (ValueError, RecursionError) as error:
            slip = _broken(content, error)
            slips.append(slip)
            if not isinstance(error, tomllib.TOMLDecodeError) or len(slips) == MAX_SLIPS:
                return Reading(Settings(), slips)
            lines = content.split(b"\n")
            at = (slip.line or len(lines)) - 1
            # Of which table the lines below a broken heading are, nobody knows.
            if not (written := lines[at].strip()) or written.startswith(b"["):
                return Reading(Settings(), slips)
            lines[at] = b""
            content = b"\n".join(lines)
    return _Check(text, tables, beside, root, taken, slips).reading()


def decode(content: bytes) -> str:
    """The text, less a byte order mark.

    Raises:
        ValueError: It is no text that can be taken as it is.
    """
    if len(content) > MAX_BYTES:
        raise ValueError("is too large; copy the file from the card's image again.")
    return content.decode("utf-8").removeprefix("\ufeff")


def _broken(content: bytes, error: Exception) -> Problem:
    if isinstance(error, UnicodeDecodeError):
        line = content[: error.start].count(b"\n") + 1
        text = "is not saved as UTF-8: in the editor choose Save as, Encoding: UTF-8."
        return Problem(None if content[:2] in {b"\xff\xfe", b"\xfe\xff"} else line, "", text)
    if b"\0" in content:
        return Problem(
            None,
            "",
            "is not a text in UTF-8: in the editor choose Save as, Encoding: UTF-8.",
        )
    if not isinstance(error, tomllib.TOMLDecodeError):
        said = str(error) if len(content) > MAX_BYTES else "is not understood; write it as it was."
        return Problem(None, "", said)
    found = re.search(r"\(at line (\d+)", str(error))
    lines = content.decode("utf-8").split("\n")
    last = max((n for n, line in enumerate(lines, 1) if line.strip()), default=1)
    number = int(found[1]) if found else last
    # A list that was not closed is found wrong only by what comes after it.
    before = itertools.takewhile(lambda n: "]" not in lines[n - 1], range(number - 1, 0, -1))
    opened = next((n for n in before if _OPEN.match(lines[n - 1])), None)
    number = opened or number
    written = lines[number - 1]
    headings = [heading[1] for line in lines[:number] if (heading := _TABLE.match(line))]
    if re.search("[\u201c\u201d\u201e\u00ab\u00bb\u2018\u2019]", written):
        mend = 'has curly quotes: write straight ones, ".'
    elif opened:
        mend = "is a list without its end: write ] after it."
    elif "overwrite" in str(error) or "twice" in str(error):
        mend = "is there twice: remove one of the two."
    elif "\\" in written:
        mend = "has a \\ in it: write the value in single quotes, such as 'a\\b'."
    else:
        mend = 'is not understood: write it as name = "value", quotes included.'
    return Problem(number, headings[-1] if headings else "", mend)


def spans(content: bytes) -> dict[str, tuple[int, int]]:
    """Where the secrets' values stand in the file, quotes included, as byte offsets."""
    found: dict[str, tuple[int, int]] = {}
    table, offset = "", 0
    for raw in content.split(b"\n"):
        line = raw.decode("utf-8", "surrogateescape")
        if heading := _TABLE.match(line.removeprefix("\ufeff")):
            table = heading[1]
        if value := _SECRET.match(line):
            start, end = (len(line[:n].encode("utf-8", "surrogateescape")) for n in value.span(1))
            found.setdefault(f"{table}.password", (offset + start, offset + end))
        offset += len(raw) + 1
    return found


def scrubbed(content: bytes, secrets: frozenset[str]) -> bytes:
    """The file with TAKEN in place of these secrets, and every other byte as it was."""
    for key, (start, end) in sorted(spans(content).items(), key=lambda s: s[1], reverse=True):
        if key in secrets:
            content = content[:start] + f'"{TAKEN}"'.encode() + content[end:]
    return content


def filled(template: str, values: dict[str, Value]) -> str:
    """The template with these values in it, as a user would have written them."""
    lines, table = [], ""
    for line in template.split("\n"):
        if heading := _TABLE.match(line):
            table = heading[1]
        found = _KEY.match(line)
        value = values.get(f"{table}.{found[1]}") if found else None
        if not found or value in (None, "", []):
            lines.append(line)
        elif found[1] == "ca":
            lines.append(
                "# The certificate that was taken over is kept while no line sets another."
            )
        else:
            # JSON's strings, numbers and lists of strings are TOML's as well.
            lines.append(f"{found[1]} = {json.dumps(value, ensure_ascii=False)}")
    return "\n".join(lines)


def _replaces(text: str, key: str) -> bool:
    """Whether the secret stands where `scrubbed` finds it: else it would stay on the card."""
    table, _, name = key.partition(".")
    wanted = tomllib.loads(text)
    wanted[table][name] = TAKEN
    try:
        after = scrubbed(text.encode("utf-8"), frozenset({key}))
        return bool(tomllib.loads(after.decode("utf-8")) == wanted)
    except ValueError:
        return False


class _Check:
    """One file being checked."""

    def __init__(
        self,
        text: str,
        tables: dict[str, Any],
        beside: Path,
        root: Path,
        taken: frozenset[str],
        slips: list[Problem],
    ) -> None:
        self.text, self.tables, self.beside, self.root = text, tables, beside, root
        self.taken = taken
        self.values: dict[str, Value] = {}
        self.problems = slips
        self.lines: dict[str, int] = {}
        table = ""
        for number, line in enumerate(text.split("\n"), 1):
            if found := _TABLE.match(line):
                table = found[1]
                self.lines.setdefault(table, number)
            elif found := _KEY.match(line):
                self.lines.setdefault(f"{table}.{found[1]}" if table else found[1], number)
        self.known: dict[str, Callable[[Any], Value]] = {
            "station.name": self._name,
            "station.devices": self._devices,
            "station.timezone": self._timezone,
            "station.language": self._language,
            "serial.port": _port,
            "serial.baud": _baud,
            "hub.url": _url,
            "hub.user": _user,
            "hub.password": _password,
            "hub.ca": self._certificate,
            "wifi.name": _ssid,
            "wifi.password": _wifi_password,
            "wifi.country": _country,
            "access.password": _login,
            "access.ssh_keys": _keys,
        }

    def reading(self) -> Reading:
        names = list(dict.fromkeys(key.partition(".")[0] for key in self.known))
        for table, content in self.tables.items():
            if table not in names:
                self.wrong(table, f"is not known, {_meant(table, names)}.")
            elif not isinstance(content, dict):
                self.wrong(table, f"write [{table}] on a line of its own.")
            else:
                keys = [k.partition(".")[2] for k in self.known if k.startswith(f"{table}.")]
                for key in content:
                    if key not in keys:
                        self.wrong(f"{table}.{key}", f"is not known, {_meant(key, keys)}.")
        for key, check in self.known.items():
            self._take(key, check)
        self._together()
        return Reading(Settings(self.values), self.problems)

    def wrong(self, key: str, text: str) -> None:
        table = key.partition(".")[0]
        line = self.lines.get(key, self.lines.get(table))
        self.problems.append(Problem(line, _printable(key), text))

    def _take(self, key: str, check: Callable[[Any], Value]) -> None:
        table, _, name = key.partition(".")
        content = self.tables.get(table, {})
        if not isinstance(content, dict):
            return
        if name not in content:
            return
        empty: Value = [] if key in LISTS else ""
        value = content[name]
        if value == empty and type(value) is type(empty):
            self.values[key] = empty
            return
        try:
            if key in SECRETS and value == TAKEN:
                if key not in self.taken:
                    raise _Mistake("nothing was taken over yet: write the password.")
                self.values[key] = TAKEN
                return
            checked = check(value)
            if key in SECRETS and not _replaces(self.text, key):
                raise _Mistake(
                    f'write it as password = "…" on a line of its own below [{table}], '
                    "so that it can be taken off the card."
                )
            self.values[key] = checked
        except _Mistake as mistake:
            self.wrong(key, str(mistake))

    def _together(self) -> None:
        """What only makes sense together is kept or taken together."""
        has = self.values.get
        kept = TAKEN if "hub.password" in self.taken else ""
        if has("hub.url") and has("hub.password", kept) == "":
            self.wrong("hub.password", "write the password that the hub's keeper gave you.")
        if has("wifi.name") and has("wifi.country") == "":
            self.wrong("wifi.country", 'write the two letters of your country, such as "KZ".')
        wrong = {problem.key.partition(".")[0] for problem in self.problems}
        for table in wrong & {"hub", "wifi"}:
            for key in [key for key in self.values if key.startswith(f"{table}.")]:
                del self.values[key]

    def _name(self, value: object) -> str:
        return _match(
            value,
            r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?",
            "write up to 63 letters, digits and hyphens, such as school-12.",
        )

    def _devices(self, value: object) -> list[str]:
        mend = 'write a list of devIDs, such as ["u01kz"], each a letter, then letters or digits.'
        if not isinstance(value, list):
            raise _Mistake(mend)
        return [_match(item, r"[A-Za-z][A-Za-z0-9_-]{0,63}", mend) for item in value]

    def _timezone(self, value: object) -> str:
        mend = 'write a time zone as Region/City, such as "Asia/Almaty".'
        name = _match(value, r"[A-Z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}", mend)
        if not (self.root / "usr/share/zoneinfo" / name).is_file():
            raise _Mistake(mend)
        return name

    def _language(self, value: object) -> str:
        mend = 'write a language and country, such as "en_GB.UTF-8".'
        name = _match(value, r"C\.UTF-8|[a-z]{2,3}_[A-Z]{2}\.UTF-8", mend)
        source = self.root / "usr/share/i18n/locales" / name.removesuffix(".UTF-8")
        if name != "C.UTF-8" and not source.is_file():
            raise _Mistake(mend)
        return name

    def _certificate(self, value: object) -> str:
        name = _match(value, r"[^/\\\0]{1,255}", "write the name of a file beside unisat.toml.")
        try:
            content = (self.beside / name).read_bytes()
        except OSError:
            raise _Mistake(
                f"there is no {_printable(name)} beside {NAME}: copy it there."
            ) from None
        if b"-----BEGIN" in content:
            # Between the certificates there may be comments, and a byte order mark before them.
            found = re.findall(
                rb"-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----", content
            )
            pem = "".join(block.decode("ascii", "replace") + "\n" for block in found)
        else:
            pem = ssl.DER_cert_to_PEM_cert(content)
        try:
            if not pem:
                raise ValueError
            ssl.create_default_context(cadata=pem)
        except (ssl.SSLError, ValueError):
            raise _Mistake(
                f"{_printable(name)} is no certificate: ask the hub's keeper for one."
            ) from None
        return pem


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)[:80]


def _meant(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"write {close[0]}" if close else f"known are {', '.join(known)}"


def _match(value: object, pattern: str, mend: str) -> str:
    if not isinstance(value, str) or re.fullmatch(pattern, value) is None:
        raise _Mistake(mend)
    return value


def _port(value: object) -> str:
    return _match(
        value,
        r"auto|/dev/[A-Za-z0-9_./:+-]+",
        'write "auto", or a port such as "/dev/ttyUSB0".',
    )


def _baud(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 50 <= value <= 4_000_000:
        raise _Mistake("write a whole number without quotes, such as 9600.")
    return value


def _url(value: object) -> str:
    mend = 'write the address of the hub, such as "https://hub.example.org/v1".'
    url = _match(value, r"https?://[!-~]+", mend)
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if "@" in url:
        raise _Mistake("write the address without user and password.")
    if not usable or parts.query or parts.fragment:
        raise _Mistake(mend)
    if parts.hostname in {"127.0.0.1", "localhost", "::1"}:
        raise _Mistake("is the station itself: write the address of the hub.")
    url = url.rstrip("/")
    return url if url.endswith("/v1") else f"{url}/v1"


def _user(value: object) -> str:
    return _match(value, r"[A-Za-z0-9][A-Za-z0-9_@.+-]{0,127}", "write the account's name.")


def _password(value: object) -> str:
    return _match(value, r"[^\x00-\x1f\x7f]{1,256}", "write the password in one line.")


def _ssid(value: object) -> str:
    mend = "write the name of the network, at most 32 letters."
    name = _match(value, r"[^\x00-\x1f\x7f]+", mend)
    if len(name.encode()) > 32:
        raise _Mistake(mend)
    return name


def _wifi_password(value: object) -> str:
    return _match(value, r"[ -~]{8,63}|[0-9A-Fa-f]{64}", "write 8 to 63 plain characters.")


def _country(value: object) -> str:
    return _match(value, r"[A-Za-z]{2}", 'write two letters, such as "KZ".').upper()


def _login(value: object) -> str:
    password = _match(value, r"[^\x00-\x1f\x7f]{8,256}", "write at least 8 characters.")
    if password.startswith("$") and not _HASH.fullmatch(password):
        raise _Mistake("begins with $ but is no hash that is known: begin with a letter.")
    return password


def _keys(value: object) -> list[str]:
    mend = 'write a list of public keys, such as ["ssh-ed25519 AAAA… me@laptop"].'
    if not isinstance(value, list):
        raise _Mistake(mend)
    kinds = r"(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp\d+|sk-[a-z0-9@.-]+)"
    return [
        _match(key, kinds + r" AAAA[A-Za-z0-9+/]+=*( [^\x00-\x1f\x7f]*)?", mend) for key in value
    ]
