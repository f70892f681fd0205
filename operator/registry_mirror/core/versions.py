"""Versions as runtimes print them, compared by number."""

from __future__ import annotations

import re

_VERSION = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?")


def parse(text: str) -> tuple[int, int, int] | None:
    """Give major, minor, patch of ``v1.31.4+k3s1``, ``containerd://2.1.4-k3s1`` or ``1.6.20~ds1``; None if unknown."""
    match = _VERSION.match(text.removeprefix("containerd://"))
    return (int(match[1]), int(match[2]), int(match[3] or 0)) if match else None


def known_below(text: str, *limit: int) -> bool:
    """Tell whether the version is known and lower than the limit."""
    version = parse(text)
    return version is not None and version < limit
