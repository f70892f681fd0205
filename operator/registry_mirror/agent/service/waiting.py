"""Waiting for a service manager, in small steps."""

from __future__ import annotations

import time
from collections.abc import Callable

POLL = 0.05  # seconds


def until(check: Callable[[], bool], seconds: float) -> bool:
    """Look again and again; gives whether it became so within that time."""
    deadline = time.monotonic() + seconds
    while not check():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL)
    return True
