"""How ``registry-mirror render --changes-from`` shows what a change would do to a node."""

from __future__ import annotations

from ..core.compare import Comparison
from .local import show

MEANING = {
    "live": "the next pull uses it",
    "repeats": "for the next start; in force already",
    "restart": "waits for the next start",
}


def show_changes(found: Comparison, output: str) -> None:
    """Print a comparison: lines for a person (``text``), or an object for programs (``json``, ``yaml``)."""
    lines = [f"{item.change:<8} {item.path}  ({MEANING[item.effect]})" for item in found.differences]
    show(found, [*lines, _verdict(found)], output)


def _verdict(found: Comparison) -> str:
    if found.waiting:
        return f"a restart of the runtime is needed for: {', '.join(found.waiting)}"
    return "no restart is needed" if found.differences else "nothing changes"
