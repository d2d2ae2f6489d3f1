"""Numbers in sentences."""

from __future__ import annotations

import pytest

from unisat_agent.text import counted, duration


def test_counted() -> None:
    assert [counted(n, "line") for n in (0, 1, 2)] == ["0 lines", "1 line", "2 lines"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.53, "0.5 s"),
        (1.98, "2 s"),
        (119, "119 s"),
        (720, "12 min"),
        (10_800, "3 h"),
        (259_200, "3 days"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
