"""The YAML that ``registry-mirror import`` prints, comments included, proven by reading it back.

Strings are quoted unless they are plain words, since readers of YAML disagree on what 1e3, on and 0o7 are. Comment text
comes from files that anybody may have written: whatever could end its line is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import yaml

from ..render.quoting import RenderMismatch
from ..words import short
from .documents import Document

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9-]*(?:[./:][A-Za-z0-9/._:-]*[A-Za-z0-9])?")
_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null", "inf", "nan"}
_MAX_NOTE = 1000


class _Dumper(yaml.SafeDumper):
    """Lists are indented, strings quoted where that may matter, PEM texts as they are."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    style = '"'
    if value.startswith("-----BEGIN ") and value.isascii():
        style = "|"
    elif _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        style = ""
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style or None)


_Dumper.add_representer(str, _text)


def emit(documents: Sequence[Document], notes: Iterable[str]) -> str:
    """Give the documents as YAML, the general notes first and each document's own above it.

    Raises RenderMismatch if the text does not read back as the documents: a defect here, never of the input.
    """
    parts = ["".join(f"# note: {line(note)}\n" for note in notes)]
    for document in documents:
        comments = "".join(f"# note: {line(note)}\n" for note in document.notes)
        text = yaml.dump(document.body, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=2**20)
        parts.append(f"---\n{comments}{text}")
    result = "".join(parts)
    if [item for item in yaml.safe_load_all(result) if item is not None] != [item.body for item in documents]:
        raise RenderMismatch("the objects do not read back as they were meant")
    return result


def line(text: str) -> str:
    """The text on one line, with nothing in it that ends a comment or that a terminal would act on."""
    shown = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return short(shown, _MAX_NOTE)
