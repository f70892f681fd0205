"""Text for a terminal: aligned tables, ages, wrapped paragraphs; nothing that came from elsewhere acts on it."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence

import click

from ..core.times import seconds

Colours = Mapping[str, str]
_LEAST_WIDTH = 60


def safe(text: str) -> str:
    """Give a text in one line, with whatever a terminal would act on written out."""
    line = " ".join(text.split())
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)


def table(header: Sequence[str], rows: Iterable[Sequence[str]], colours: Colours | None = None) -> Iterator[str]:
    """Give the lines of a table; a cell that is a key of ``colours`` is shown in that colour."""
    cells = [list(header), *([safe(cell) or "-" for cell in row] for row in rows)]
    widths = [max(len(row[index]) for row in cells) for index in range(len(header))]
    for row in cells:
        line = "  ".join(_styled(cell, width, colours or {}) for cell, width in zip(row, widths, strict=True))
        yield line.rstrip()


def _styled(cell: str, width: int, colours: Colours) -> str:
    colour = colours.get(cell)
    padding = " " * (width - len(cell))
    return f"{click.style(cell, fg=colour) if colour else cell}{padding}"


def terminal_width() -> int:
    """Give how many characters a line of standard output has; 0 for lines of any length, where it is no terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 0


def paragraph(text: str, width: int) -> list[str]:
    """Give an item of a list, wrapped for a terminal of that width (0: in one line)."""
    line = f"  {safe(text)}"
    if not width:
        return [line]
    return textwrap.wrap(
        line, max(width, _LEAST_WIDTH), subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )


def age(since: str, now: float) -> str:
    """Say how long ago a time of the API was, as kubectl does: ``45s``, ``12m``, ``5h``, ``3d``; empty for no time."""
    at = seconds(since)
    if not at:
        return ""
    passed = max(int(now - at), 0)
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if passed >= 2 * length:
            return f"{passed // length}{unit}"
    return f"{passed}s"
