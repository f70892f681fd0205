"""K3s and RKE2 before hosts.toml: registries.yaml alone, which a start turns into mirrors and configs of config.toml.

What is here is what those releases do (K3s v1.22 to v1.28.5 pkg/agent/templates, ContainerdConfigTemplate; containerd
1.5 to 1.7 pkg/cri/server/image_pull.go, registryHosts and registryEndpoints; its fork with rewrites, containerd #5171):

- An endpoint without a path is asked under /v2, any other path is taken as it stands.
- The registry itself is always asked last, unless an endpoint has its very host: then it is asked only where listed.
- Rewrites hold for the registry itself too (k3s #7007).
- TLS settings and credentials go by the host of the URL that is asked; Docker Hub's is registry-1.docker.io, and there
  are none for "*".
- An entry for a registry, be it empty, keeps it from "*".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import urlsplit

from msgspec.structs import replace

from ...api.models import Rewrite, RuntimeFacts
from .. import upstream, versions
from ..bundle import MirrorProblem, StartSetting
from ..resolve import ResolvedEndpoint, ResolvedMirror
from .containerd import added_prefix
from .k3s_hosts import Mirror, Registries, normalise

_NEWER = "v1.26.13, v1.27.10, v1.28.6, v1.29.1 and later can"


def entries(mirrors: Sequence[ResolvedMirror]) -> dict[str, Mirror]:
    """Give the ``mirrors`` of registries.yaml, by name; takes objects with which nothing is wrong."""
    return {
        mirror.registry: Mirror(
            tuple(dict.fromkeys(item.url for item in mirror.endpoints)),
            {item.pattern: item.replacement for item in mirror.rewrites},
        )
        for mirror in sorted(adapted(mirrors), key=lambda item: item.registry)
    }


def adapted(mirrors: Sequence[ResolvedMirror]) -> list[ResolvedMirror]:
    """Say the mirrors in the words of config.toml, so that each means what it means elsewhere.

    Takes objects with which nothing is wrong. A path before every name becomes part of the endpoints, because a rewrite
    would hold for the registry itself too; and the registry itself is listed where containerd would not add it. One
    more mirror stands for each host of an endpoint of "*": that host is a registry as well, and falls under "*".
    """
    found = [_adapted(mirror) for mirror in mirrors]
    known = {mirror.registry for mirror in found}
    for default in [mirror for mirror in found if mirror.registry == "*"]:
        for host in dict.fromkeys(urlsplit(item.url).netloc for item in default.endpoints):
            itself = _with_itself(replace(default, registry=host, upstream_tls=None, upstream_credentials=None))
            if host not in known and itself.endpoints != default.endpoints:
                found.append(itself)
    return found


def _adapted(mirror: ResolvedMirror) -> ResolvedMirror:
    endpoints = tuple(replace(item, url=_url(item.url)) for item in mirror.endpoints)
    if mirror.rewrites and _ends_with_itself(mirror):
        return replace(mirror, endpoints=endpoints)
    if mirror.rewrites:
        prefix = str(added_prefix(mirror.rewrites[0])).rstrip("/")
        endpoints = tuple(replace(item, url=_below(item.url, prefix)) for item in endpoints)
    return _with_itself(replace(mirror, endpoints=endpoints, rewrites=()))


def _url(url: str) -> str:
    _, normal, verbatim = normalise(url, "")
    return normal if verbatim else normal.removesuffix("/v2")


def _below(url: str, prefix: str) -> str:
    base = url if urlsplit(url).path else f"{url}/v2"
    return f"{base.rstrip('/')}/{prefix}"


def _itself(registry: str) -> str:
    """What containerd adds (defaultScheme, docker.DefaultHost)."""
    return f"{'http' if upstream.is_local(registry) else 'https'}://{upstream.default_host(registry)}"


def _ends_with_itself(mirror: ResolvedMirror) -> bool:
    return bool(mirror.endpoints) and _url(mirror.endpoints[-1].url) == _itself(mirror.registry)


def _with_itself(mirror: ResolvedMirror) -> ResolvedMirror:
    own = _itself(mirror.registry)
    beside = next((item for item in mirror.endpoints if urlsplit(item.url).netloc == mirror.registry), None)
    if beside is None or any(item.url == own for item in mirror.endpoints):
        return mirror
    last = ResolvedEndpoint(
        url=own,
        tls=mirror.upstream_tls or beside.tls,
        credentials=mirror.upstream_credentials or beside.credentials,
    )
    return replace(mirror, endpoints=(*mirror.endpoints, last))


def problems(facts: RuntimeFacts, mirror: ResolvedMirror) -> Iterator[MirrorProblem]:
    """Say what of a mirror these releases cannot do, whatever other mirrors there are."""
    node = f"{facts.name} {facts.version}"
    if versions.known_below(facts.version, 1, 22):
        text = f"{node} is too old: this version of the operator supports v1.22 and later"
        yield MirrorProblem(mirror.name, "RuntimeTooOld", text)
    if mirror.deny_fallback:
        text = (
            f"{node} always asks the registry itself last ({_NEWER} do without): upgrade it, exclude the node with "
            "nodeSelector, or set upstream.fallback: Allow"
        )
        yield MirrorProblem(mirror.name, "FallbackNotDeniable", text)
    if mirror.rewrites and not _ends_with_itself(mirror) and not _is_prefix(mirror.rewrites):
        text = (
            f"{node} would rewrite names for the registry itself too, and ask it for other images ({_NEWER} tell them "
            "apart): upgrade it, exclude the node with nodeSelector, or put a fixed path before every name (pattern "
            "^(.*)$, replacement path/$1)"
        )
        yield MirrorProblem(mirror.name, "RewriteAppliesToUpstream", text)
    if any(char in item.pattern + item.replacement for item in mirror.rewrites for char in '\\"'):
        text = (
            f"{node} copies rewrites into config.toml as they stand, and containerd would not start with a backslash "
            "or a quotation mark in one: write [.] instead of \\., or upgrade"
        )
        yield MirrorProblem(mirror.name, "RewriteUnsupported", text)
    yield from _wildcard_problems(facts, mirror)
    yield from _brackets(facts, mirror)


def _is_prefix(rewrites: Sequence[Rewrite]) -> bool:
    return len(rewrites) == 1 and added_prefix(rewrites[0]) is not None


def _wildcard_problems(facts: RuntimeFacts, mirror: ResolvedMirror) -> Iterator[MirrorProblem]:
    if mirror.registry != "*":
        return
    if versions.known_below(facts.containerd_version, 1, 5):
        # containerd 1.4 has a mirror for docker.io by default, and takes it before "*" (k3s #2088).
        text = f'containerd {facts.containerd_version} does not use "*" for Docker Hub: name the registries'
        yield MirrorProblem(mirror.name, "WildcardUnsupported", text)
    if mirror.upstream_tls is not None:
        text = (
            f'{facts.name} {facts.version} has no TLS settings for every registry ("*" has them in v1.26.15, v1.27.12, '
            "v1.28.8, v1.29.3 and later): name the registries, or remove upstream.tls"
        )
        yield MirrorProblem(mirror.name, "WildcardUnsupported", text)


def _brackets(facts: RuntimeFacts, mirror: ResolvedMirror) -> Iterator[MirrorProblem]:
    """What takes a table with a bracket in its name (pelletier/go-toml 1.9, which containerd 1.x reads with, lexer.go:
    lexInsideTableKey ends at the first one, quoted or not).
    """
    every = mirror.registry == "*"
    named = [item.url for item in mirror.endpoints if every or item.tls is not None or item.credentials is not None]
    if "[" in mirror.registry or any("[" in url for url in named):
        text = (
            f"containerd would not start on {facts.name} {facts.version} with an IPv6 address as a registry, or for an "
            'endpoint of "*" or one with TLS settings or credentials: use a host name, or upgrade'
        )
        yield MirrorProblem(mirror.name, "IPv6Unsupported", text)


def start_settings(
    registries: Registries, mirrors: Sequence[ResolvedMirror], users: Mapping[str, frozenset[str]]
) -> dict[str, StartSetting]:
    """Name what the next start brings into force: all that registries.yaml says, a setting a registry or host.

    ``users`` are the names of the objects that speak to each host of ``configs``.
    """
    settings = {}
    names = {mirror.registry: frozenset({mirror.name}) for mirror in mirrors}
    default = names.get("*", frozenset())
    for registry, mirror in registries.mirrors.items():
        if mirror.endpoints or "*" in registries.mirrors:
            value = repr((mirror.endpoints, sorted(mirror.rewrites.items())))
            settings[f"endpoints of {registry}"] = StartSetting(value, names.get(registry, default))
    for host, config in registries.configs.items():
        if config.auth is not None:
            settings[f"credentials for {host}"] = StartSetting(repr(sorted(config.auth.items())), users[host])
        if config.tls is not None:
            settings[f"TLS settings for {host}"] = StartSetting(repr(config.tls), users[host])
    return settings
