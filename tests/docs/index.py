"""Part of docs/README.md, the index: the pages of the directories in which there is one page a problem."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "README.md"
DIRECTORIES = ("getting-started", "how-to")
# These come first, in this order; all others follow by title.
_FIRST = ("k3s.md", "rke2.md", "microk8s.md", "kubeadm.md", "air-gap.md")


def page() -> str:
    """The page with its lists as they are to be."""
    text = PAGE.read_text()
    for name in DIRECTORIES:
        text, count = re.subn(
            rf"(<!-- {name} -->\n).*?(?=<!-- /{name} -->)", rf"\1{_list(name)}", text, flags=re.DOTALL
        )
        assert count == 1, f"docs/README.md has the marks of {name}"
    return text


def _list(name: str) -> str:
    pages = [(_title(path), path) for path in (DOCS / name).glob("*.md")]
    order = {path: index for index, path in enumerate(_FIRST)}
    pages.sort(key=lambda item: (order.get(item[1].name, len(order)), item[0].lower()))
    return "".join(f"- [{title}]({name}/{path.name})\n" for title, path in pages)


def _title(path: Path) -> str:
    found = re.search(r"^# (.+)$", path.read_text(), re.MULTILINE)
    return found[1] if found else path.stem
