"""Writes every page, and part of a page, of the documentation that is generated.

python -m tests.docs.generate
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from . import api_page, cli_page, index, runtimes_table

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES: Mapping[Path, Callable[[], str]] = {
    DOCS / "reference" / "api.md": api_page.page,
    DOCS / "reference" / "cli.md": cli_page.page,
    index.PAGE: index.page,
}


def main() -> int:
    """Write them."""
    for path, page in PAGES.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(page())
    return runtimes_table.main()


if __name__ == "__main__":
    sys.exit(main())
