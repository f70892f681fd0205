"""A file of a node as it may be shown: what it says without what it keeps secret, for diffs; and what a program said
that has read the file, without the same.

The file is parsed, masked and written anew, so that no form of quoting lets a secret through; what cannot be parsed is
not shown at all.
"""

from __future__ import annotations

import base64
import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote, quote_plus

MASK = "***"
SHORTEST = 4  # of what is looked for in free text: anything shorter stands in too many words
# Keys of registries.yaml, config.toml and hosts.toml (any header may carry a credential), in lower case.
_SECRET = {"password", "auth", "identity_token", "identitytoken", "token", "username", "authorization", "header"}
_TABLES = {"auth", "header"}
# In free text, user names such as root or admin say nothing that is secret, and are everywhere.
_NOT_HIDDEN = {"username"}
_WORTH = 16  # the shortest line of a key that tells something about it
_SETTINGS = (".toml", ".conf", ".yaml", ".yml", ".json")
# For what neither parser takes.
_LOOSE = re.compile(r"""(?i)(?:password|auth|token|authorization)["']?[ \t]*[:=][ \t]*["'\[]*([^"'\s\]]+)""")


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
    if _is_pem(path, text):
        return [f"({text.count('-----BEGIN ')} PEM blocks)"]
    try:
        document = _parsed(path, text)
    except (ValueError, RecursionError):
        return ["(it cannot be read, so it is not shown)"]
    return list(_lines(document, 0))


def _is_pem(path: str, text: str) -> bool:
    """Whether a file has certificates or keys; a password in a file of settings may well look as if it were one."""
    return not path.endswith(_SETTINGS) and "-----BEGIN " in text


def _parsed(path: str, text: str) -> Any:
    if path.endswith((".toml", ".conf")):
        return tomllib.loads(text)
    import yaml  # only two runtimes have such files, and an agent is to be small

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(type(error).__name__) from None


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


def secrets(path: str, text: str) -> set[str]:
    """Give what is secret in a file of a node, each as it stands there and as what it encodes."""
    if _is_pem(path, text):
        return {line.strip() for line in text.split("\n") if _of_key(line)} if "PRIVATE KEY" in text else set()
    try:
        document = _parsed(path, text)
    except (ValueError, RecursionError):
        document = None
    values: Iterable[str] = _values(document, hidden=False) if isinstance(document, dict) else _LOOSE.findall(text)
    found = {part for value in values for part in _decoded(value)}
    return {line for value in found for line in (value, *value.splitlines()) if len(line) >= SHORTEST}


def hide(text: str, known: Iterable[str]) -> str:
    """Give a line of free text without those secrets, plain, quoted, or in one of the usual encodings."""
    forms = sorted({form for secret in known for form in _forms(secret)}, key=lambda form: (-len(form), form))
    for form in forms:
        text = text.replace(form, MASK)
    # Lines are cut to a length, and a cut may go through one.
    for form in forms:
        for length in range(min(len(form) - 1, len(text)), SHORTEST - 1, -1):
            if text.endswith(form[:length]):
                text = text[:-length] + MASK
                break
    return text


def _of_key(line: str) -> bool:
    return len(line.strip()) >= _WORTH and not line.startswith("-----")


def _values(value: Any, *, hidden: bool) -> Iterator[str]:
    """The strings below keys that hold secrets, and what user and password come to together."""
    if isinstance(value, dict):
        for key, item in value.items():
            name = str(key).lower()
            table = name == "auth" and isinstance(item, dict)
            inside = (hidden or name in _SECRET) and name not in _NOT_HIDDEN and not table
            yield from _values(item, hidden=inside)
        user, password = value.get("username"), value.get("password")
        if isinstance(user, str) and isinstance(password, str):
            yield from _values(f"{user}:{password}", hidden=True)
    elif isinstance(value, list):
        for item in value:
            yield from _values(item, hidden=hidden)
    elif hidden and value is not None:
        # YAML may spell one character as the two halves of UTF-16, which nothing can encode.
        yield str(value).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _decoded(value: str) -> Iterator[str]:
    """A value, the words of a header, and the password in what is base64 of user and password."""
    words = value.split()
    for word in {value, *(words[1:] if len(words) > 1 else ())}:
        yield word
        try:
            pair = base64.b64decode(word, validate=True).decode()
        except ValueError:
            pair = word
        user, colon, password = pair.partition(":")
        if colon and user:
            yield from (pair, password)


def _forms(secret: str) -> set[str]:
    """How a program may say it: as it is, quoted (once or twice), in a URL, in base64 amid other text, in hexadecimal
    digits.
    """
    raw = secret.encode()
    found = {secret, quote(raw, safe=""), quote(raw), quote_plus(raw), raw.hex()}
    # Only the digits that what follows cannot change.
    digits = len(raw) * 8 // 6
    found |= {encode(raw).decode()[:digits] for encode in (base64.b64encode, base64.urlsafe_b64encode)}
    quoted = {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
    # encoding/json of Go writes these three so.
    quoted |= {form.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026") for form in quoted}
    found |= quoted | {json.dumps(form, ensure_ascii=False)[1:-1] for form in quoted}
    return {form for form in found if len(form) >= SHORTEST}
