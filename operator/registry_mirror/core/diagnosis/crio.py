"""registries.conf of CRI-O with its drop-ins (containers-registries.conf(5)): what makes it refuse all of them."""

from __future__ import annotations

from collections.abc import Iterator

from ...api.errors import InvalidError
from ..finding import Finding
from ..importing.containers import registries_conf
from ..importing.draft import Endpoint
from .evidence import File, Node
from .text import finding, listed

MAIN = "/etc/containers/registries.conf"
DROP_INS = f"{MAIN}.d"


def files(node: Node) -> Iterator[File]:
    """Give the files, in order."""
    if node.name == "crio":
        yield from (
            file for path, file in sorted(node.others.items()) if path.startswith(MAIN) and file.text is not None
        )


def check(node: Node) -> Iterator[Finding]:
    """Say what is wrong with the files."""
    for file in files(node):
        try:
            found = registries_conf(file.path, file.text or "")
        except InvalidError as error:
            remedy = "correct it: CRI-O reads no registries.conf while one of its files is wrong, and pulls fail"
            yield finding("error", "RegistriesConfInvalid", file.path, _said(error), remedy)
            continue
        unknown = [note.partition(": not read")[0] for note in found.notes if note.endswith(": not read")]
        unknown += [
            note.partition(": not read")[0]
            for item in found.items
            for note in item.notes
            if note.endswith(": not read")
        ]
        if unknown:
            remedy = "CRI-O ignores what it does not know: correct or remove it"
            yield finding("warning", "RegistriesConfKeyUnknown", file.path, listed(unknown), remedy)


def endpoints(node: Node) -> Iterator[tuple[str, Endpoint]]:
    """Give the mirrors of all files, each with the file that names it."""
    for file in files(node):
        try:
            drafts = registries_conf(file.path, file.text or "").items
        except InvalidError:
            continue
        for draft in drafts:
            for item in draft.endpoints:
                yield file.path, item


def _said(error: InvalidError) -> str:
    found = error.errors[0]
    where = f"{found.field}: " if found.field else ""
    return f"{where}{found.found or found.expected}"
