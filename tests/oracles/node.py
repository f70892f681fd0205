"""Puts on a disk what a node of some runtime gets for some objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from registry_mirror.agent.host import Host, write_all
from registry_mirror.api import parse
from registry_mirror.api.models import RuntimeFacts
from registry_mirror.core.layout import layout
from registry_mirror.core.render import render
from registry_mirror.core.resolve import resolve

from .model import Document
from .sources import sources

SOURCES = sources()


@dataclass(frozen=True)
class Node:
    """The files of a node below ``root``; ``documents`` are those in force, ``problems`` the reasons of the others."""

    root: Path
    facts: RuntimeFacts
    documents: tuple[Document, ...]
    problems: dict[str, str]

    @property
    def certs(self) -> Path:
        return self.below(self.facts.config_path)

    @property
    def registries(self) -> Path:
        return self.below(self.facts.registries_file)

    def below(self, path: str) -> Path:
        return self.root / path.lstrip("/")


def write(root: Path, facts: RuntimeFacts, documents: Sequence[Document]) -> Node:
    """Parse, resolve and render the documents, and write the result as the agent does."""
    rendered = render(facts, [resolve(parse.registry_mirror(item), SOURCES) for item in documents])
    problems = {item.mirror: item.reason for item in rendered.problems}
    root.mkdir(parents=True, exist_ok=True)
    write_all(Host(root), rendered.files)
    node = Node(root, facts, tuple(item for item in documents if item["metadata"]["name"] not in problems), problems)
    if node.certs.is_dir():
        # The only change: what names the host's TLS files by absolute path names them below the root.
        directory = layout(facts).tls
        for file in node.certs.glob("*/hosts.toml"):
            text = file.read_text()
            file.write_text(text.replace(f'"{directory}/', f'"{root}{directory}/'))
    else:
        node.certs.mkdir(parents=True)
    return node
