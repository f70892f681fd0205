"""The present time as the Kubernetes API writes it."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> str:
    """Give the present time in UTC, to the second (RFC 3339)."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
