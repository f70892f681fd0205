"""What is wrong with the shape of a document, in the words of its user: msgspec finds it, this module says it.

msgspec's messages are about Python types; here the same fact names the field, the value that was found and what to
write instead.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from . import grammar
from .errors import FieldError

# The messages of msgspec.ValidationError (msgspec/_core.c, ms_raise_validation_error).
_LOCATION = re.compile(r"^(?P<text>.*?)(?: - at (?P<key>`key` in )?`\$(?P<path>.*)`)?$", re.DOTALL)
_UNKNOWN = re.compile(r"unknown field `(?P<name>.*)`", re.DOTALL)
_MISSING = re.compile(r"missing required field `(?P<name>.*)`")
_LIMIT = re.compile(r"Expected `(?P<type>\w+)`(?P<length> of length)? (?P<bound><=|>=) (?P<value>-?\d+)")
_EXPECTED = re.compile(r"Expected `(?P<types>[^`]+)`")
_WORDS = {
    "str": "text (in quotes)",
    "int": "a whole number",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}
_UNITS = {"str": "characters"}
_FORMS = {"registry": grammar.REGISTRY_FORM, "url": grammar.URL_FORM}
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+)\]")
_FOUND_LENGTH = 80

_FOUND_LENGTH = 80


def shape_error(text: str, body: Mapping[str, Any], model: Any) -> FieldError:
    """Turn msgspec's message into ours: same fact, with the value that was found and a remedy."""
    match = _LOCATION.match(text)
    assert match is not None  # every part of the pattern is optional
    path = (match["path"] or "").lstrip(".")
    if match["key"]:
        return FieldError(path, "a key that is not text", "write keys as text (in quotes)")
    unknown = _UNKNOWN.search(match["text"])
    if unknown:
        name = unknown["name"]
        near = difflib.get_close_matches(name, _field_names(model), n=1)
        remedy = f"did you mean {near[0]}?" if near else "remove it: there is no such field"
        return FieldError(_join(path, plain(name)), "an unknown field", remedy)
    missing = _MISSING.search(match["text"])
    if missing:
        form = _FORMS.get(missing["name"])
        return FieldError(_join(path, missing["name"]), "", f"it is missing; {form}" if form else "it is missing")
    path, value = _culprit(body, path)
    return FieldError(path, value, _remedy(match["text"], _type_at(model, path)))


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _remedy(text: str, expected: Any) -> str:
    """Say what to write instead, in the words of the user's object rather than of Python."""
    if isinstance(expected, msgspec.inspect.LiteralType):
        return f"write one of {', '.join(str(value) for value in expected.values)}"
    limit = _LIMIT.fullmatch(text)
    if limit:
        unit = _UNITS.get(limit["type"], "entries") if limit["length"] else ""
        bound = "at most" if limit["bound"] == "<=" else "at least"
        return f"write {bound} {limit['value']} {unit}".rstrip()
    kind = _EXPECTED.match(text)
    if kind:
        words = [_WORDS.get(item, item) for item in kind["types"].split(" | ")]
        return f"write {' or '.join(words)}"
    return text[:1].lower() + text[1:]


def _field_names(model: Any) -> list[str]:
    """All field names of a model and of the models inside it, as users write them."""
    names: set[str] = set()
    pending: list[Any] = [msgspec.inspect.type_info(model)]
    while pending:
        node = pending.pop()
        if isinstance(node, msgspec.inspect.StructType):
            names.update(item.encode_name for item in node.fields)
            pending.extend(item.type for item in node.fields)
        elif isinstance(node, msgspec.inspect.UnionType):
            pending.extend(node.types)
        elif isinstance(node, msgspec.inspect.VarTupleType):
            pending.append(node.item_type)
    return sorted(names)


def _type_at(model: Any, path: str) -> Any:
    """The type that a model has at a path; None below what it does not describe."""
    node: Any = msgspec.inspect.type_info(model)
    for key, index in _STEP.findall("." + path if path else ""):
        node = _not_none(node)
        if isinstance(node, msgspec.inspect.VarTupleType) and index:
            node = node.item_type
        elif isinstance(node, msgspec.inspect.StructType) and key:
            node = next((item.type for item in node.fields if item.encode_name == key), None)
        else:
            return None
    return _not_none(node)


def _not_none(node: Any) -> Any:
    """What an optional type is when it is there."""
    if isinstance(node, msgspec.inspect.UnionType):
        types = [item for item in node.types if not isinstance(item, msgspec.inspect.NoneType)]
        return types[0] if len(types) == 1 else node
    return node


def _culprit(body: Any, path: str) -> tuple[str, str]:
    """Give the path and the value there, for a person; msgspec does not say which entry of a map it means."""
    value = body
    for key, index in _STEP.findall("." + path.removesuffix("[...]") if path else ""):
        try:
            value = value[int(index)] if index else value[key]
        except (KeyError, IndexError, TypeError):
            return path, ""
    if path.endswith("[...]"):
        for key, item in value.items() if isinstance(value, Mapping) else ():
            if not isinstance(item, str):
                return f"{path.removesuffix('[...]')}[{plain(key)}]", show(item)
        return path, ""
    return path, show(value)


def show(value: Any) -> str:
    """Render a value from a user's object, shortened, on one line, with nothing that a terminal would act on."""
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return f"a list of {len(value)}"
    if isinstance(value, str):
        text = repr(value)
    else:
        try:
            text = str(msgspec.json.encode(value), "utf-8")
        except (TypeError, ValueError, msgspec.MsgspecError):
            text = f"a value of type {type(value).__name__}"
    return text if len(text) <= _FOUND_LENGTH else text[: _FOUND_LENGTH - 1] + "…"


def plain(value: Any) -> str:
    """A name as it is, unless a terminal would act on it."""
    return value if isinstance(value, str) and value.isprintable() else show(value)
