"""Which mirrors one registries.yaml can say together, and for each that it cannot, why not.

registries.yaml has one entry a host for TLS and credentials, and one switch a node for fallback, so mirrors get in each
other's way. Whoever is wrong alone is left out first: it must not take others with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ...api.models import RuntimeFacts
from .. import upstream, versions
from ..bundle import MirrorProblem
from ..layout import Layout
from ..resolve import Credentials, ResolvedMirror
from ..select import precedence
from . import k3s_old
from .k3s_hosts import Config, Mirror, is_local, normalise
from .tls import TLSStore

# Releases since which K3s and RKE2 have it, one a minor release; those before the first and after the last follow.
_HOSTS_TOML_SINCE = ((1, 26, 13), (1, 27, 10), (1, 28, 6), (1, 29, 1))
_WILDCARD_SINCE = ((1, 26, 15), (1, 27, 12), (1, 28, 8), (1, 29, 3))
_WILDCARD_BROKEN = ((1, 31, 6), (1, 32, 2))  # k3s #11857, fixed in the next patch release of each

# How an endpoint is spoken to: plain HTTP or not, certificate verified or not. A host has one way in registries.yaml.
_Transport = tuple[bool, bool]


@dataclass(frozen=True, slots=True)
class _Finding:
    """A problem, and the name of the other mirror without which it would not be one (empty: it is wrong alone)."""

    problem: MirrorProblem
    because_of: str = ""


@dataclass(slots=True)
class Draft:
    """A registries.yaml in the making, with the problems found while it is made."""

    tls: TLSStore
    disable_default: bool
    mirrors: dict[str, Mirror] = field(default_factory=dict)
    configs: dict[str, Config] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    transports: dict[str, dict[_Transport, str]] = field(default_factory=dict)
    findings: list[_Finding] = field(default_factory=list)


def too_old(facts: RuntimeFacts) -> bool:
    """Tell whether this K3s or RKE2 is known to have no hosts.toml."""
    return _before(facts, _HOSTS_TOML_SINCE)


def _before(facts: RuntimeFacts, releases: Sequence[tuple[int, int, int]]) -> bool:
    version = versions.parse(facts.version)
    if version is None:
        return False
    return version < next((item for item in releases if item[:2] == version[:2]), releases[0])


def config_host(facts: RuntimeFacts, registry: str) -> str:
    """The name under which configs has a registry.

    Docker Hub goes by the name of its directory, so that a start of K3s renders no second one. Only a containerd known
    to be older than 2.1, which finds credentials of registries that issue tokens in its config.toml alone, needs the
    name of the host that challenges it; and before hosts.toml everything goes by the host that is asked.
    """
    by_host = too_old(facts) or versions.known_below(facts.containerd_version, 2, 1)
    return upstream.default_host(registry) if by_host else registry


def settle(
    facts: RuntimeFacts, mirrors: Sequence[ResolvedMirror], paths: Layout
) -> tuple[Draft, tuple[ResolvedMirror, ...], tuple[MirrorProblem, ...]]:
    """Give the registries.yaml of the mirrors that it can say together, these mirrors, and what is wrong with the rest.

    What is left out may be what made another impossible, so each pass leaves out only mirrors that would be wrong
    without any other that is wrong; if each is wrong because of another, the one that takes precedence least.
    """
    kept = tuple(sorted(mirrors, key=precedence))
    problems: list[MirrorProblem] = []
    while True:
        draft = _draft(facts, kept, paths)
        if not draft.findings:
            return draft, kept, tuple(problems)
        wrong = {item.problem.mirror for item in draft.findings}
        certain = [item.problem for item in draft.findings if item.because_of not in wrong]
        if not certain:
            last = next(item.name for item in reversed(kept) if item.name in wrong)
            certain = [item.problem for item in draft.findings if item.problem.mirror == last]
        # One problem a mirror is enough to act on; the next shows once it is solved.
        left_out = {problem.mirror: problem for problem in reversed(certain)}
        problems += reversed(left_out.values())
        kept = tuple(item for item in kept if item.name not in left_out)


def _draft(facts: RuntimeFacts, mirrors: Sequence[ResolvedMirror], paths: Layout) -> Draft:
    denied = [item for item in mirrors if item.deny_fallback]
    draft = Draft(tls=TLSStore(paths.tls), disable_default=facts.disable_default_endpoint or bool(denied))
    for mirror in mirrors:
        _add_configs(facts, draft, mirror)
    for mirror in mirrors:
        draft.findings += (_Finding(problem) for problem in _wrong_alone(facts, mirror))
        draft.findings += _wrong_together(draft, mirror, denied)
        if mirror.registry == "*" and not mirror.endpoints and "*" in draft.configs and facts.embedded_registry is None:
            continue  # nothing but TLS settings: its entry in configs says all, as a user of K3s writes it
        endpoints = tuple(endpoint.url for endpoint in mirror.endpoints)
        if draft.disable_default and not mirror.deny_fallback and mirror.registry not in (*draft.configs, "*"):
            endpoints = (*endpoints, upstream.default_url(mirror.registry).removesuffix("/v2"))
        unreadable = versions.known_below(facts.containerd_version, 2, 0) and not too_old(facts)
        if unreadable and any("[" in url for url in endpoints):
            draft.findings.append(_ipv6(facts, mirror, denied))
        draft.mirrors[mirror.registry] = Mirror(endpoints, {item.pattern: item.replacement for item in mirror.rewrites})
    draft.mirrors = dict(sorted(draft.mirrors.items()))
    draft.configs = dict(sorted(draft.configs.items()))
    return draft


def _add_configs(facts: RuntimeFacts, draft: Draft, mirror: ResolvedMirror) -> None:
    for endpoint in mirror.endpoints:
        host = config_host(facts, normalise(endpoint.url, "")[0])
        wanted = Config(auth=_auth(endpoint.credentials), tls=draft.tls.paths(endpoint.tls))
        transport = (endpoint.url.startswith("http://"), endpoint.tls is not None and endpoint.tls.insecure_skip_verify)
        known = draft.transports.setdefault(host, {})
        known.setdefault(transport, mirror.name)
        other = next((owner for item, owner in known.items() if item != transport), None)
        if other is not None and (wanted != Config() or host in draft.configs):
            # Else what is meant for one would silently hold for the other: no verification, or a password over HTTP.
            draft.findings.append(_conflict(mirror, host, other))
        else:
            _add_config(draft, mirror, host, wanted)
    wanted = Config(auth=_auth(mirror.upstream_credentials), tls=draft.tls.paths(mirror.upstream_tls))
    _add_config(draft, mirror, config_host(facts, mirror.registry), wanted)


def _add_config(draft: Draft, mirror: ResolvedMirror, host: str, wanted: Config) -> None:
    if wanted == Config():
        return
    present = draft.configs.get(host, Config())
    if _differ(present.tls, wanted.tls) or _differ(present.auth, wanted.auth):
        draft.findings.append(_conflict(mirror, host, draft.owners[host]))
        return
    draft.configs[host] = Config(auth=present.auth or wanted.auth, tls=present.tls or wanted.tls)
    draft.owners.setdefault(host, mirror.name)


def _ipv6(facts: RuntimeFacts, mirror: ResolvedMirror, denied: Sequence[ResolvedMirror]) -> _Finding:
    text = (
        f"containerd {facts.containerd_version} cannot read a hosts.toml with an IPv6 address in an endpoint, and "
        "would ignore all of it: use a host name, or a release with containerd 2.0"
    )
    alone = any("[" in item.url for item in mirror.endpoints) or not denied
    # Else the registry itself is listed as an endpoint, only because another mirror denies fallback.
    return _Finding(MirrorProblem(mirror.name, "IPv6Unsupported", text), "" if alone else denied[0].name)


def _conflict(mirror: ResolvedMirror, host: str, owner: str) -> _Finding:
    alone = owner == mirror.name
    other = "another endpoint of this object" if alone else f"RegistryMirror {owner}"
    text = (
        f"registries.yaml has one TLS and credentials entry for {host}, and {other} wants different ones: use the same "
        "scheme, Secret and CA in both, or give the endpoints different host names"
    )
    return _Finding(MirrorProblem(mirror.name, "EndpointConfigConflict", text), "" if alone else owner)


def _differ(present: object, wanted: object) -> bool:
    return present is not None and wanted is not None and present != wanted


def _auth(credentials: Credentials | None) -> dict[str, str] | None:
    if credentials is None:
        return None
    if credentials.identity_token:
        return {"identity_token": credentials.identity_token}
    return {"username": credentials.username, "password": credentials.password}


def _wrong_alone(facts: RuntimeFacts, mirror: ResolvedMirror) -> Iterator[MirrorProblem]:
    """Say what of a mirror K3s and RKE2 cannot do, whatever other mirrors there are."""
    if too_old(facts):
        yield from k3s_old.problems(facts, mirror)
    shared = facts.embedded_registry is not None and not is_local(mirror.registry)
    if mirror.deny_fallback and not mirror.endpoints and not shared:
        yield MirrorProblem(
            mirror.name,
            "DenyNeedsEndpoint",
            "upstream.fallback: Deny has no effect without an endpoint: add one, or enable the embedded registry",
        )
    if "[" in mirror.registry and mirror.upstream_credentials is not None and not too_old(facts):
        yield from _brackets(facts, mirror)
    for endpoint in mirror.endpoints:
        if set(endpoint.capabilities) != {"Pull", "Resolve"}:
            yield MirrorProblem(
                mirror.name,
                "CapabilitiesUnsupported",
                f"{endpoint.url}: K3s and RKE2 always both pull from and resolve through an endpoint: set capabilities "
                "to [Pull, Resolve]",
            )
    if mirror.registry == "*" and _before(facts, _WILDCARD_SINCE) and not too_old(facts):
        yield MirrorProblem(
            mirror.name,
            "WildcardUnsupported",
            f'{facts.name} {facts.version} has no default for every registry ("*" needs v1.26.15, v1.27.12, v1.28.8, '
            "v1.29.3 or later): name the registries",
        )
    if mirror.registry == "*" and not mirror.deny_fallback and versions.parse(facts.version) in _WILDCARD_BROKEN:
        yield MirrorProblem(
            mirror.name,
            "WildcardUnsupported",
            f'{facts.name} {facts.version} cannot fall back from "*" to the registries themselves: use the next patch '
            "release, or name the registries",
        )


def _brackets(facts: RuntimeFacts, mirror: ResolvedMirror) -> Iterator[MirrorProblem]:
    """Credentials make a table of config.toml, and containerd 1.x reads none with a bracket in its name (pelletier/
    go-toml 1.9 lexer.go, lexInsideTableKey).
    """
    if versions.known_below(facts.containerd_version, 2, 0):
        yield MirrorProblem(
            mirror.name,
            "IPv6Unsupported",
            f"containerd {facts.containerd_version} would not start with credentials for an IPv6 address in its "
            "config.toml: use a host name, or a release with containerd 2.0",
        )


def _wrong_together(draft: Draft, mirror: ResolvedMirror, denied: Sequence[ResolvedMirror]) -> Iterator[_Finding]:
    """Say what of a mirror registries.yaml has no words for beside the other mirrors."""
    if mirror.deny_fallback and mirror.registry in draft.configs:
        owner = draft.owners[mirror.registry]
        text = (
            f"K3s and RKE2 keep asking {mirror.registry} itself, because TLS or credentials are set for that host: "
            "remove them, or set upstream.fallback: Allow"
        )
        because_of = "" if owner == mirror.name else owner
        yield _Finding(MirrorProblem(mirror.name, "FallbackNotDeniable", text), because_of)
    if not draft.disable_default or mirror.deny_fallback:
        return
    by = f"RegistryMirror {denied[0].name}" if denied else "disable-default-registry-endpoint in its config.yaml"
    because_of = denied[0].name if denied else ""
    if mirror.registry == "*":
        text = (
            f'fallback is denied on this node by {by}, which on K3s and RKE2 holds for "*" as well: set '
            "upstream.fallback: Deny here too, or allow it there"
        )
        yield _Finding(MirrorProblem(mirror.name, "FallbackNotAllowable", text), because_of)
    elif mirror.rewrites and mirror.registry not in draft.configs:
        text = (
            f"fallback is denied on this node by {by}; {mirror.registry} itself would have to be listed as an "
            "endpoint, and K3s and RKE2 would rewrite names for it too: set upstream.fallback: Deny here as well"
        )
        yield _Finding(MirrorProblem(mirror.name, "RewriteAppliesToUpstream", text), because_of)
