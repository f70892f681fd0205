"""Whether K3s would do with the imported objects what it does with the file: what would differ becomes a note.

The import is judged by what counts in the end, the directories of certs.d, rather than by the rules that it followed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace as replaced

from ...api.models import EmbeddedRegistry, RuntimeFacts, RuntimeName
from ..layout import default_facts, layout
from ..render.hosts import HostsFile
from ..render.k3s import render
from ..render.k3s_draft import settle
from ..render.k3s_hosts import Config, Registries, host_files
from ..render.tls import TLSStore
from ..resolve import ResolvedMirror, ResolvedTLS
from .draft import TLS, Drafts, Options


def facts_of(options: Options) -> RuntimeFacts:
    """The facts of a K3s node as the command line describes it."""
    name: RuntimeName = "rke2" if options.runtime == "rke2" else "k3s"
    embedded = EmbeddedRegistry(address=options.embedded) if options.embedded else None
    return replaced(default_facts(name), disable_default_endpoint=options.disable_default, embedded_registry=embedded)


def differences(mirrors: Sequence[ResolvedMirror], drafts: Drafts, options: Options) -> list[str]:
    """Give a note for each object that K3s cannot have, and for each directory that would say something else."""
    facts = facts_of(options)
    problems = [
        f"RegistryMirror {item.mirror}: {item.message} ({item.reason})" for item in render(facts, mirrors).problems
    ]
    paths = layout(facts)
    draft, _, _ = settle(facts, mirrors, paths)
    after = _files(Registries(draft.mirrors, draft.configs), facts, draft.disable_default)
    before = _files(_with_tls(drafts, TLSStore(paths.tls)), facts, facts.disable_default_endpoint)
    changed = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    return problems + [
        f"certs.d/{name}: K3s will render it differently from the objects than from this file; compare the two with "
        "registry-mirror render"
        for name in changed
    ]


def _files(registries: Registries, facts: RuntimeFacts, disable_default: bool) -> dict[str, Any]:
    files = host_files(registries, facts.name, disable_default, facts.embedded_registry)
    if facts.embedded_registry is not None:
        files.pop(facts.embedded_registry.address, None)
    return {name: comparable(file) for name, file in files.items()}


def comparable(file: HostsFile) -> Any:
    """What a hosts.toml says without the headers, hosts in order."""
    document = file.expected()
    for table in (document, *document["host"].values()):
        table.pop("header", None)
    return [*document.pop("host").items()], document


def _with_tls(drafts: Drafts, store: TLSStore) -> Registries:
    """The original with the names that our own TLS files have."""
    assert drafts.original is not None  # the caller chose drafts of a registries.yaml
    configs = {
        host: Config(config.auth, store.paths(_resolved(drafts.tls_of.get(host))))
        for host, config in drafts.original.configs.items()
    }
    return Registries(drafts.original.mirrors, configs)


def _resolved(tls: TLS | None) -> ResolvedTLS | None:
    if tls is None:
        return None
    certificate, key = tls.client.texts if tls.client is not None and tls.client.texts else ("", "")
    ca = tls.ca.texts[0] if tls.ca is not None and tls.ca.texts else ""
    return ResolvedTLS(ca=ca, certificate=certificate, key=key, insecure_skip_verify=tls.skip_verify)
