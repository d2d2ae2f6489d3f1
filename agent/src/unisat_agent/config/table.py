"""One TOML table being read: hands out checked values, and notes what is wrong with them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


class Table:
    """One TOML table being read: hands out checked values, notes what is wrong with them."""

    def __init__(self, file: Path, name: str, content: object, problems: list[str]) -> None:
        self._where = f"{file}: [{name}]"
        self._problems = problems
        self._known: list[str] = []
        if not isinstance(content, dict):
            problems.append(f"{self._where} must be a table: write [{name}] on a line of its own")
            content = {}
        self._content: Mapping[str, Any] = content

    def wrong(self, key: str, fix: str) -> None:
        """Notes that the value of `key` can't be used; `fix` says what to write instead."""
        self._problems.append(f"{self._where} {key}: {fix}")

    def has(self, key: str) -> bool:
        """Whether the key is given; asking makes it a known one."""
        self._known.append(key)
        return key in self._content

    def text(
        self, key: str, default: str | None, fix: str, valid: Callable[[str], bool] = bool
    ) -> str:
        """A string; without a default it is required."""
        return self._value(key, default, fix, lambda v: isinstance(v, str) and valid(v)) or ""

    def flag(self, key: str, *, default: bool) -> bool:
        """True or false."""
        fix = "must be true or false, without quotes"
        return bool(self._value(key, default, fix, lambda v: isinstance(v, bool)))

    def integer(self, key: str, default: int, low: int, high: int) -> int:
        """A whole number within bounds."""
        value = self._value(
            key,
            default,
            f"must be a whole number from {low} to {high}",
            lambda v: isinstance(v, int) and not isinstance(v, bool) and low <= v <= high,
        )
        return int(value)

    def number(self, key: str, default: float, low: float, high: float) -> float:
        """A number within bounds."""
        value = self._value(
            key,
            default,
            f"must be a number from {low:g} to {high:g}",
            lambda v: isinstance(v, (int, float)) and not isinstance(v, bool) and low <= v <= high,
        )
        return float(value)

    def texts(
        self, key: str, default: tuple[str, ...], fix: str, valid: Callable[[str], bool] = bool
    ) -> tuple[str, ...]:
        """A list of strings."""
        value = self._value(
            key,
            list(default),
            fix,
            lambda v: isinstance(v, list) and all(isinstance(i, str) and valid(i) for i in v),
        )
        return tuple(value)

    def file(self, key: str) -> Path | None:
        """The path of a file that can be read; None where the key is missing or wrong."""
        if not self.has(key) or not (name := self.text(key, None, "must be the path of a file")):
            return None
        path = Path(name)
        try:
            path.open("rb").close()
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            self.wrong(key, f"{path} can't be read ({why}): correct the path or create the file")
            return None
        return path

    def finish(self) -> None:
        """Notes the keys that nothing asked for."""
        for key in self._content:
            if key not in self._known:
                close = difflib.get_close_matches(key, self._known, n=1)
                hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(self._known)}"
                self.wrong(key, f"unknown key, {hint}")

    def _value(self, key: str, default: Any, fix: str, valid: Callable[[Any], bool]) -> Any:
        self._known.append(key)
        if key not in self._content:
            if default is None:
                self.wrong(key, f"is missing: {fix}")
            return default
        value = self._content[key]
        if not valid(value):
            self.wrong(key, f"{fix}, not {value!r}")
            return default
        return value
