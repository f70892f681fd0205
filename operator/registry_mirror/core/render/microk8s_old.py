"""MicroK8s up to 1.22: mirrors in the containerd-template.toml of the snap, from which it renders containerd's own
configuration at every start; every change waits for that.

What the settings mean is told in ``k3s_old``, whose mirrors end up in the same place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import urlsplit

from msgspec.structs import replace

from ...api.models import RuntimeFacts
from .. import upstream, versions
from ..bundle import File, MirrorProblem, Rendered, StartSetting
from ..edits import Edit, HostConfig
from ..layout import MICROK8S_TEMPLATE, layout
from ..resolve import Credentials, ResolvedMirror, ResolvedTLS
from ..select import precedence
from .containerd import unsupported_rewrites, url_of
from .host_configs import HostConfigs, Wanted, auth
from .hosts import TLSFiles
from .k3s_old import entries
from .tls import TLSStore


def render(facts: RuntimeFacts, mirrors: Sequence[ResolvedMirror]) -> Rendered:
    """Give TLS files and the edit of the template that names them; all of it waits for the next start."""
    paths = layout(facts)
    configs = HostConfigs(MICROK8S_TEMPLATE)
    kept: list[ResolvedMirror] = []
    problems: list[MirrorProblem] = []
    files: dict[str, File] = {}
    for mirror in sorted(mirrors, key=precedence):
        store = TLSStore(paths.tls)
        problem = next(_unsupported(facts, mirror), None) or configs.take(mirror.name, _wanted(mirror, store))
        if problem is None:
            kept.append(_without_rewrites(mirror))
            files |= {file.path: file for file in store.files()}
        else:
            problems.append(problem)
    tables = {registry: item.endpoints for registry, item in entries(kept).items()}
    if "*" not in tables:
        # Else an object that says nothing still keeps its registry from "*".
        tables = {registry: endpoints for registry, endpoints in tables.items() if endpoints}
    settings = _endpoints(tables, kept) | configs.start_settings()
    if not settings:
        return Rendered((), {}, tuple(problems))
    edit = Edit(
        path=paths.edits[0],
        config_schema=facts.config_schema,
        mirrors=tables,
        configs=dict(sorted(configs.entries.items())),
    )
    return Rendered(tuple(files[path] for path in sorted(files)), settings, tuple(problems), (edit,))


def _without_rewrites(mirror: ResolvedMirror) -> ResolvedMirror:
    """Put the path before every name into the endpoints: that is the only rewrite that came so far."""
    endpoints = tuple(replace(item, url=url_of(item, mirror.rewrites)) for item in mirror.endpoints)
    return replace(mirror, endpoints=endpoints, rewrites=())


def _endpoints(tables: Mapping[str, tuple[str, ...]], mirrors: Sequence[ResolvedMirror]) -> dict[str, StartSetting]:
    names = {mirror.registry: frozenset({mirror.name}) for mirror in mirrors}
    return {
        f"endpoints of {registry}": StartSetting(repr(endpoints), names.get(registry) or names["*"])
        for registry, endpoints in tables.items()
    }


def _wanted(mirror: ResolvedMirror, store: TLSStore) -> Iterator[Wanted]:
    for item in mirror.endpoints:
        parts = urlsplit(item.url)
        host = upstream.default_host(parts.netloc)  # as ``entries`` has it in the URL
        skips = item.tls is not None and item.tls.insecure_skip_verify
        yield Wanted(host, (parts.scheme == "http", skips), _config(item.tls, item.credentials, store))
    if mirror.registry != "*":
        config = _config(mirror.upstream_tls, mirror.upstream_credentials, store)
        yield Wanted(upstream.default_host(mirror.registry), None, config)


def _config(tls: ResolvedTLS | None, credentials: Credentials | None, store: TLSStore) -> HostConfig:
    files = store.paths(tls) or TLSFiles()
    settings: dict[str, str | bool] = {"ca_file": files.ca, "cert_file": files.certificate, "key_file": files.key}
    settings["insecure_skip_verify"] = files.insecure_skip_verify
    return HostConfig(tls={key: value for key, value in settings.items() if value}, auth=auth(credentials))


def _unsupported(facts: RuntimeFacts, mirror: ResolvedMirror) -> Iterator[MirrorProblem]:
    """Say what of a mirror the template has no words for; nothing is dropped silently."""
    if mirror.deny_fallback:
        yield MirrorProblem(
            mirror.name,
            "FallbackNotDeniable",
            "MicroK8s before 1.23 always asks the registry itself last: set upstream.fallback: Allow, or upgrade",
        )
    yield from unsupported_rewrites(mirror)
    for endpoint in mirror.endpoints:
        if set(endpoint.capabilities) != {"Pull", "Resolve"}:
            yield MirrorProblem(
                mirror.name,
                "CapabilitiesUnsupported",
                f"{endpoint.url}: MicroK8s before 1.23 always both pulls from and resolves through an endpoint: set "
                "capabilities to [Pull, Resolve]",
            )
    if mirror.registry == "*" and mirror.upstream_tls is not None:
        yield MirrorProblem(
            mirror.name,
            "WildcardUnsupported",
            "MicroK8s before 1.23 has TLS settings for named registries only: write an object for each registry that "
            "needs some",
        )
    if versions.parse(facts.containerd_version) and not versions.known_below(facts.containerd_version, 2, 0):
        yield from _no_tls(facts, mirror)
    yield from _brackets(mirror)
    credentials = [item.credentials for item in mirror.endpoints] + [mirror.upstream_credentials]
    # Fixed in containerd 1.4.6 (image_pull.go, "Make a copy of auth"); MicroK8s 1.21 brings 1.4.4, 1.22 1.5.13.
    if versions.known_below(facts.version, 1, 22) and any(item is not None for item in credentials):
        yield MirrorProblem(
            mirror.name,
            "CredentialsUnsupported",
            f"the containerd of MicroK8s {facts.version} would send the credentials of one endpoint to all others and "
            "to the registry itself: use imagePullSecrets, or upgrade to 1.22 or later",
        )


def _no_tls(facts: RuntimeFacts, mirror: ResolvedMirror) -> Iterator[MirrorProblem]:
    """Since containerd 2.0 there are no TLS settings in registry.configs (internal/cri/config/config.go)."""
    if any(item is not None for item in (mirror.upstream_tls, *(endpoint.tls for endpoint in mirror.endpoints))):
        yield MirrorProblem(
            mirror.name,
            "ConfigPathNotSet",
            f"containerd {facts.containerd_version} reads TLS settings from hosts.toml alone: set config_path = "
            f'"${{SNAP_DATA}}/args/certs.d" in {MICROK8S_TEMPLATE}, as MicroK8s has it, and restart it',
        )


def _brackets(mirror: ResolvedMirror) -> Iterator[MirrorProblem]:
    """What needs a table with a bracket in its name (go-toml 1.9 lexer.go, lexInsideTableKey, which 1.x reads with)."""
    # An endpoint of "*" is a registry as well, and gets a table of its own (k3s_old.entries).
    every = mirror.registry == "*"
    named = [item.url for item in mirror.endpoints if every or item.tls is not None or item.credentials is not None]
    if "[" in mirror.registry or any("[" in url for url in named):
        yield MirrorProblem(
            mirror.name,
            "IPv6Unsupported",
            f'{MICROK8S_TEMPLATE} takes no IPv6 address as a registry, nor for an endpoint of "*" or one with TLS '
            "settings or credentials: use a host name",
        )
