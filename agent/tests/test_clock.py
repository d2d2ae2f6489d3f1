"""Where the time comes from, and what says that it is right."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path

import pytest

from unisat_agent.clock import ClockState, SystemClock


def test_wall_clock_is_utc_in_milliseconds() -> None:
    before = int(time.time() * 1000)
    now = SystemClock().wall_ms()
    assert before <= now <= int(time.time() * 1000)


def test_uptime_counts_from_boot_and_never_jumps() -> None:
    clock = SystemClock()
    first = clock.uptime_ms()
    boot_ms = float(Path("/proc/uptime").read_text().split()[0]) * 1000
    # The kernel's file has hundredths of a second.
    assert first - 10 <= boot_ms <= clock.uptime_ms()


def test_boot_has_an_id() -> None:
    text = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert SystemClock().boot_id == text


def test_always_is_always_right() -> None:
    assert SystemClock("always").synchronised()


def test_flag_file_says_when_it_is_right(tmp_path: Path) -> None:
    flag = tmp_path / "synchronised"
    clock = SystemClock(str(flag))
    assert not clock.synchronised()
    flag.touch()
    assert clock.synchronised()


def test_flag_that_can_not_be_looked_at_is_none(tmp_path: Path) -> None:
    assert not SystemClock(str(tmp_path / ("a" * 300))).synchronised()


@pytest.mark.parametrize(
    ("result", "status", "right"),
    [
        (0, 0x2001, True),  # TIME_OK, STA_PLL and STA_NANO
        (5, 0x0040, False),  # TIME_ERROR, STA_UNSYNC
        (5, 0x2041, False),
        (-1, 0x0000, False),  # the kernel, or a seccomp filter, refuses to tell
    ],
)
def test_kernel_is_asked(result: int, status: int, right: bool) -> None:
    def adjtimex(timex: ctypes.Array[ctypes.c_char]) -> int:
        assert not any(bytes(timex)), "asks, and sets nothing"
        ctypes.memmove(ctypes.addressof(timex) + 40, status.to_bytes(4, "little"), 4)
        return result

    assert SystemClock("kernel", adjtimex).synchronised() is right


def test_real_kernel_gives_an_answer() -> None:
    assert SystemClock("kernel").synchronised() in {True, False}


def test_words_are_those_of_the_record() -> None:
    assert [state.word for state in ClockState] == ["unsynced", "synced", "corrected"]
