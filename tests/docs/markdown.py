"""What the tests read of Markdown: the pages there are, their blocks, links and anchors."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"^( *)```([^\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(`+)(.+?)\1", re.DOTALL)
_HEADING = re.compile(r"^#{1,6} (.+?)(?: #*)?$", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def pages() -> list[Path]:
    """Every Markdown file of the project, also one that is not committed yet."""
    tops = [path for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")]
    found = [page for top in tops for page in top.rglob("*.md") if "node_modules" not in page.parts]
    return sorted([*ROOT.glob("*.md"), *found])


def blocks(text: str, *languages: str) -> Iterator[tuple[str, str]]:
    """The fenced blocks of these languages: the language, and the lines without the indentation of a list."""
    for indentation, language, body in _FENCE.findall(text):
        if language.strip() in languages:
            yield language.strip(), re.sub(rf"^{indentation}", "", body, flags=re.MULTILINE)


def spans(text: str) -> list[str]:
    """What stands in backticks, outside of blocks."""
    return [" ".join(found.split()) for _, found in _SPAN.findall(_FENCE.sub("", text))]


def links(text: str) -> list[str]:
    """The targets of all links that stand in a page itself, not in code."""
    return _LINK.findall(_SPAN.sub("", _FENCE.sub("", text)))


def anchors(text: str) -> set[str]:
    """What a link may name in a page: its headings, as GitHub makes anchors of them, and what has an id."""
    prose = _FENCE.sub("", text)
    found, seen = set(re.findall(r'<a id="([^"]+)">', prose)), Counter[str]()
    for heading in _HEADING.findall(prose):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        slug = re.sub(r"[^\w -]", "", plain.lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found
