"""How many requests a sink answered, with which status, and how long they took: for metrics."""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

# From a request on the same host to one that ends with the default time-out.
BUCKETS_S = (0.05, 0.2, 1.0, 5.0, 30.0)
NO_ANSWER = "none"
OTHER = "other"
_KNOWN = frozenset(int(status) for status in HTTPStatus)


@dataclass(frozen=True, slots=True)
class RequestFigures:
    """The requests to one sink so far."""

    by_status: Mapping[str, int] = field(default_factory=dict)
    """By HTTP status; NO_ANSWER where none came, OTHER for a number that is no status."""
    by_duration: tuple[int, ...] = (0,) * (len(BUCKETS_S) + 1)
    """How many took at most BUCKETS_S, each beyond the one before; at last those that took more."""
    seconds: float = 0.0
    """All of them took together."""


class RequestLog:
    """Counts the requests; one thread notes, any thread may ask."""

    def __init__(self) -> None:
        self._by_status: Counter[str] = Counter()
        self._by_duration = [0] * (len(BUCKETS_S) + 1)
        self._seconds = 0.0

    def note(self, seconds: float, status: int | None) -> None:
        """A request took so long; None where no answer came that can be believed."""
        known = NO_ANSWER if status is None else str(status) if status in _KNOWN else OTHER
        self._by_status[known] += 1
        self._by_duration[bisect.bisect_left(BUCKETS_S, seconds)] += 1
        self._seconds += seconds

    def figures(self) -> RequestFigures:
        """The requests so far."""
        return RequestFigures(dict(self._by_status), tuple(self._by_duration), self._seconds)
