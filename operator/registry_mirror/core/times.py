"""Times as the API writes them."""

from __future__ import annotations

from datetime import datetime


def seconds(text: str) -> float:
    """Give a time of the API (RFC 3339) in seconds since 1970; 0 for anything else."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        return 0.0
