"""Time that nobody sets: seconds since boot, suspended time included, and which boot it is."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol


class Clock(Protocol):
    """What waits and deadlines are measured with."""

    def boot(self) -> str:
        """Give the id of this boot: seconds of another boot cannot be compared."""

    def seconds(self) -> float:
        """Give the seconds since boot."""


class BootClock:
    """The kernel's clock; the same in every container, and for every process of the node."""

    def boot(self) -> str:
        """Give the kernel's id of this boot (proc(5), random/boot_id)."""
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()

    def seconds(self) -> float:
        """Give CLOCK_BOOTTIME (clock_gettime(2))."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)
