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

from unisat_station import values

NAME = "unisat.toml"
TAKEN = "(taken over)"
SECRETS = ("hub.password", "wifi.password", "access.password")
LISTS = ("station.devices", "access.ssh_keys", "network.dns")
# Those that are written without quotes.
PLAIN = ("serial.baud", "serial.idle_s", "wifi.hidden")
MAX_BYTES = 65536
MAX_SLIPS = 20

Value = str | float | list[str]
# What people write for a country and is none.
MEANT = {"UK": "GB", "EN": "GB", "SU": "RU", "KS": "KZ"}

_LITERAL = r'"(?:[^"\\\n]|\\[^\n])*"|' + r"'[^'\n]*'"
_TABLE = re.compile(r"\s*\[\s*([A-Za-z_-]+)\s*\]")
_KEY = re.compile(r"\s*([A-Za-z_-]+)[ \t]*=")
_OPEN = re.compile(r"[^=#]*=\s*\[[^\]]*$")
_SECRET = re.compile(rf"[ \t]*password[ \t]*=[ \t]*({_LITERAL})[ \t]*(?:#.*)?\r?$")


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
            "station.name": values.name,
            "station.devices": values.devices,
            "station.timezone": self._timezone,
            "station.language": self._language,
            "serial.port": values.port,
            "serial.baud": values.baud,
            "serial.idle_s": values.idle,
            "hub.url": values.url,
            "hub.user": values.user,
            "hub.password": values.password,
            "hub.ca": self._certificate,
            "wifi.name": values.ssid,
            "wifi.password": values.wifi_password,
            "wifi.country": self._country,
            "wifi.hidden": values.yes_or_no,
            "network.address": values.address,
            "network.gateway": values.gateway,
            "network.dns": values.dns,
            "update.ring": values.ring,
            "update.when": values.when,
            "access.password": values.login,
            "access.ssh_keys": values.keys,
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
        self.problems.append(Problem(line, values.printable(key), text))

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
            if key not in (*PLAIN, *LISTS) and not isinstance(value, str | list):
                # Never the value: it may be a password.
                raise values.Mistake(
                    f'is written without quotes: write {name} = "…", quotes included.'
                )
            if key in SECRETS and value == TAKEN:
                if key not in self.taken:
                    raise values.Mistake("nothing was taken over yet: write the password.")
                self.values[key] = TAKEN
                return
            checked = check(value)
            if key in SECRETS and not _replaces(self.text, key):
                raise values.Mistake(
                    f'write it as password = "…" on a line of its own below [{table}], '
                    "so that it can be taken off the card."
                )
            self.values[key] = checked
        except values.Mistake as mistake:
            self.wrong(key, str(mistake))

    def _together(self) -> None:
        """What only makes sense together is kept or taken together."""
        has = self.values.get
        kept = TAKEN if "hub.password" in self.taken else ""
        if has("hub.url") and has("hub.password", kept) == "":
            self.wrong("hub.password", "write the password that the hub's keeper gave you.")
        if has("wifi.name") and has("wifi.country") == "":
            self.wrong("wifi.country", 'write the two letters of your country, such as "KZ".')
        if has("network.address") and has("network.gateway") == "":
            self.wrong("network.gateway", 'write the address of the router, such as "192.168.1.1".')
        wrong = {problem.key.partition(".")[0] for problem in self.problems}
        for table in wrong & {"hub", "wifi", "network"}:
            for key in [key for key in self.values if key.startswith(f"{table}.")]:
                del self.values[key]

    def _timezone(self, value: object) -> str:
        mend = 'write a time zone as Region/City, such as "Asia/Almaty".'
        name = values.match(value, r"[A-Z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}", mend)
        if not (self.root / "usr/share/zoneinfo" / name).is_file():
            raise values.Mistake(mend)
        return name

    def _language(self, value: object) -> str:
        mend = 'write a language and country, such as "en_GB.UTF-8".'
        name = values.match(value, r"C\.UTF-8|[a-z]{2,3}_[A-Z]{2}\.UTF-8", mend)
        source = self.root / "usr/share/i18n/locales" / name.removesuffix(".UTF-8")
        if name != "C.UTF-8" and not source.is_file():
            raise values.Mistake(mend)
        return name

    def _country(self, value: object) -> str:
        mend = 'write the two letters of your country, such as "KZ".'
        code = values.match(value, r"[A-Za-z]{2}", mend).upper()
        if code in MEANT:
            raise values.Mistake(f'is no country by ISO 3166: write "{MEANT[code]}".')
        known = self.root / "usr/share/zoneinfo/iso3166.tab"
        if known.exists() and not re.search(rf"^{code}\t", known.read_text("utf-8"), re.MULTILINE):
            raise values.Mistake(f"is no country by ISO 3166: {mend}")
        return code

    def _certificate(self, value: object) -> str:
        name = values.match(
            value, r"[^/\\\0]{1,255}", "write the name of a file beside unisat.toml."
        )
        try:
            content = (self.beside / name).read_bytes()
        except OSError:
            raise values.Mistake(
                f"there is no {values.printable(name)} beside {NAME}: copy it there."
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
            raise values.Mistake(
                f"{values.printable(name)} is no certificate: ask the hub's keeper for one."
            ) from None
        return pem


def _meant(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"write {close[0]}" if close else f"known are {', '.join(known)}"
