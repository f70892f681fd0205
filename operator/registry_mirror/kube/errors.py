"""What the API server answers when it does not do what it was asked, as one error that is safe to show."""

from __future__ import annotations

import msgspec

from ..api.errors import TransientError

_MAX_MESSAGE = 500


class ApiError(TransientError):
    """The API server refused or could not be reached; ``status`` is the HTTP status, 0 where there was no answer.

    Every one of them is retried with backoff: permissions are granted, versions are upgraded and servers come back.
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(reason or "ApiError", message)
        self.status = status


def from_response(status: int, body: bytes, action: str) -> ApiError:
    """Give the error for an answer; ``action`` says what was tried: ``apply NodeRegistryConfig node-1``."""
    try:
        answer = msgspec.json.decode(body)
        reason, message = str(answer.get("reason") or ""), str(answer.get("message") or "")
    except (msgspec.DecodeError, AttributeError):
        reason, message = "", ""
    text = f"{action}: the API server answered {status}{f' {message}' if message else ''}"
    return ApiError(status, reason, text[:_MAX_MESSAGE])


def unreachable(action: str, error: Exception) -> ApiError:
    """Give the error for a call that got no answer."""
    return ApiError(0, "ApiUnreachable", f"{action}: no answer from the API server ({type(error).__name__})")
