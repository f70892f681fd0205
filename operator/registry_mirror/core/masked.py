"""A file of a node as it may be shown: what it says without what it keeps secret, for diffs.

The file is parsed, masked and written anew, so that no form of quoting lets a secret through; what cannot be parsed is
not shown at all.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator
from typing import Any

import yaml

MASK = "***"
# Keys of registries.yaml, config.toml and hosts.toml (any header may carry a credential), in lower case.
_SECRET = {"password", "auth", "identity_token", "identitytoken", "token", "username", "authorization", "header"}
_TABLES = {"auth", "header"}


def diff(path: str, old: str | None, new: str | None) -> list[str]:
    """Give the lines of a unified diff of a file, before and after; None stands for no file. No secret is in it."""
    before, after = _shown(path, old), _shown(path, new)
    lines = list(
        difflib.unified_diff(
            before, after, "/dev/null" if old is None else path, "/dev/null" if new is None else path, lineterm=""
        )
    )
    if not lines and old != new:
        what = "format, comments or credentials" if old is not None and new is not None else "an empty file"
        return [f"--- {path}", f"+++ {path}", f"@@ only {what} @@"]
    return lines


def _shown(path: str, text: str | None) -> list[str]:
    if text is None:
        return []
    if "-----BEGIN " in text:
        return [f"({text.count('-----BEGIN ')} PEM blocks)"]
    try:
        document = tomllib.loads(text) if path.endswith((".toml", ".conf")) else yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError):
        return ["(it cannot be read, so it is not shown)"]
    return list(_lines(document, 0))


def _lines(value: Any, depth: int) -> Iterator[str]:
    space = "  " * depth
    if isinstance(value, dict):
        for key, item in value.items():
            if str(key).lower() in _SECRET:
                yield from _masked(f"{space}{key}", item, depth)
            elif isinstance(item, dict | list) and item:
                yield f"{space}{key}:"
                yield from _lines(item, depth + 1)
            else:
                yield f"{space}{key}: {item!r}"
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, dict | list):
                yield f"{space}-"
                yield from _lines(item, depth + 1)
            else:
                yield f"{space}- {item!r}"
    elif value is not None:
        yield f"{space}{MASK}"


def _masked(label: str, item: Any, depth: int) -> Iterator[str]:
    """Names within auth and header are shown, values never."""
    if isinstance(item, dict) and label.strip().lower() in _TABLES:
        yield f"{label}:"
        for key in item:
            yield f"{'  ' * (depth + 1)}{key}: {MASK}"
    else:
        yield f"{label}: {MASK}"
