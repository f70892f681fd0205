"""What a script of OpenRC says in plain words. It is never run: only what a shell would take as it stands is taken."""

from __future__ import annotations

import re
import shlex

from msgspec import Struct

# NAME=VALUE on lines of its own, with one pair of quotes or none (openrc-run(8)).
_SETTING = re.compile(
    r"""^[ \t]*(\w+)=("(?:[^"\\]|\\.)*"|'[^']*'|[^\s"'\\;&|<>()]*)[ \t]*$""", re.MULTILINE | re.DOTALL
)
_ESCAPED = re.compile(r'\\(["\\$`]|\n)')
_COMPUTED = re.compile(r"(?<!\\)(?:\\\\)*[$`]")
# `. FILE`, as K3s's script reads the variables of its service (k3s install.sh, create_openrc_service_file).
_SOURCED = re.compile(r"""(?:^|;|\bthen)[ \t]*(?:\.|source)[ \t]+(/[^\s;&|$`"'*?\[\\]+)(?=[\s;&|]|$)""", re.MULTILINE)
_REDIRECTION = re.compile(r"[0-9]*[<>&|;].*", re.DOTALL)


class Said(Struct, frozen=True, kw_only=True):
    """The command with its arguments, the files with variables that it reads, and the files that it writes to."""

    command: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    logs: tuple[str, ...] = ()


def read(text: str) -> Said:
    """Read a script. Nothing in it can make this raise."""
    settings = {match[1]: _value(match[2]) for match in _SETTING.finditer(text)}
    program = settings.get("command", "")
    logs = [settings.get(name, "") for name in ("output_log", "error_log")]
    return Said(
        command=(program, *_words(settings.get("command_args", ""))) if program.startswith("/") else (),
        files=tuple(dict.fromkeys(match[1] for match in _SOURCED.finditer(text))),
        logs=tuple(dict.fromkeys(path for path in logs if path.startswith("/"))),
    )


def _value(word: str) -> str:
    """Give the value, empty if a shell would have to compute it."""
    if word.startswith("'"):
        return word[1:-1]
    if _COMPUTED.search(word):
        return ""
    return _ESCAPED.sub(lambda match: match[1].strip("\n"), word[1:-1]) if word.startswith('"') else word


def _words(text: str) -> list[str]:
    """Give the arguments before the first redirection: OpenRC has its shell read them a second time."""
    found: list[str] = []
    try:
        for word in shlex.split(text):
            if _REDIRECTION.fullmatch(word):
                break
            found.append(word)
    except ValueError:
        return []
    return [] if _COMPUTED.search(text) else found
