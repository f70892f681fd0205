"""What containerd cannot decode in a hosts.toml, and ignores whole then: by the types of its own structure.

core/remotes/docker/config/hosts.go of 2.4 and 1.7; each was seen with containerd's own reader (tests/oracles).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from .. import versions
from .text import at, line_of, shown

WORDS = ("pull", "resolve", "push")
# Go's time.ParseDuration.
_DURATION = re.compile(r"[+-]?(?:0|(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|ms|s|m|h))+)")


class RefusedError(Exception):
    """Why containerd refuses a file."""


def entries(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give the tables with settings, each with its URL; the root's is empty."""
    hosts = document.get("host", {})
    if not isinstance(hosts, dict):
        raise RefusedError("host is no table")
    for url, entry in hosts.items():
        if not isinstance(entry, dict):
            raise RefusedError(f"host.{shown(url)} is no table")
        yield url, entry
    if not isinstance(document.get("server", ""), str):
        raise RefusedError("server is no text in quotes")
    yield "", document


def problems(text: str, url: str, entry: dict[str, Any], version: str) -> Iterator[str]:
    """Say what containerd cannot decode."""
    start = line_of(text, "[", url) if url else 0
    expected = {
        "capabilities": _is_texts(entry.get("capabilities", [])),
        "ca": _is_text_or_texts(entry.get("ca", "")),
        "client": _is_client(entry.get("client", "")),
        "skip_verify": isinstance(entry.get("skip_verify", False), bool),
        "override_path": isinstance(entry.get("override_path", False), bool),
        "header": _is_header(entry.get("header", {})),
        "dial_timeout": not has_dial_timeout(version) or _is_duration(entry.get("dial_timeout", "0")),
    }
    forms = {
        "capabilities": "a list of texts",
        "ca": "a path in quotes, or a list of such",
        "client": "a path in quotes, or a list of pairs [certificate, key]",
        "skip_verify": "true or false, without quotes",
        "override_path": "true or false, without quotes",
        "header": "a table of texts",
        "dial_timeout": 'a duration in quotes, such as "5s"',
    }
    for key, right in expected.items():
        if not right:
            yield at(line_of(text, key, after=start), f"{key} is not {forms[key]}")
    for word in entry.get("capabilities", []) if expected["capabilities"] else ():
        if word.lower() not in WORDS:
            where = line_of(text, "capabilities", after=start)
            yield at(where, f"capability {shown(word)} is unknown: there are pull, resolve and push")
    if url and _is_broken(url):
        yield at(start, f"{shown(url)} is no URL")


def _is_broken(url: str) -> bool:
    try:
        _ = urlsplit(url if url.startswith("http") else f"https://{url}").port
    except ValueError:
        return True
    return False


def has_dial_timeout(version: str) -> bool:
    """Tell whether a containerd knows dial_timeout; an unknown one is taken for a recent one."""
    return not versions.known_below(version, 2, 0, 7)


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_text_or_texts(value: object) -> bool:
    return isinstance(value, str) or _is_texts(value)


def _is_client(value: object) -> bool:
    pairs = isinstance(value, list) and all(
        isinstance(item, str) or (_is_texts(item) and 0 < len(item) <= 2) for item in value
    )
    return isinstance(value, str) or pairs


def _is_header(value: object) -> bool:
    return isinstance(value, dict) and all(_is_text_or_texts(item) for item in value.values())


def _is_duration(value: object) -> bool:
    return isinstance(value, str) and _DURATION.fullmatch(value) is not None
