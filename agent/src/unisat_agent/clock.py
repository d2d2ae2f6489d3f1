"""Time on a host without a real-time clock: what it is, and how far it can be trusted."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import Protocol

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# struct timex of adjtimex(2) on 64-bit Linux: 208 bytes, `status` at byte 40.
_TIMEX_BYTES = 208
_TIMEX_STATUS_OFFSET = 40
_STA_UNSYNC = 0x0040


class ClockState(IntEnum):
    """How far a row's wall-clock time can be trusted (the record's `clock`)."""

    UNSYNCED = 0
    SYNCED = 1
    CORRECTED = 2

    @property
    def word(self) -> str:
        """The value in the record: unsynced, synced or corrected."""
        return self.name.lower()


class Clock(Protocol):
    """Where the time comes from; passed in, so that a test can be its own clock."""

    @property
    def boot_id(self) -> str:
        """The kernel's random id of this boot."""

    def wall_ms(self) -> int:
        """UTC in milliseconds since 1970; may be wrong, and may jump."""

    def uptime_ms(self) -> int:
        """Milliseconds since boot, sleep included; never jumps."""

    def monotonic(self) -> float:
        """Seconds that never jump, from an arbitrary start: for time-outs and back-off."""

    def synchronised(self) -> bool:
        """Whether the wall clock is right."""


class SystemClock:
    """The host's clock.

    Args:
        source: What says that the wall clock is right: "kernel" (adjtimex(2), which chrony and
            systemd-timesyncd keep), "always", or the path of a file that exists once it is.
        adjtimex: The system call, for "kernel"; fills a struct timex, negative where it fails.
    """

    def __init__(
        self,
        source: str = "kernel",
        adjtimex: Callable[[ctypes.Array[ctypes.c_char]], int] | None = None,
    ) -> None:
        self._source = source
        self._boot_id = _BOOT_ID.read_text(encoding="ascii").strip()
        self._adjtimex = adjtimex or ctypes.CDLL(None, use_errno=True).adjtimex

    @property
    def boot_id(self) -> str:
        """The kernel's random id of this boot."""
        return self._boot_id

    def wall_ms(self) -> int:
        """UTC in milliseconds since 1970."""
        return time.time_ns() // 1_000_000

    def uptime_ms(self) -> int:
        """Milliseconds since boot, sleep included."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000

    def monotonic(self) -> float:
        """Seconds that never jump."""
        return time.monotonic()

    def synchronised(self) -> bool:
        """Whether the wall clock is right; False where the kernel refuses to tell."""
        if self._source == "always":
            return True
        if self._source != "kernel":
            # Not Path.exists(), which raises where the folder may not be entered.
            return os.access(self._source, os.F_OK)
        timex = ctypes.create_string_buffer(_TIMEX_BYTES)
        if self._adjtimex(timex) < 0:
            return False
        status = ctypes.c_int.from_buffer(timex, _TIMEX_STATUS_OFFSET).value
        return not status & _STA_UNSYNC
