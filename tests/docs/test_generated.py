"""Pages that are generated are current, and what they are made of is complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from . import api_page, generate


@pytest.mark.parametrize("path", generate.PAGES, ids=lambda path: path.name)
def test_the_page_is_what_the_code_says(path: Path) -> None:
    assert path.read_text() == generate.PAGES[path](), "run: python -m tests.docs.generate"


def test_the_reference_of_the_api_has_every_field() -> None:
    """Counted in the text of the CRDs, not by what reads them for the page."""
    described = 0
    for name in api_page.KINDS:
        text = (api_page.ROOT / "crds" / f"{name}.yaml").read_text()
        described += len(re.findall(r"^ {10,}description:", text.split("openAPIV3Schema:")[1], re.MULTILINE))
        described -= 2  # of apiVersion and kind
    page = (generate.DOCS / "reference" / "api.md").read_text()
    fields = len(re.findall(r'^\| <a id="[a-z.]+"></a>`', page, re.MULTILINE))
    sections = 2 * len(api_page.KINDS)  # spec and status have a heading, and no line in a table
    assert fields == described - sections
