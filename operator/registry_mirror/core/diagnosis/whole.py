"""All rules together: a node as it was found, its endpoints asked, and everything that is wrong in one list."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from ..finding import Examined, Finding, ordered
from ..probing import Target
from . import certs, containerd, crio, endpoints, registries, runtime, tls
from .evidence import SHOWN_NAMES, Asked, Node
from .tls import Named


class Examiner(Protocol):
    """What looks at a node; nothing that it does changes anything."""

    def look(self) -> Node:
        """Give what is on the node, but for the files that TLS settings name."""

    def tls_files(self, node: Node, paths: Iterable[str], pairs: Iterable[tuple[str, str]]) -> Node:
        """Give the node with those files, and with the pairs of certificate and key that do not belong together."""

    def ask(self, node: Node, targets: Iterable[Target]) -> Mapping[str, Asked]:
        """Ask endpoints as the runtime would, by their URLs."""


_TLS_FILES = (
    *("CertificateFileMissing", "CertificateFileInvalid", "CertificateFileExpired", "CertificateFileNotYetValid"),
    "ClientKeyMismatch",
)


def examined(examiner: Examiner) -> Examined:
    """Examine the node. Raises ProblemError if that cannot be begun."""
    node = examiner.look()
    read = certs.read(node)
    found = registries.read(node)
    named = tuple(endpoints.named(read, found))
    pairs = tuple(dict.fromkeys(pair for item in named for pair in item.clients))
    paths = dict.fromkeys(
        path for item in named for path in (*item.cas, *(part for pair in item.clients for part in pair))
    )
    node = examiner.tls_files(node, paths, pairs)
    findings = [*read.findings, *found.findings, *_files(node, found, named)]
    wrong = {item.subject for item in findings if item.reason in _TLS_FILES}
    wrong |= {path for path, file in node.tls.items() if file.unseen}
    wanted = endpoints.endpoints(node, read, found)
    asking = tuple(item for item in wanted if not endpoints.broken(item, wrong, named))
    answers = examiner.ask(node, [item.target for item in asking])
    findings += endpoints.check(asking, answers)
    findings += runtime.problem(node, tuple(findings))
    unknown = [
        f"{url}: the runtime goes through {item.proxy}, which cannot be tested from here"
        for url, item in answers.items()
        if not item.known
    ]
    return Examined(
        nodes=(node.host,) if node.host else (),
        runtimes=(_runtime(node),) if node.name is not None else (),
        files=_read(node),
        endpoints=tuple(url for url, item in answers.items() if item.known),
        notes=(*node.notes, *unknown, *_unseen(node)),
        findings=ordered(findings),
    )


def _files(node: Node, found: registries.Registries, named: tuple[Named, ...]) -> Iterable[Finding]:
    """Apply the rules that take no endpoint."""
    listed = {*found.names, *(item.registry for item in found.endpoints)}
    templates = tuple(registries.templates(node))
    yield from templates
    count = sum(folder.hosts is not None for item in node.certs for folder in item.folders)
    # What a template has left out, the file that is rendered from it has not.
    cause = any(item.reason == "TemplateWithoutConfigPath" for item in templates)
    for item in containerd.check(node, names_of_hosts=count):
        if not (cause and item.reason == "ConfigPathMissing"):
            yield item
    files = [file for file in (node.config, *node.drop_ins) if file is not None]
    # Before K3s rendered hosts.toml, its containerd read no directory at all.
    reads = bool(containerd.settings(files, node.containerd_version).paths)
    pending = tuple(registries.not_rendered(node, found)) if reads else ()
    yield from pending
    if not any(item.reason in ("RegistriesInvalid", "RegistriesKeyTwice") for item in found.findings):
        yield from certs.lost_at_start(node, listed)
    yield from certs.stale(node)
    yield from crio.check(node)
    yield from tls.check(node, named)
    yield from runtime.check(node)
    yield from runtime.unsafe(node)
    yield from runtime.record(node)
    if not pending:
        yield from runtime.restart(node)


def _runtime(node: Node) -> str:
    """Give the runtime as a person calls it, with what is known of its version."""
    name = SHOWN_NAMES.get(node.name or "", node.name or "")
    version = node.runs.version.removeprefix("v")
    if node.name in ("containerd", "crio"):
        return f"{name} {version}".strip()
    return f"{name} (containerd {version})" if version else name


def _read(node: Node) -> tuple[str, ...]:
    files = [node.config, *node.drop_ins, *node.beside, *node.others.values(), *node.tls.values()]
    files += [folder.hosts for item in node.certs for folder in item.folders]
    return tuple(sorted({file.path for file in files if file is not None and file.text is not None}))


def _unseen(node: Node) -> tuple[str, ...]:
    """Say which files cannot be looked at from here."""
    registries = node.others.get(node.facts.registries_file) if node.facts is not None else None
    files = [node.config, registries, *node.tls.values()]
    paths = sorted({file.path for file in files if file is not None and file.unseen})
    return tuple(f"{path} is not mounted here, and was not looked at" for path in paths)
