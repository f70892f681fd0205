"""Lines of a TOML text that belongs to somebody else: a value set in a table, and tables added at the end and removed.

Nothing here knows what the text means. That the result means what it should is proven by reading it back, here where
lines are taken out, and in ``edits`` where they are put in.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

BEGIN = "# registry-mirror-operator: begin. What stands from here to its end is overwritten."
END = "# registry-mirror-operator: end."
ASIDE = "# registry-mirror-operator set this aside: "


class EditError(ValueError):
    """Why a text cannot be edited; the message says what is in the way, without quoting it."""


def read(text: str) -> dict[str, Any]:
    """Parse TOML; raises EditError."""
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError):
        raise EditError("it is not TOML") from None


def with_value(text: str, table: tuple[str, ...], key: str, value: str | None) -> str:
    """Set a text in a table, whose header is added at the end where there is none; None takes the line out.

    The form of the line (indentation, comment, line ending) stays.
    """
    lines = text.split("\n")
    start = next((index for index, line in enumerate(lines) if _header(line) == table), None)
    if start is None:
        end = "" if text.endswith("\n") or not text else "\n"
        return f"{text}{end}\n[{_dotted(table)}]\n  {key} = {_literal(value)}\n"
    form = re.compile(rf"([ \t]*{key}[ \t]*=[ \t]*)(?:\"[^\"\n]*\"|'[^'\n]*')(.*)")
    for index in range(start + 1, len(lines)):
        if _header(lines[index]) is not None:
            break
        found = form.fullmatch(lines[index])
        if found is not None:
            line = [] if value is None else [f"{found[1]}{_literal(value)}{found[2]}"]
            return "\n".join([*lines[:index], *line, *lines[index + 1 :]])
    indent = lines[start][: len(lines[start]) - len(lines[start].lstrip())]
    ending = "\r" if lines[start].endswith("\r") else ""
    return "\n".join([*lines[: start + 1], f"{indent}  {key} = {_literal(value)}{ending}", *lines[start + 1 :]])


def with_tables(
    text: str,
    above: tuple[str, ...],
    tables: Mapping[tuple[str, ...], Mapping[str, Any]],
    aside: Iterable[tuple[str, ...]],
) -> str:
    """Add tables at the end between two marks, with those that are in their way made comments.

    The names of all are taken below ``above``. Without tables the text stays as it is.
    """
    if not tables:
        return text
    text = "\n".join(_set_aside(text.split("\n"), {(*above, *path) for path in aside}))
    lines = [BEGIN]
    for path, table in sorted(tables.items(), key=lambda item: (item[0][0] != "mirrors", item[0])):
        lines.append(f"[{_dotted((*above, *path))}]")
        lines += [f"  {key} = {_literal(value)}" for key, value in table.items()]
    # No blank line before the mark tells ``without_tables`` that the text did not end with a line break.
    return "\n".join([text, *lines, END, ""])


def without_tables(text: str, above: tuple[str, ...]) -> str:
    """Give the text as it was before ``with_tables``, wherever in it the tables are now.

    Raises EditError unless it reads as before without them, and they hold nothing but what ``with_tables`` puts there.
    """
    document, mine = read(text), added(text)
    lines = text.split("\n")
    begin, end = _marks(lines)
    if begin < end:
        blank = begin > 0 and not lines[begin - 1].strip()
        after = lines[end + 1 :]
        lines = [*lines[: begin - 1 if blank else begin], *(after if blank or after != [""] else [])]
    rest = read("\n".join(lines))
    back = [line[len(ASIDE) :] if line.startswith(ASIDE) else line for line in lines]
    theirs = read("".join(f"{new}\n" for new, old in zip(back, lines, strict=True) if new != old))
    result = "\n".join(back)
    ours = _only(mine, above, ("mirrors", "configs")) and _only(theirs, above, ("mirrors",))
    if not ours or _merged(rest, mine) != document or _merged(rest, theirs) != read(result):
        text = "what stands between its marks of registry-mirror-operator is not of it: move that out"
        raise EditError(text)
    return result


def added(text: str) -> dict[str, Any]:
    """Give what stands between our marks, empty if there are none; raises EditError."""
    lines = text.split("\n")
    begin, end = _marks(lines)
    return read("".join(f"{line}\n" for line in lines[begin + 1 : end]))


def _marks(lines: list[str]) -> tuple[int, int]:
    """Give the lines of our two marks, 0 and 0 if there are none. Raises EditError if they do not pair."""
    marks = [(index, line.rstrip("\r")) for index, line in enumerate(lines) if line.rstrip("\r") in (BEGIN, END)]
    if not marks:
        return 0, 0
    if [mark for _, mark in marks] != [BEGIN, END]:
        raise EditError("its marks of registry-mirror-operator do not pair: remove them and what was between them")
    return marks[0][0], marks[1][0]


def _set_aside(lines: list[str], tables: set[tuple[str, ...]]) -> list[str]:
    """Make comments of the lines of those tables; what is blank or a comment in them stays."""
    result: list[str] = []
    inside = False
    for line in lines:
        found = _header(line)
        if found is not None:
            inside = found in tables
        says = inside and line.strip() != "" and not line.lstrip().startswith("#")
        result.append(ASIDE + line if says else line)
    return result


def _header(line: str) -> tuple[str, ...] | None:
    """Give the name of the table whose header a line is; None if it is none, and no name for one of another kind."""
    if not line.lstrip(" \t").startswith("["):
        return None
    try:
        found: Any = tomllib.loads(line.rstrip("\r"))
    except (ValueError, RecursionError):
        return ()
    path = []
    while isinstance(found, dict) and found:
        ((key, found),) = found.items()
        path.append(key)
    return tuple(path) if isinstance(found, dict) else ()


def _dotted(path: Iterable[str]) -> str:
    """Give the name of a table; only what needs quotes has them."""
    return ".".join(part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else _literal(part) for part in path)


def _literal(value: Any) -> str:
    """Give a literal of TOML: a text, true or false, or a list of texts.

    MicroK8s runs sed over its template, for ${SNAP} and others, so that a dollar before a brace must not be seen
    (microk8s-resources/wrappers/run-containerd-with-args).
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f").replace("${", "\\u0024{")


def _only(document: Mapping[str, Any], above: tuple[str, ...], names: tuple[str, ...]) -> bool:
    """Tell whether a document has nothing but tables of those names in the table ``above``."""
    found: Any = document
    for key in above:
        if not isinstance(found, dict) or set(found) - {key}:
            return False
        found = found.get(key, {})
    return isinstance(found, dict) and set(found) <= set(names)


def _merged(left: Any, right: Any) -> Any:
    """Give a document with what both have; None, which no document is, where they disagree."""
    if not isinstance(left, dict) or not isinstance(right, dict):
        return None
    result = dict(left)
    for key, value in right.items():
        result[key] = _merged(left[key], value) if key in left else value
    return result
