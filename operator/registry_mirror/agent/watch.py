"""Notices at once when somebody else changes a file that matters, so that nobody has to look all the time."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from inotify_simple import INotify, flags

_log = logging.getLogger(__name__)

_CHANGES = (
    flags.CREATE
    | flags.DELETE
    | flags.MOVED_FROM
    | flags.MOVED_TO
    | flags.CLOSE_WRITE
    | flags.ATTRIB
    | flags.ONLYDIR
    | flags.DONT_FOLLOW
    | flags.EXCL_UNLINK
)
_SETTLE = 0.2  # seconds: many events of one change come together
_LOOK = 60_000  # milliseconds; how long a watch that was closed may still wait
_MAX_WATCHES = 4096


class Watch:
    """Watches directories below a root; the periodic look remains for what inotify misses (a full queue, a mount)."""

    def __init__(self, root: Path, changed: Callable[[], None]) -> None:
        """``changed`` is called from a thread of its own, once for events that come together."""
        self._root = root
        self._changed = changed
        self._known: dict[str, int] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        try:
            self._inotify: INotify | None = INotify()
        except OSError as error:
            _log.warning("inotify: %s: changes by others are seen only at the periodic look", error.strerror)
            self._inotify = None
            return
        threading.Thread(target=self._follow, name="inotify", daemon=True).start()

    def set(self, directories: Iterable[str]) -> None:
        """Watch exactly those directories (absolute paths on the host) as far as they exist."""
        if self._inotify is None:
            return
        wanted = set(sorted(directories)[:_MAX_WATCHES])
        with self._lock:
            for path in self._known.keys() - wanted:
                with contextlib.suppress(OSError):  # it has gone with its directory
                    self._inotify.rm_watch(self._known[path])
                del self._known[path]
            for path in wanted:
                where = os.fspath(self._root) + path
                try:
                    # Again for what is known: a directory that was exchanged is another one now.
                    self._known[path] = self._inotify.add_watch(where, _CHANGES)
                except OSError:
                    self._known.pop(path, None)  # it does not exist, or the kernel's limit is reached

    def close(self) -> None:
        """Watch nothing any more."""
        self._closed.set()

    def _follow(self) -> None:
        assert self._inotify is not None
        with self._inotify as events:
            while not self._closed.is_set():
                found = list(events.read(timeout=_LOOK, read_delay=int(_SETTLE * 1000)))
                if any(not event.mask & flags.IGNORED for event in found):  # that is said of a watch that ended
                    self._changed()
