"""Tells the user what a long step is doing, so that minutes of work do not look like a hang."""

from __future__ import annotations

import sys
import time
from typing import TextIO

_TERMINAL_INTERVAL = 1.0
_LOG_INTERVAL = 15.0


class Progress:
    """One long step, told on a stream (standard error unless given another one).

    `hint` is said once, at the start: why the step is done or how long it may take.

    On a terminal one line is rewritten every second; elsewhere (CI, a pipe) a new line is
    written at the start, at least every 15 s while `update` is called, and at the end.
    """

    def __init__(self, what: str, hint: str = "", stream: TextIO | None = None) -> None:
        self._what = what
        self._stream = stream if stream is not None else sys.stderr
        self._in_place = self._stream.isatty()
        self._interval = _TERMINAL_INTERVAL if self._in_place else _LOG_INTERVAL
        self._started = self._last = time.monotonic()
        first = f"{what} ({hint})" if hint else what
        self._write(first, end="" if self._in_place else "\n")

    def update(self, detail: str = "") -> None:
        """Tell the elapsed time and `detail`, if it is time for the next line. Raises nothing."""
        now = time.monotonic()
        if now - self._last < self._interval:
            return
        self._last = now
        note = f", {detail}" if detail else ""
        text = f"{self._what}: {now - self._started:.0f} s{note}"
        self._write(text, end="" if self._in_place else "\n")

    def done(self, outcome: str = "done") -> None:
        """Close the step with its outcome and the time it took."""
        self._write(f"{self._what}: {outcome} after {time.monotonic() - self._started:.0f} s", end="\n")

    def _write(self, text: str, end: str) -> None:
        # \r and "erase to the end of the line" let a shorter text replace a longer one.
        start = "\r\x1b[K" if self._in_place else ""
        self._stream.write(f"{start}{text}{end}")
        self._stream.flush()
