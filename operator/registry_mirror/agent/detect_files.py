"""Reading what the node's own files say: TOML and YAML with whatever can be wrong in them, and paths named there."""

from __future__ import annotations

import posixpath
import tomllib
from typing import Any

from ..api.errors import FieldError, InvalidError

_MAX_PATH = 900  # the schema allows 1024, and names are put below it


def invalid(path: str, text: str) -> InvalidError:
    """Give the error for a configuration of the runtime that is not as it must be."""
    return InvalidError("node", (FieldError(path, "", text),), "RuntimeConfigInvalid")


def toml(path: str, content: bytes) -> dict[str, Any]:
    """Give a TOML document. Raises InvalidError."""
    try:
        return tomllib.loads(content.decode())
    except (ValueError, RecursionError):
        raise invalid(path, "it is not TOML") from None


def yaml(path: str, content: bytes) -> dict[Any, Any]:
    """Give a YAML document of names and values, empty for an empty one. Raises InvalidError."""
    import yaml as parser  # only two runtimes need it

    try:
        document = parser.safe_load(content)
    except (parser.YAMLError, ValueError, RecursionError):  # ValueError: a date such as 2024-13-01
        raise invalid(path, "it is not YAML") from None
    if document is not None and not isinstance(document, dict):
        raise invalid(path, "it is not a list of settings (name: value)")
    return document or {}


def table(value: Any, key: str) -> dict[str, Any]:
    """Give a table of a document, empty if it is not there or something else."""
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def absolute(file: str, path: str) -> str:
    """Give a path from a node's file in its one form, or refuse it: it goes into bundles, status and messages.

    ``file`` is what names it. Raises InvalidError.
    """
    plain = posixpath.normpath("/" + path.lstrip("/"))
    if not path.startswith("/") or ".." in path.split("/") or not path.isprintable() or len(path) > _MAX_PATH:
        raise invalid(file, f"{path[:200]!r} is no plain absolute path")
    return plain
