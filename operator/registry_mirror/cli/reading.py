"""Reading what users name on the command line: a file, or ``-`` for standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..api.errors import FieldError, InvalidError


def shown(name: str) -> str:
    """Give what a message calls it."""
    return "standard input" if name == "-" else name


def text_of(name: str, kind: str = "text") -> str:
    """Give its text. Raises InvalidError, which says that a file of that kind is to be given."""
    try:
        return sys.stdin.read() if name == "-" else Path(name).read_text()
    except OSError as error:
        raise InvalidError(shown(name), (FieldError("", error.strerror or "", "give a readable file"),)) from None
    except UnicodeDecodeError:
        raise InvalidError(shown(name), (FieldError("", "bytes that are not UTF-8", f"give a {kind} file"),)) from None


def yaml_of(name: str, kind: str = "text", *, strings: bool = False) -> Iterator[Any]:
    """Give its YAML documents; with ``strings``, all values as they are written. Raises InvalidError."""
    import yaml

    text, schema = text_of(name, kind), "Base" if strings else "Safe"
    # The parser in C, where PyYAML was built with it.
    loader = getattr(yaml, f"C{schema}Loader", None) or getattr(yaml, f"{schema}Loader")
    try:
        yield from yaml.load_all(text, Loader=loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "it cannot be read"
        raise InvalidError(shown(name), (FieldError(where, "", f"write valid YAML ({problem})"),)) from None
