"""Says a lasting trouble once, then once an hour, and once more when it is over."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

REPEAT_S = 3600.0


class Troubles:
    """The troubles that one part of the agent has now, by a key of its own choosing."""

    def __init__(
        self, log: logging.Logger, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = log
        self._monotonic = monotonic
        self._said: dict[str, tuple[float, str]] = {}

    def trouble(self, key: str, text: str) -> None:
        """Logs a warning when this trouble is new, when an hour has passed; else at debug."""
        now = self._monotonic()
        since = self._said.get(key)
        if since is None or now - since[0] >= REPEAT_S:
            self._said[key] = (now, text)
            self._log.warning("%s", text)
        else:
            self._said[key] = (since[0], text)
            self._log.debug("%s", text)

    def over(self, key: str, text: str) -> None:
        """Logs that the trouble has ended, if there was one."""
        if self._said.pop(key, None) is not None:
            self._log.info("%s", text)

    def update(self, found: Mapping[str, str]) -> None:
        """Tells the troubles of now, and that those which are not among them have ended."""
        for key in set(self._said) - set(found):
            self.over(key, f"over: {self._said[key][1]}")
        for key, text in found.items():
            self.trouble(key, text)

    def current(self) -> list[str]:
        """The troubles of now, in words."""
        return [text for _, text in list(self._said.values())]
