"""CRI-O (and podman): mirrors in registries.conf.d, TLS files in a directory a host.

The facts are those of github.com/containers/image 5.36 (docs/containers-registries.conf.5.md, pkg/sysregistriesv2,
docs/containers-certs.d.5.md, docker/docker_client.go) and of CRI-O's server/server.go.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from ...api.models import RuntimeFacts
from ..bundle import PUBLIC_MODE, SECRET_MODE, File, MirrorProblem, Rendered, StartSetting
from ..layout import HOST_TLS, REGISTRIES_CONF, TLS_DIRECTORY
from ..resolve import ResolvedMirror, ResolvedTLS
from ..select import precedence
from . import quoting
from .containerd import COMMENT
from .crio_problems import unsupported, within
from .crio_source import Source, sources
from .tls import name_of

_START_SETTING = "mirrors of CRI-O"


@dataclass(slots=True)
class _Draft:
    """What the mirrors taken so far need of a host: one TLS setting, and whether it may be asked for itself at all."""

    tls: dict[str, ResolvedTLS] = field(default_factory=dict)
    denied: dict[str, str] = field(default_factory=dict)
    asked: dict[str, str] = field(default_factory=dict)
    kept: list[ResolvedMirror] = field(default_factory=list)


def render(facts: RuntimeFacts, mirrors: Sequence[ResolvedMirror]) -> Rendered:
    """Give TLS files and, last, the drop-in of registries.conf.

    CRI-O reads TLS files at every pull, and the drop-in at its start, at ``systemctl reload crio`` and, since 1.30 with
    auto_reload_registries = true, by itself (server/server.go, startWatcherForMirrorRegistries): only then does nothing
    wait for a start.
    """
    draft, problems = _Draft(), []
    for mirror in sorted(mirrors, key=precedence):
        problem = next(chain(unsupported(facts, mirror), _conflicts(draft, mirror)), None)
        if problem is not None:
            problems.append(problem)
        elif mirror.endpoints or mirror.upstream_tls is not None:
            _take(draft, mirror)
    kept = sorted(draft.kept, key=lambda item: item.registry)
    if not kept:
        return Rendered((), {}, tuple(problems))
    document = {"registry": [_registry(item) for item in kept]}
    content = quoting.toml_file("registries.conf.j2", document, comment=COMMENT, registries=document["registry"])
    settings = {} if facts.reloads_registries else _start_settings(content, kept)
    files = (*_tls_files(draft.tls), File(path=REGISTRIES_CONF, content=content))
    return Rendered(files, settings, tuple(problems))


def _start_settings(content: str, mirrors: Sequence[ResolvedMirror]) -> dict[str, StartSetting]:
    return {_START_SETTING: StartSetting(content, frozenset(item.name for item in mirrors))}


def _registry(mirror: ResolvedMirror) -> dict[str, Any]:
    """One ``[[registry]]`` table, keys in the order in which the template writes them.

    ``blocked`` denies the registry itself and not its mirrors: what is checked is the name that is asked for in the end
    (docker_client.go, newDockerClient: FindRegistry of the physical reference). ``insecure`` allows plain HTTP as well
    as certificates that nobody verified; there is no key for one of the two.
    """
    table: dict[str, Any] = {"prefix": mirror.registry, "location": mirror.registry}
    if mirror.upstream_tls is not None and mirror.upstream_tls.insecure_skip_verify:
        table["insecure"] = True
    if mirror.deny_fallback:
        table["blocked"] = True
    found = list(dict.fromkeys(sources(mirror)))
    if found:
        table["mirror"] = [_mirror(item) for item in found]
    return table


def _mirror(source: Source) -> dict[str, Any]:
    table: dict[str, Any] = {"location": source.location}
    if source.insecure:
        table["insecure"] = True
    # A key of the mirror: mirror-by-digest-only would hold for every mirror of the registry.
    table["pull-from-mirror"] = "all" if source.resolves else "digest-only"
    return table


def _take(draft: _Draft, mirror: ResolvedMirror) -> None:
    draft.kept.append(mirror)
    for host, tls in _tls(mirror):
        draft.tls.setdefault(host, tls)
    for source in sources(mirror):
        draft.asked.setdefault(source.location, mirror.name)
    if mirror.deny_fallback:
        draft.denied[mirror.registry] = mirror.name


def _tls(mirror: ResolvedMirror) -> Iterator[tuple[str, ResolvedTLS]]:
    """The files that each host of a mirror needs; skipping verification takes no file."""
    pairs = [(item.host, item.tls) for item in sources(mirror)] + [(mirror.registry, mirror.upstream_tls)]
    for host, tls in pairs:
        if tls is not None and (tls.ca or tls.certificate):
            yield host, ResolvedTLS(ca=tls.ca, certificate=tls.certificate, key=tls.key)


def _conflicts(draft: _Draft, mirror: ResolvedMirror) -> Iterator[MirrorProblem]:
    """What the mirrors taken before make impossible: they take precedence."""
    known = dict(draft.tls)
    for host, tls in _tls(mirror):
        if known.setdefault(host, tls) != tls:
            yield MirrorProblem(
                mirror.name,
                "EndpointConfigConflict",
                f"{host} has one directory of TLS files on a node, and two endpoints want different ones: give them "
                "the same",
            )
    asked = {**{item.location: mirror.name for item in sources(mirror)}, **draft.asked}
    denied = {**draft.denied, **({mirror.registry: mirror.name} if mirror.deny_fallback else {})}
    for registry, owner in denied.items():
        for location, asker in asked.items():
            if within(location, registry):
                yield MirrorProblem(
                    mirror.name,
                    "FallbackNotDeniable",
                    f"CRI-O denies a registry to its mirrors as well: {owner} denies {registry}, at which {asker} has "
                    f"the endpoint {location}",
                )


def _tls_files(wanted: dict[str, ResolvedTLS]) -> Iterator[File]:
    """Named by content, so that what others have in the directory of the host stays.

    A certificate without its key fails every pull from the host, and the reverse (pkg/tlsclientconfig): the two appear
    one right after the other, which is as close as files can.
    """
    for host, tls in sorted(wanted.items()):
        start = f"{HOST_TLS}/{host}/{TLS_DIRECTORY}"
        if tls.ca:
            yield File(path=f"{start}-ca-{name_of(tls.ca)}.crt", content=tls.ca, mode=PUBLIC_MODE)
        if tls.certificate:
            name = f"{start}-client-{name_of(tls.certificate + tls.key)}"
            yield File(path=f"{name}.key", content=tls.key, mode=SECRET_MODE)
            yield File(path=f"{name}.cert", content=tls.certificate, mode=PUBLIC_MODE)
