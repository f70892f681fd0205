"""What a runtime reads of registries on this node, links followed as it follows them."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from ..api.errors import ProblemError
from ..core.route import table
from . import examine_files
from .detect_containerd import plugin_of
from .detect_files import toml
from .roots import inside

_MAX_IMPORTS = 64


class Settings(Struct, frozen=True, kw_only=True):
    """Settings of containerd for images, and the files that they are in. ``plugin`` is the table of the plugin."""

    files: tuple[str, ...]
    plugin: Mapping[str, Any]

    @property
    def registry(self) -> Mapping[str, Any]:
        """The table ``registry``, which may hold secrets."""
        return table(self.plugin, "registry")


class Files:
    """The node's files. Nothing is written, and no device is opened."""

    def __init__(self, root: Path) -> None:
        """Take where the node's file system is."""
        self._root = root
        self._files = examine_files.Files(root)

    def text(self, path: str) -> str | None:
        """Give a file as text; None if there is none. Raises ProblemError if it cannot be read."""
        found = self._files.read(path)
        if found.problem:
            raise ProblemError("ReadFailed", f"{path}: {found.problem}")
        return found.text

    def names(self, path: str) -> list[str]:
        """Give the names in a directory, sorted; none if it is not there."""
        return self._files.names(path)

    def kind(self, path: str) -> str:
        """Tell what is at that path: ``directory``, ``file`` for anything else, or nothing (empty)."""
        where = inside(self._root, path)
        if where is None or not where.exists():
            return ""
        return "directory" if where.is_dir() else "file"

    def seen(self, path: str) -> bool:
        """Tell whether what is missing at that path is missing for the runtime as well: a Pod sees parts of a node."""
        return self._files.seen(path)

    def settings(self, file: str, *, old: bool) -> Settings | None:
        """Give containerd's own settings from that file and what it imports; None if there is no such file.

        A 1.x replaces the table of a plugin by that of an import, a later one merges them (runtimes.md, imports).
        Raises ProblemError for what cannot be read, or is not TOML.
        """
        files: list[str] = []
        pending, plugin = [file], dict[str, Any]()
        while pending and len(files) < _MAX_IMPORTS:
            path = pending.pop(0)
            text = None if path in files else self.text(path)
            if text is None:
                continue
            files.append(path)
            document = toml(path, text.encode())
            found = table(document.get("plugins"), plugin_of(document))
            if found:
                plugin = dict(found) if old else _merged(plugin, found)
            pending += self._imported(path, document.get("imports"))
        return Settings(files=tuple(files), plugin=plugin) if files else None

    def _imported(self, file: str, patterns: Any) -> Iterator[str]:
        """Give the files that are meant by ``imports``, in order; wildcards stand for names only."""
        for pattern in patterns if isinstance(patterns, list) else []:
            path = posixpath.normpath(posixpath.join(posixpath.dirname(file), str(pattern)))
            yield from (found.path for found in self._files.matching(path))


def _merged(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Merge tables; what is no table is replaced."""
    result = dict(before)
    for key, value in after.items():
        old = result.get(key)
        result[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result
