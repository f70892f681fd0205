"""The closed set of errors: every failure of the program is one of these, and maps to one condition or exit code.

Each carries a CamelCase ``reason`` that is safe to show in a condition and stable enough to script against. No message
may ever contain a credential.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing that is wrong in one object: where, what was found, and what to write instead.

    ``field`` is a path such as ``spec.endpoints[0].url`` (empty for the object as a whole); ``found`` is a short
    rendering of the value, or empty where showing it would not help; ``expected`` completes "write …".
    """

    field: str
    found: str
    expected: str

    def __str__(self) -> str:
        where = f"{self.field}: " if self.field else ""
        found = f"found {self.found}; " if self.found else ""
        return f"{where}{found}{self.expected}"


class ProblemError(Exception):
    """Base of the closed set; ``reason`` is CamelCase, ``str()`` is for a person."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class InvalidError(ProblemError):
    """The input is wrong and stays wrong until somebody changes it: terminal, shown as Stalled.

    Takes the object or file it is about (``RegistryMirror docker-hub``), and the field errors found in it.
    """

    def __init__(self, subject: str, errors: tuple[FieldError, ...], reason: str = "InvalidSpec") -> None:
        self.subject = subject
        self.errors = errors
        super().__init__(reason, "\n".join(f"{subject}: {error}" for error in errors))

    @property
    def detail(self) -> str:
        """The field errors without the subject, in one line, for the object's own condition."""
        return "; ".join(str(error) for error in self.errors)


class ManyErrors(ProblemError):
    """Several objects are wrong at once; its text is all of theirs."""

    def __init__(self, errors: Sequence[InvalidError]) -> None:
        super().__init__(errors[0].reason, "\n".join(error.message for error in errors))


class WaitingError(ProblemError):
    """Something that is expected to appear is not there yet; look again after ``after`` seconds or when it changes."""

    def __init__(self, reason: str, message: str, after: float = 30.0) -> None:
        super().__init__(reason, message)
        self.after = after


class TransientError(ProblemError):
    """The outside world failed (API server, disk); the same call may succeed later: retried with backoff."""
