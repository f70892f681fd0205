"""Places in texts, and the form in which a finding is made: what all families of rules share."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

from ..finding import Finding, Severity
from ..words import short

_SHOWN = 120
# Before the host of a URL, also where its scheme is left out.
_USER = re.compile(r"(//|^)[^/@]*@")
_AT = re.compile(r"\(at (?:line (\d+), column (\d+)|end of document)\)")


class NotReadableError(ValueError):
    """A text is not what it should be; the message says where, and quotes nothing of it."""


def finding(severity: Severity, reason: str, subject: str, evidence: str, remedy: str) -> Finding:
    """Give a finding; arguments in the order in which they are shown."""
    return Finding(reason=reason, severity=severity, subject=subject, evidence=evidence, remedy=remedy)


def toml(text: str) -> dict[str, Any]:
    """Read TOML. Raises NotReadableError with the line, and with what is wrong there in the parser's words."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = _AT.search(str(error))
        where = f"line {found[1]}: " if found is not None and found[1] else ""
        # The parser quotes single characters and names of keys; a value it does not.
        said = _AT.sub("", str(error)).strip()
        raise NotReadableError(f"{where}it is not TOML ({short(masked(said), _SHOWN)})") from None
    except (ValueError, RecursionError):
        raise NotReadableError("it is not TOML") from None


def table(value: Any, *keys: str) -> dict[str, Any]:
    """Give the table at the end of these keys, empty if there is none."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, dict) else {}


def line_of(text: str, *words: str, after: int = 0) -> int:
    """Give the number of the first line after that one in which all those words stand, and no comment; 0 for none."""
    for number, line in enumerate(text.splitlines(), start=1):
        if number > after and not line.lstrip().startswith("#") and all(word in line for word in words):
            return number
    return 0


def line_of_key(text: str, key: str, after: int = 0) -> int:
    """Give the number of the first line after that one that has a YAML key, whatever else is on it; 0 for none."""
    form = re.compile(rf"""(?<![\w./:-])["']?{re.escape(key)}["']?\s*:(?!//)""")
    for number, line in enumerate(text.splitlines(), start=1):
        if number > after and not line.lstrip().startswith("#") and form.search(line):
            return number
    return 0


def at(line: int, what: str) -> str:
    """Say where something is."""
    return f"line {line}: {what}" if line else what


def shown(value: str) -> str:
    """Give a value from a file, in quotes and not too long; not for what may be a secret."""
    return repr(short(masked(value), _SHOWN))


def masked(text: str) -> str:
    """Give a URL, or a text with URLs in it, without the user names and passwords of those."""
    return _USER.sub(r"\1***@", text)


def listed(words: Iterable[str]) -> str:
    """Name a few things of a file, each cut to a length."""
    return ", ".join(short(word, _SHOWN) for word in words)
