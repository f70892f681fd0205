"""Pieces of sentences for people: so many of something, some of many by name, and no more than there is room for."""

from __future__ import annotations

from collections.abc import Sequence

SHOWN = 3  # names, where there may be thousands


def counted(count: int, what: str = "node") -> str:
    """Say how many: ``1 node``, ``2 nodes``."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def some(names: Sequence[str], count: int = 0, most: int = SHOWN) -> str:
    """Name the first few of so many (0: of these): ``a, b, c and 4 more``."""
    more = max(count, len(names)) - len(names[:most])
    return f"{', '.join(names[:most])}{f' and {more} more' if more else ''}"


def short(text: str, most: int) -> str:
    """Give the text, cut to that many characters."""
    return text if len(text) <= most else text[: most - 1] + "…"
