"""YAML, TOML and JSON from files that anybody may have written: bounded in size, depth and work, errors with a place.

Scalars of YAML stay text, as Go reads them into text fields: a password 0123 is four characters.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import yaml

from ...api.errors import InvalidError
from ...api.parse import show
from .draft import wrong

MAX_BYTES = 1024 * 1024
_MAX_DEPTH = 32
_MAX_NODES = 100_000
_NULL = "tag:yaml.org,2002:null"
_MERGE = "tag:yaml.org,2002:merge"
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# tomllib takes quadratic time for a key of many parts.
_PART = r"""(?:[A-Za-z0-9_-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')"""
_LONG_KEY = re.compile(rf"(?<![A-Za-z0-9_-])(?:{_PART}[ \t]*+\.[ \t]*+){{{_MAX_DEPTH}}}")
_TRUE = ("true", "yes", "on")
_FALSE = ("false", "no", "off", "")


def text_of(subject: str, raw: bytes) -> str:
    """Give the text of a file; raises InvalidError if it is too large or not UTF-8."""
    if len(raw) > MAX_BYTES:
        raise wrong(subject, "", f"{len(raw)} bytes", f"write at most {MAX_BYTES}")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise wrong(subject, "", "bytes that are not UTF-8", "write UTF-8 text") from None
    if "\0" in text:
        raise wrong(subject, "", "a NUL character", "write UTF-8 text")
    return text


def read_toml(subject: str, text: str) -> Table:
    """Read TOML; raises InvalidError with the line."""
    if _LONG_KEY.search(text):
        raise wrong(subject, "", f"a key of {_MAX_DEPTH} parts or more", "write TOML that is nested less deeply")
    try:
        return Table(subject, "", tomllib.loads(text))
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        place = re.search(r"\(at (line \d+, column \d+|end of document)\)", str(error))
        raise wrong(subject, place[1] if place else "", "", "write valid TOML") from None


def read_json(subject: str, text: str) -> Table:
    """Read JSON; raises InvalidError."""
    try:
        return Table(subject, "", msgspec.json.decode(text.encode()))
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        place = re.search(r"\(byte (\d+)\)", str(error))
        raise wrong(subject, f"byte {place[1]}" if place else "", "", "write valid JSON") from None


def read_yaml(subject: str, text: str) -> Table:
    """Read one YAML document, every scalar but null as its text; raises InvalidError with the line."""
    try:
        depth = documents = 0
        for event in yaml.parse(text, Loader=_Loader):
            documents += isinstance(event, yaml.DocumentStartEvent)
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _MAX_DEPTH:
                raise wrong(subject, "", f"more than {_MAX_DEPTH} levels", "write YAML that is nested less deeply")
        if documents > 1:
            raise wrong(subject, "", f"{documents} documents", "write one: the rest is never read")
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise wrong(subject, f"line {mark.line + 1}" if mark is not None else "", "", "write valid YAML") from None
    except (ValueError, OverflowError):
        raise wrong(subject, "", "", "write valid YAML") from None
    return Table(subject, "", _Tree(subject).value(node, 0))


class _Tree:
    """Nodes to plain values; aliases are followed as often as they stand there, within a budget."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.budget = _MAX_NODES

    def value(self, node: yaml.Node | None, depth: int) -> Any:
        self.budget -= 1
        if self.budget < 0 or depth > _MAX_DEPTH:
            raise wrong(self.subject, "", "too many nodes or aliases", "write it with fewer")
        if node is None or node.tag == _NULL:
            return None
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, depth + 1) for item in node.value]
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, depth)
        return str(node.value)

    def _mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key, item in node.value:
            line = f"line {key.start_mark.line + 1}"
            if key.tag == _MERGE:
                found = self.value(item, depth + 1)
                for part in found if isinstance(found, list) else [found]:
                    if not isinstance(part, dict):
                        raise wrong(self.subject, line, show(part), "write an alias of keys and values after <<")
                    merged = {**part, **merged}
                continue
            if not isinstance(key, yaml.ScalarNode):
                raise wrong(self.subject, line, "a key that is not text", "write keys as text")
            if key.value in result:
                raise wrong(self.subject, f"{line}, {show(key.value)}", "the key twice", "write it once")
            result[str(key.value)] = self.value(item, depth + 1)
        return {**merged, **result}


class Table:
    """Keys and values from a user's file, with the way to them: every accessor gives a type or a clear error."""

    def __init__(self, subject: str, path: str, value: Any) -> None:
        self.subject, self.path = subject, path
        if not isinstance(value, Mapping) and value is not None:
            raise self.wrong("", "write keys and values", value)
        self._value: Mapping[str, Any] = value or {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._value)

    def __contains__(self, key: str) -> bool:
        return key in self._value

    def where(self, key: str) -> str:
        """The path of a key, as an error names it."""
        if not re.fullmatch(r"[\w-]+(?:\[\d+\])?", key):
            return f"{self.path}[{show(key)}]"
        return f"{self.path}.{key}" if self.path else key

    def wrong(self, key: str, expected: str, found: Any = None) -> InvalidError:
        """An error about a key; ``found`` is never shown but by its kind or, if it is short and plain, as it is."""
        return wrong(
            self.subject, self.where(key) if key else self.path, "" if found is None else _kind(found), expected
        )

    def is_table(self, key: str) -> bool:
        """Tell whether the key has keys and values below it."""
        return isinstance(self._value.get(key), Mapping)

    def table(self, key: str) -> Table:
        """The table at a key; an empty one if there is none."""
        return Table(self.subject, self.where(key), self._value.get(key))

    def tables(self, key: str) -> list[Table]:
        """The list of tables at a key."""
        value = self._value.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.wrong(key, "write a list of tables", value)
        return [Table(self.subject, f"{self.where(key)}[{index}]", item or {}) for index, item in enumerate(value)]

    def text(self, key: str) -> str:
        """The text at a key; empty if there is none."""
        value = self._value.get(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self.wrong(key, "write text (in quotes)", value)
        return value

    def texts(self, key: str) -> list[str]:
        """The texts at a key, which may be one text alone."""
        value = self._value.get(key)
        if value is None:
            return []
        items = value if isinstance(value, list) else [value]
        for index, item in enumerate(items):
            if not isinstance(item, str):
                raise self.wrong(f"{key}[{index}]" if isinstance(value, list) else key, "write text (in quotes)", item)
        return list(items)

    def flag(self, key: str) -> bool:
        """True or false at a key; false if there is none."""
        value = self._value.get(key)
        if value is None or isinstance(value, bool):
            return bool(value)
        if isinstance(value, str) and value.lower() in (*_TRUE, *_FALSE):
            return value.lower() in _TRUE
        raise self.wrong(key, "write true or false", value)

    def raw(self, key: str) -> Any:
        """Whatever is at a key."""
        return self._value.get(key)


def _kind(value: Any) -> str:
    """What was found, without showing a text, which may be a password."""
    return "text" if isinstance(value, str) else show(value)
