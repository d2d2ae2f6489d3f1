"""Kinto's own storage, with conditions that an index can serve.

Kinto lets a field that is missing count as greater than any value: it writes
``field IS NULL OR field >= x``, and reads every record for it. Where the same question also bounds
the field from above, a missing one is out of it anyhow, and ``field >= x`` says the same.
"""

from __future__ import annotations

from typing import Any

from kinto.core.storage import MISSING, Filter
from kinto.core.storage.postgresql import Storage
from kinto.core.utils import COMPARISON

_LOWER = (COMPARISON.GT, COMPARISON.MIN)
# What no record without the field meets.
_PRESENT = (COMPARISON.LT, COMPARISON.MAX, COMPARISON.EQ, COMPARISON.IN, COMPARISON.LIKE)
_SIDES = {
    COMPARISON.EQ: COMPARISON.EQ,
    **dict.fromkeys(_LOWER, COMPARISON.MIN),
    **dict.fromkeys((COMPARISON.LT, COMPARISON.MAX), COMPARISON.MAX),
}


class IndexedStorage(Storage):
    """What Kinto asks, in words that PostgreSQL finds an index for; the answers are the same.

    Attributes:
        engine: SQLAlchemy's, whose pool has the connections.
    """

    engine: Any

    def list_all(self, *args: Any, **kwargs: Any) -> Any:
        """A page of objects. What follows a page is bounded by where that one ended."""
        if rules := kwargs.get("pagination_rules"):
            kwargs["filters"] = [*(kwargs.get("filters") or []), *_bound(rules)]
        return super().list_all(*args, **kwargs)

    def _format_conditions(
        self, filters: list[Filter], id_field: str, modified_field: str, prefix: str = "filters"
    ) -> tuple[str, dict[str, Any]]:
        present = {filter_.field for filter_ in filters if _needs_field(filter_)}
        parts, values = [], {}
        for number, filter_ in enumerate(filters):
            sql, holders = super()._format_conditions(
                [filter_], id_field, modified_field, f"{prefix}_{number}"
            )
            if filter_.operator in _LOWER and filter_.field in present:
                sql = _without_null(sql)
            parts.append(sql)
            values.update(holders)
        return " AND ".join(parts), values


def _needs_field(filter_: Filter) -> bool:
    if filter_.operator == COMPARISON.HAS:
        return bool(filter_.value)
    return filter_.operator in _PRESENT and filter_.value != MISSING


def _without_null(sql: str) -> str:
    """``(field IS NULL OR condition)`` as ``(condition)``; anything else as it is."""
    missing, separator, condition = sql.partition(" IS NULL OR ")
    return f"({condition}" if separator and missing.startswith("(data->") else sql


def _bound(rules: list[list[Filter]]) -> list[Filter]:
    """What the rules of a page, one of which holds, have in common: where its first field is."""
    field, value = rules[0][0].field, rules[0][0].value
    first = [filter_ for rule in rules for filter_ in rule if filter_.field == field]
    sides = {_SIDES.get(filter_.operator) for filter_ in first} - {COMPARISON.EQ}
    same = len(first) == len(rules) and all(filter_.value == value for filter_ in first)
    side = sides.pop() if len(sides) == 1 else None
    if not same or side is None or value == MISSING:
        return []
    return [Filter(field, value, side)]
