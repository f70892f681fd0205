"""What values.yaml says of each value: its comments, for the schema and for the page."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import yaml

_KEY = re.compile(r"^( *)([A-Za-z]+):")
_LONGEST = 40


class Undescribed(Exception):
    """A value has no comment; the message names it."""


@dataclass(frozen=True)
class Value:
    """A value that has a comment: `path` with dots, as of --set."""

    path: str
    default: Any
    description: str


def described(text: str) -> list[Value]:
    """Give the values of the text of values.yaml in its order. Raises Undescribed."""
    defaults = yaml.safe_load(text)
    found: list[Value] = []
    parents: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in text.splitlines():
        if line.strip().startswith("#"):
            comment.append(line.strip().removeprefix("#").strip())
            continue
        key = _KEY.match(line)
        if key is not None:
            indent = len(key[1])
            parents = [item for item in parents if item[0] < indent]
            path = ".".join([*(name for _, name in parents), key[2]])
            parents.append((indent, key[2]))
            if comment:
                found.append(Value(path, _at(defaults, path), " ".join(comment)))
        comment = []
    _complete(defaults, "", {value.path for value in found})
    return found


def table(values: list[Value]) -> str:
    """The values as a table in Markdown."""
    rows = [f"| `{item.path}` | {_short(item.default)} | {_cell(item.description)} |" for item in values]
    return "\n".join(["| value | default | what it is |", "| --- | --- | --- |", *rows])


def _at(defaults: Any, path: str) -> Any:
    for name in path.split("."):
        defaults = defaults[name]
    return defaults


def _complete(defaults: dict[str, Any], above: str, known: set[str]) -> None:
    """Every value is described, or is a map of such; what is below one that is described belongs to it."""
    for name, value in defaults.items():
        path = f"{above}{name}"
        if path in known:
            continue
        if not isinstance(value, dict) or not value:
            raise Undescribed(f"values.yaml: {path} has no comment above it")
        _complete(value, f"{path}.", known)


def _short(default: Any) -> str:
    text = json.dumps(default)
    return f"`{text}`" if len(text) <= _LONGEST else "see `values.yaml`"


def _cell(text: str) -> str:
    return re.sub(r"\bdocs/(\w+\.md)", r"[\1](../\1)", text.replace("|", "\\|"))
