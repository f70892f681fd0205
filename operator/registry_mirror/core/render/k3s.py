"""K3s and RKE2: registries.yaml for the next start, and for the next pull the certs.d that K3s would render from it.

Both halves say the same, so a change takes effect at once and a later start changes nothing. What registries.yaml
cannot say for a mirror is a problem of that mirror, and it is left out: better no mirror than one that changes its
meaning at the next start.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ...api.models import RuntimeFacts
from .. import versions
from ..bundle import SECRET_MODE, File, MirrorProblem, Rendered, StartSetting
from ..layout import Layout, layout
from ..resolve import Credentials, ResolvedEndpoint, ResolvedMirror
from ..select import precedence
from . import quoting, upstream
from .hosts import HostsFile, TLSFiles
from .k3s_hosts import Config, Mirror, Registries, host_files, normalise
from .tls import TLSStore

# hosts.toml is rendered since these releases; before, mirrors were part of config.toml (K3s releases, January 2024).
_HOSTS_TOML_SINCE = ((1, 26, 13), (1, 27, 10), (1, 28, 6), (1, 29, 1))


@dataclass(slots=True)
class _Draft:
    """A registries.yaml in the making, with the problems found while it is made."""

    tls: TLSStore
    disable_default: bool
    embedded: bool
    mirrors: dict[str, Mirror] = field(default_factory=dict)
    configs: dict[str, Config] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    problems: list[MirrorProblem] = field(default_factory=list)


def render(facts: RuntimeFacts, mirrors: Sequence[ResolvedMirror]) -> Rendered:
    """Give registries.yaml, the drop-in that denies fallback, certs.d and the TLS files, TLS files first."""
    if _too_old(facts):
        text = (
            f"{facts.name} {facts.version} has no hosts.toml, so every change would take a restart; this version of "
            "the operator supports v1.26.13, v1.27.10, v1.28.6, v1.29.1 and later"
        )
        return Rendered((), {}, tuple(MirrorProblem(item.name, "RuntimeTooOld", text) for item in mirrors))
    paths = layout(facts)
    draft, kept, problems = _settle(facts, mirrors, paths)
    if not kept:
        return Rendered((), {}, problems)
    registries = Registries(draft.mirrors, draft.configs)
    hosts = host_files(registries, facts.name, draft.disable_default, facts.embedded_registry)
    if facts.embedded_registry is not None:
        hosts.pop(facts.embedded_registry.address, None)  # K3s's own: neither ours to write nor to remove
    hosts = {name: _with_dial_timeouts(file, kept) for name, file in hosts.items()}
    files = [
        *draft.tls.files(),
        *(file.file(paths.certs, name) for name, file in sorted(hosts.items())),
        *_drop_in(paths, draft.disable_default and not facts.disable_default_endpoint),
        _registries_file(facts.registries_file, registries),
    ]
    return Rendered(tuple(files), _start_settings(facts, registries, kept), problems)


def _too_old(facts: RuntimeFacts) -> bool:
    version = versions.parse(facts.version)
    if version is None:
        return False
    since = next((item for item in _HOSTS_TOML_SINCE if item[:2] == version[:2]), _HOSTS_TOML_SINCE[0])
    return version < since


def _settle(
    facts: RuntimeFacts, mirrors: Sequence[ResolvedMirror], paths: Layout
) -> tuple[_Draft, tuple[ResolvedMirror, ...], tuple[MirrorProblem, ...]]:
    """Leave out mirrors that cannot be said until the rest can; what is left out may be what made another impossible,
    so problems are looked for again, at most once a mirror.
    """
    kept = tuple(sorted(mirrors, key=precedence))
    problems: list[MirrorProblem] = []
    while True:
        draft = _draft(facts, kept, paths)
        problems += draft.problems
        if not draft.problems:
            return draft, kept, tuple(problems)
        left_out = {problem.mirror for problem in draft.problems}
        kept = tuple(item for item in kept if item.name not in left_out)


def _draft(facts: RuntimeFacts, mirrors: Sequence[ResolvedMirror], paths: Layout) -> _Draft:
    denied = [item for item in mirrors if item.deny_fallback]
    draft = _Draft(
        tls=TLSStore(paths.tls),
        disable_default=facts.disable_default_endpoint or bool(denied),
        embedded=facts.embedded_registry is not None,
    )
    for mirror in mirrors:
        _add_configs(draft, mirror)
    for mirror in mirrors:
        draft.problems += _inexpressible(draft, mirror, denied)
        endpoints = tuple(endpoint.url for endpoint in mirror.endpoints)
        if draft.disable_default and not mirror.deny_fallback and mirror.registry not in (*draft.configs, "*"):
            endpoints = (*endpoints, upstream.default_url(mirror.registry).removesuffix("/v2"))
        draft.mirrors[mirror.registry] = Mirror(endpoints, {item.pattern: item.replacement for item in mirror.rewrites})
    # One problem a mirror is enough to act on; the next shows once it is solved.
    draft.problems = list({problem.mirror: problem for problem in reversed(draft.problems)}.values())
    draft.mirrors = dict(sorted(draft.mirrors.items()))
    draft.configs = dict(sorted(draft.configs.items()))
    return draft


def _add_configs(draft: _Draft, mirror: ResolvedMirror) -> None:
    parts = [(normalise(item.url, "")[0], item.tls, item.credentials) for item in mirror.endpoints]
    parts.append((mirror.registry, mirror.upstream_tls, mirror.upstream_credentials))
    for host, tls, credentials in parts:
        if tls is None and credentials is None:
            continue
        wanted = Config(auth=_auth(credentials), tls=draft.tls.paths(tls))
        present = draft.configs.get(host, Config())
        if _differ(present.tls, wanted.tls) or _differ(present.auth, wanted.auth):
            owner = draft.owners[host]
            other = f"RegistryMirror {owner}" if owner != mirror.name else "another endpoint of this object"
            text = (
                f"registries.yaml has one TLS and credentials entry for {host}, and {other} wants different ones: use "
                "the same Secret and CA in both, or give the endpoints different host names"
            )
            draft.problems.append(MirrorProblem(mirror.name, "EndpointConfigConflict", text))
            continue
        draft.configs[host] = Config(auth=present.auth or wanted.auth, tls=present.tls or wanted.tls)
        draft.owners.setdefault(host, mirror.name)


def _differ(present: object, wanted: object) -> bool:
    return present is not None and wanted is not None and present != wanted


def _auth(credentials: Credentials | None) -> dict[str, str] | None:
    if credentials is None:
        return None
    if credentials.identity_token:
        return {"identity_token": credentials.identity_token}
    return {"username": credentials.username, "password": credentials.password}


def _inexpressible(draft: _Draft, mirror: ResolvedMirror, denied: Sequence[ResolvedMirror]) -> Iterator[MirrorProblem]:
    """Say what of a mirror registries.yaml has no words for."""
    if mirror.deny_fallback and mirror.registry in draft.configs:
        yield MirrorProblem(
            mirror.name,
            "FallbackNotDeniable",
            f"K3s and RKE2 keep asking {mirror.registry} itself, because TLS or credentials are set for that host: "
            "remove them, or set upstream.fallback: Allow",
        )
    if mirror.deny_fallback and not mirror.endpoints and not draft.embedded:
        yield MirrorProblem(
            mirror.name,
            "DenyNeedsEndpoint",
            "upstream.fallback: Deny has no effect without an endpoint: add one, or enable the embedded registry",
        )
    if draft.disable_default and not mirror.deny_fallback:
        by = (
            f"RegistryMirror {denied[0].name}"
            if denied
            else "disable-default-registry-endpoint in the node's config.yaml"
        )
        if mirror.registry == "*":
            yield MirrorProblem(
                mirror.name,
                "FallbackNotAllowable",
                f'fallback is denied on this node by {by}, which on K3s and RKE2 holds for "*" as well: set '
                "upstream.fallback: Deny here too, or allow it there",
            )
        elif mirror.rewrites and mirror.registry not in draft.configs:
            yield MirrorProblem(
                mirror.name,
                "RewriteAppliesToUpstream",
                f"fallback is denied on this node by {by}; {mirror.registry} itself would have to be listed as an "
                "endpoint, and K3s and RKE2 would rewrite names for it too: set upstream.fallback: Deny here as well",
            )
    for endpoint in mirror.endpoints:
        if set(endpoint.capabilities) != {"Pull", "Resolve"}:
            yield MirrorProblem(
                mirror.name,
                "CapabilitiesUnsupported",
                f"{endpoint.url}: K3s and RKE2 always both pull from and resolve through an endpoint: set capabilities "
                "to [Pull, Resolve]",
            )


def _with_dial_timeouts(file: HostsFile, mirrors: Sequence[ResolvedMirror]) -> HostsFile:
    """Add what registries.yaml has no word for and what does no harm when a start of K3s drops it for a moment."""
    wanted = {normalise(item.url, "")[1]: item.dial_timeout for item in _endpoints(mirrors) if item.dial_timeout}
    hosts = tuple(replace(host, dial_timeout=wanted.get(str(host.url))) for host in file.hosts)
    return replace(file, hosts=hosts)


def _endpoints(mirrors: Sequence[ResolvedMirror]) -> Iterator[ResolvedEndpoint]:
    for mirror in mirrors:
        yield from mirror.endpoints


def _drop_in(paths: Layout, wanted: bool) -> Iterator[File]:
    if wanted:
        content = quoting.yaml_file("k3s-config.yaml.j2", {"disable-default-registry-endpoint": True})
        yield File(path=paths.files[1], content=content)


def _registries_file(path: str, registries: Registries) -> File:
    document = _document(registries)
    content = quoting.yaml_file(
        "registries.yaml.j2",
        document,
        registries={"mirrors": registries.mirrors, "configs": document.get("configs", {})},
    )
    return File(path=path, content=content, mode=SECRET_MODE)


def _document(registries: Registries) -> dict[str, Any]:
    """What registries.yaml must read back as (wharfie pkg/registries)."""
    mirrors: dict[str, Any] = {}
    for name, mirror in registries.mirrors.items():
        mirrors[name] = {}
        if mirror.endpoints:
            mirrors[name]["endpoint"] = list(mirror.endpoints)
        if mirror.rewrites:
            mirrors[name]["rewrite"] = dict(mirror.rewrites)
    configs = {}
    for host, config in registries.configs.items():
        configs[host] = {} if config.auth is None else {"auth": dict(config.auth)}
        if config.tls is not None:
            configs[host]["tls"] = _tls_settings(config.tls)
    return {"mirrors": mirrors, "configs": configs} if configs else {"mirrors": mirrors}


def _tls_settings(tls: TLSFiles) -> dict[str, Any]:
    settings: dict[str, Any] = {"ca_file": tls.ca, "cert_file": tls.certificate, "key_file": tls.key}
    settings = {key: value for key, value in settings.items() if value}
    if tls.insecure_skip_verify:
        settings["insecure_skip_verify"] = True
    return settings


def _start_settings(
    facts: RuntimeFacts, registries: Registries, mirrors: Sequence[ResolvedMirror]
) -> dict[str, StartSetting]:
    """Name what the next start of the runtime has to bring into force (runtimes.md, K3s table).

    A header in certs.d carries user name and password to a registry with Basic authentication on every version, and to
    one that issues tokens only on containerd 2.1 and later; which kind a registry is cannot be known here. An identity
    token is read from config.toml alone.
    """
    settings = {}
    tokens_by_header = versions.parse(facts.containerd_version) is not None and not versions.known_below(
        facts.containerd_version, 2, 1
    )
    for host, config in registries.configs.items():
        if config.auth is not None and not (tokens_by_header and config.authorization()):
            users = frozenset(item.name for item in mirrors if host in _hosts_of(item))
            settings[f"credentials for {host}"] = StartSetting(repr(sorted(config.auth.items())), users)
    if facts.embedded_registry is not None:
        for mirror in mirrors:
            name = f"sharing of {mirror.registry} through the embedded registry"
            settings[name] = StartSetting("", frozenset({mirror.name}))
    return settings


def _hosts_of(mirror: ResolvedMirror) -> set[str]:
    return {mirror.registry, *(normalise(endpoint.url, "")[0] for endpoint in mirror.endpoints)}
