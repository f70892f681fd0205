"""The one way a value gets into a file: Jinja2 templates with a filter that quotes, and a proof by reading back.

A value is never interpolated raw, so no name, URL, password or pattern can end its string and start a line of its own
(architecture.md, convention 10).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import jinja2
import msgspec
import yaml

# What must not stand raw in a TOML basic string or a YAML double-quoted scalar: controls (C0, DEL, C1), the line and
# paragraph separators and the byte order mark, which YAML reads as breaks or refuses.
_SPECIAL = re.compile(r'["\\\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]')
_SHORT = {'"': '\\"', "\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}


class RenderMismatch(AssertionError):
    """A rendered file does not read back as what was meant: a defect of a template, never of the input."""


def quoted(value: str) -> str:
    """Give the value as a string literal that TOML 1.0 and YAML 1.1 both read back as that value."""
    return '"' + _SPECIAL.sub(lambda match: _SHORT.get(match[0], f"\\u{ord(match[0]):04x}"), value) + '"'


def quoted_list(values: Iterable[str]) -> str:
    """Give the values as a list that TOML and YAML share."""
    return f"[{', '.join(map(quoted, values))}]"


def boolean(value: bool) -> str:
    """Give the literal that TOML and YAML share."""
    return "true" if value else "false"


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("registry_mirror.core.render"),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701 - not HTML: every value goes through the filters below
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        auto_reload=False,  # the package does not change while it runs; Jinja would look at each use
    )
    environment.filters["q"] = quoted
    environment.filters["ql"] = quoted_list
    environment.filters["b"] = boolean
    return environment


def toml_file(template: str, expected: Mapping[str, Any], **values: Any) -> str:
    """Fill a template and give the text, once ``tomllib`` reads it as ``expected``, tables in the same order."""
    text = _environment().get_template(template).render(**values)
    try:
        same = _same(tomllib.loads(text), expected)
    except tomllib.TOMLDecodeError:
        same = False
    return _proven(text, same, template)


def yaml_file(template: str, expected: Mapping[str, Any], **values: Any) -> str:
    """Fill a template and give the text, once YAML reads it as ``expected``, keys in the same order."""
    text = _environment().get_template(template).render(**values)
    try:
        same = _same(yaml.load(text, Loader=_Loader), expected)  # noqa: S506 - a safe loader
    except yaml.YAMLError:
        same = False
    return _proven(text, same, template)


def _proven(text: str, same: bool, template: str) -> str:
    """Give the text, or raise: without what a parser says, which may quote a credential."""
    if not same:
        raise RenderMismatch(f"{template} does not read back as it was meant")
    return text


_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _same(left: Any, right: Any) -> bool:
    """Equal in values, types and order: as JSON, which tells 1 from true and keeps the order of keys, at C speed."""
    return msgspec.json.encode(left) == msgspec.json.encode(right)
