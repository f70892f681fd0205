"""What can go wrong between the agent and the service manager."""

from __future__ import annotations

from ...api.errors import TransientError

_MAX_TEXT = 300


class ServiceError(TransientError):
    """The service manager was not found, did not answer in time, or refused.

    ``reason`` is ServiceManagerNotFound, ServiceManagerTimeout or ServiceManagerFailed.
    """


def plain(text: str) -> str:
    """Make what somebody else said fit for one line of a message: no control characters, and not long."""
    return "".join(character if character.isprintable() else " " for character in text)[:_MAX_TEXT].strip()
