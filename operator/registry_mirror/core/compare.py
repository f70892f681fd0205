"""What a change of files means for a node: in force with the next pull, or only once the runtime has started again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from .bundle import Rendered
from .layout import Layout

Change = Literal["added", "changed", "removed"]
# live: the next pull reads it. repeats: the next start reads it, and finds there what is in force already.
# restart: the next start reads it, and something in it waits for that.
Effect = Literal["live", "repeats", "restart"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One path that differs, and when that takes effect."""

    path: str
    change: Change
    effect: Effect


@dataclass(frozen=True, slots=True)
class Comparison:
    """All that differs between two renders for one node.

    ``waiting`` names the settings that only a start of the runtime brings into force, or out of it; with none, nothing
    takes a restart.
    """

    differences: tuple[Difference, ...]
    waiting: tuple[str, ...]


def compare(old: Rendered, new: Rendered, layout: Layout) -> Comparison:
    """Compare what a node has with what it is to have.

    Takes two renders for the same runtime and its layout. What lies below the layout's directories (hosts.toml, CA and
    client files) is read by the next pull, and live by that; its single files, and those that are edited, are read when
    the runtime starts, and take a restart only where a setting in them has no live half (``start_settings``).
    """
    waiting = tuple(sorted(_waiting(old, new)))
    before, after = _contents(old), _contents(new)
    differences = []
    for path in sorted({*before, *after}):
        if before.get(path) != after.get(path):
            at_start: Effect = "restart" if waiting else "repeats"
            effect = at_start if path in layout.files or path in layout.edits else "live"
            differences.append(Difference(path, _change(path, before, after), effect))
    return Comparison(tuple(differences), waiting)


def _contents(rendered: Rendered) -> dict[str, object]:
    files: dict[str, object] = {file.path: (file.content, file.mode) for file in rendered.files}
    return files | {edit.path: edit for edit in rendered.edits}


def _waiting(old: Rendered, new: Rendered) -> set[str]:
    had = {name: setting.value for name, setting in old.start_settings.items()}
    wanted = {name: setting.value for name, setting in new.start_settings.items()}
    return {name for name in {*had, *wanted} if had.get(name) != wanted.get(name)}


def _change(path: str, before: Mapping[str, object], after: Mapping[str, object]) -> Change:
    if path not in before:
        return "added"
    return "changed" if path in after else "removed"
