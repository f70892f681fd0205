"""Whether a file that somebody else has changed is put right, or left to whoever keeps changing it."""

from __future__ import annotations

from collections.abc import Callable

_WINDOW = 300.0
_REPAIRS = 3
_TRUCE = 600.0


class Repairs:
    """Counts repairs by path. A file that was repaired three times in five minutes has a second owner.

    Such a file is left alone for ten minutes: two programs that overwrite each other's work help nobody (rke2 #3872,
    harvester #4286).
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        """Take a clock that gives seconds and is never set back."""
        self._seconds = seconds
        self._repairs: dict[str, list[float]] = {}
        self._left: dict[str, float] = {}

    def allow(self, path: str) -> bool:
        """Tell whether that path may be repaired now."""
        until = self._left.get(path)
        if until is not None and self._seconds() < until:
            return False
        self._left.pop(path, None)
        return True

    def note(self, paths: tuple[str, ...]) -> None:
        """Take note of paths that were repaired."""
        now = self._seconds()
        for path in paths:
            recent = [when for when in self._repairs.get(path, ()) if now - when < _WINDOW]
            recent.append(now)
            self._repairs[path] = recent
            if len(recent) >= _REPAIRS:
                self._left[path] = now + _TRUCE
                del self._repairs[path]

    def forget(self) -> None:
        """Begin anew: there is another revision."""
        self._repairs.clear()
        self._left.clear()
