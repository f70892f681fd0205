"""Every relative link of every Markdown file leads to a file, and to an anchor in it."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from .markdown import ROOT, anchors, links, pages, spans

PAGES = pages()
# tests/…/test_x.py, or with ::test_y
REASON = re.compile(r"(?:[A-Z][a-z]+){2,}")
TEST = re.compile(r"(tests/[\w/]+\.py)(?:::(\w+))?")


@cache
def anchors_of(page: Path) -> set[str]:
    return anchors(page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    wrong = []
    for link in links(page.read_text()):
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        path = (page.parent / target).resolve() if target else page
        if not path.exists() or (anchor and path.suffix == ".md" and anchor not in anchors_of(path)):
            wrong.append(link)
    assert wrong == []


def test_tests_that_the_documentation_names_exist() -> None:
    wrong = []
    for page in PAGES:
        for span in spans(page.read_text()):
            found = TEST.fullmatch(span)
            if found is None:
                continue
            path, name = ROOT / found[1], found[2]
            if not path.exists() or (name and f"def {name}(" not in path.read_text()):
                wrong.append(f"{page.name}: {span}")
    assert wrong == []


def test_every_page_of_the_documentation_is_in_its_index() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / link.partition("#")[0]).resolve() for link in links(index.read_text())}
    assert {page for page in PAGES if ROOT / "docs" in page.parents} - linked == {index}


def test_reasons_that_troubleshooting_names_are_explained() -> None:
    explained = {span for name in ("conditions", "findings") for span in spans((ROOT / f"docs/{name}.md").read_text())}
    # Of Kubernetes, and what the command line or probe answers.
    others = {"ImagePullBackOff", "FailedMount", "NoCluster", "RegistryMirror"}
    named = {word for word in spans((ROOT / "docs" / "troubleshooting.md").read_text()) if REASON.fullmatch(word)}
    assert named - explained - others == set()
