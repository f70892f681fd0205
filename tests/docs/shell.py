"""What a block of shell in the documentation runs: commands, word by word."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=.*")
_PROMPT = re.compile(r"\$ |(?:root@[\w.-]+:~)?# ")
_BEFORE = {"sudo", "time", "exec", "watch"}
_SPECIAL = set("();<>|&")


def lines(language: str, body: str) -> Iterator[str]:
    """The commands of a block: all lines of ``sh``, those with a prompt of ``console``.

    Continued lines are joined, and what a here-document has is left out.
    """
    end = ""
    joined = ""
    for line in body.splitlines():
        if end:
            end = "" if line.strip() == end else end
            continue
        if not joined and language == "console":
            prompt = _PROMPT.match(line)
            if prompt is None:
                continue
            line = line[prompt.end() :]
        joined += line
        if joined.endswith("\\"):
            joined = joined[:-1]
        elif _open(joined):
            joined += "\n"
        else:
            document = re.search(r"<<-?\s*['\"]?(\w+)", joined)
            end = document[1] if document else ""
            yield joined
            joined = ""
    if joined:
        yield joined


def _open(line: str) -> bool:
    """Whether a quotation goes on in the next line."""
    try:
        shlex.split(line, comments=True)
    except ValueError:
        return True
    return False


def commands(line: str) -> Iterator[list[str]]:
    """The commands of a line, without variables that are set for them and programs that run them."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.commenters = "#"
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if not set(word) <= _SPECIAL:
            words.append(word)
            continue
        while words and (words[0] in _BEFORE or _ASSIGNMENT.fullmatch(words[0])):
            words.pop(0)
        if words:
            yield words
        words = []
