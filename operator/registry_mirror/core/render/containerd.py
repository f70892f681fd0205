"""containerd with hosts.toml: one directory a registry below config_path, read at every pull.

kubeadm and others have it as it is here; MicroK8s and k0s add their own paths and limits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from ...api import grammar
from ...api.models import Rewrite, RuntimeFacts
from .. import upstream, versions
from ..bundle import MirrorProblem, Rendered, StartSetting
from ..edits import Edit, HostConfig
from ..layout import MARK, Layout, layout
from ..resolve import Credentials, ResolvedEndpoint, ResolvedMirror
from ..select import precedence
from .host_configs import HostConfigs, Wanted, auth
from .hosts import Host, HostsFile
from .tls import TLSStore

COMMENT = f"{MARK}: changes made here are overwritten. Edit the RegistryMirror objects instead."
_EVERYTHING = ("^", "^(.*)", "^(.*)$", "(.*)", "^(.+)", "^(.+)$", "(.+)")
_ADDED_PREFIX = re.compile(r"((?:[a-z0-9._-]+/)+)(?:\$1|\$\{1\})")


def render(facts: RuntimeFacts, mirrors: Sequence[ResolvedMirror]) -> Rendered:
    """Give hosts.toml files and the TLS files that they name, TLS files first, and what goes into config.toml.

    That takes a restart: config_path once in a node's life, where the node has not set it, and credentials that no
    header can carry (``_start_auth``).
    """
    paths = layout(facts)
    store, configs = TLSStore(paths.tls), HostConfigs("config.toml")
    kept, problems = [], []
    for mirror in sorted(mirrors, key=precedence):
        problem = next(_unsupported(facts, mirror), None) or configs.take(mirror.name, _in_config(facts, mirror))
        if problem is None:
            kept.append(mirror)
        else:
            problems.append(problem)
    # A registry with an object of its own must not fall under "*", even if the object has nothing else to say.
    default = any(mirror.registry == "*" for mirror in mirrors)
    files = []
    for mirror in sorted(kept, key=lambda item: item.registry):
        if (default and mirror.registry != "*") or _says_anything(mirror):
            directory = "_default" if mirror.registry == "*" else mirror.registry
            files.append(_hosts_file(facts, mirror, store).file(paths.certs, directory))
    settings = configs.start_settings()
    if files and paths.config_path:
        names = frozenset(item.name for item in kept)
        settings = {"config_path of containerd": StartSetting(paths.config_path, names), **settings}
    edits = (_edit(facts, paths, configs),) if settings else ()
    return Rendered((*store.files(), *files), settings, tuple(problems), edits)


def _edit(facts: RuntimeFacts, paths: Layout, configs: HostConfigs) -> Edit:
    return Edit(
        path=paths.edits[0],
        config_schema=facts.config_schema,
        config_path=paths.config_path,
        configs=dict(sorted(configs.entries.items())),
    )


def _in_config(facts: RuntimeFacts, mirror: ResolvedMirror) -> Iterator[Wanted]:
    """What a mirror wants in config.toml, where that is a file that is edited; TLS settings stand in hosts.toml."""
    if not layout(facts).edits:
        return
    for item in mirror.endpoints:
        parts = urlsplit(item.url)
        config = HostConfig(auth=_start_auth(facts, item.credentials))
        yield Wanted(parts.netloc, (parts.scheme == "http", False), config)
    if mirror.registry != "*" and not mirror.deny_fallback:
        config = HostConfig(auth=_start_auth(facts, mirror.upstream_credentials))
        yield Wanted(upstream.default_host(mirror.registry), None, config)


def _start_auth(facts: RuntimeFacts, credentials: Credentials | None) -> dict[str, str]:
    """Give what of credentials has to stand in config.toml (runtimes.md, Credentials).

    A header in hosts.toml carries user name and password, live, to a registry with Basic authentication on every
    version, and to one that issues tokens on containerd 2.1 and later; which kind a registry is cannot be known here.
    An identity token is read from config.toml alone.
    """
    if credentials is None or (not credentials.identity_token and not _before_token_headers(facts)):
        return {}
    return auth(credentials)


def _before_token_headers(facts: RuntimeFacts) -> bool:
    return versions.known_below(facts.containerd_version, 2, 1)


def _says_anything(mirror: ResolvedMirror) -> bool:
    return bool(mirror.endpoints) or mirror.upstream_tls is not None or mirror.upstream_credentials is not None


def _hosts_file(facts: RuntimeFacts, mirror: ResolvedMirror, store: TLSStore) -> HostsFile:
    # Two URLs can become one by a rewrite, and a second table of one name makes the file invalid (runtimes.md, trap 7).
    unique: dict[str | None, Host] = {}
    for endpoint in mirror.endpoints:
        host = _host(facts, endpoint, mirror.rewrites, store)
        unique.setdefault(host.url, host)
    hosts = tuple(unique.values())
    if mirror.deny_fallback:
        # containerd always tries the registry itself last, unless the root names another server (runtimes.md, trap 4
        # and "Deny fallback"): the last mirror takes that place.
        return HostsFile(COMMENT, hosts[-1], hosts[:-1])
    root = Host(
        url=_server(mirror),
        tls=store.paths(mirror.upstream_tls),
        authorization=_authorization(mirror.upstream_credentials),
    )
    return HostsFile(COMMENT, root, hosts)


def _server(mirror: ResolvedMirror) -> str | None:
    """Give the registry itself, or None where containerd has to work it out: for "*" from the image, and for a registry
    on the node because there it tries HTTPS without verification and then HTTP, which no URL can say.
    """
    if mirror.registry == "*" or (mirror.upstream_tls is None and upstream.is_local(mirror.registry)):
        return None
    return upstream.default_url(mirror.registry)


def _host(facts: RuntimeFacts, endpoint: ResolvedEndpoint, rewrites: Sequence[Rewrite], store: TLSStore) -> Host:
    # Unknown keys are ignored without a word (runtimes.md, hosts.toml): what has no effect is not written.
    timed = not versions.known_below(facts.containerd_version, 2, 0, 7)
    return Host(
        url=url_of(endpoint, rewrites),
        capabilities=tuple(item.lower() for item in endpoint.capabilities),
        tls=store.paths(endpoint.tls),
        authorization=_authorization(endpoint.credentials),
        override_path=bool(rewrites) or not _plain(endpoint),
        dial_timeout=endpoint.dial_timeout if timed else None,
    )


def url_of(endpoint: ResolvedEndpoint, rewrites: Sequence[Rewrite]) -> str:
    """Give where an endpoint is asked, with the path that rewrites put before every name."""
    url = grammar.normal_url(endpoint.url)
    prefix = "".join(str(added_prefix(item)) for item in rewrites)
    return f"{url.rstrip('/')}/{prefix.rstrip('/')}" if prefix else url


def _plain(endpoint: ResolvedEndpoint) -> bool:
    """Tell whether an endpoint answers under the usual /v2."""
    return urlsplit(endpoint.url).path in ("", "/", "/v2")


def added_prefix(rewrite: Rewrite) -> str | None:
    """Give the path that a rewrite puts before every repository name, or None if it does anything else."""
    if rewrite.pattern not in _EVERYTHING:
        return None
    replacement = rewrite.replacement + ("$1" if rewrite.pattern == "^" else "")
    match = _ADDED_PREFIX.fullmatch(replacement)
    return match[1] if match and not {".", ".."} & set(match[1].split("/")) else None


def _authorization(credentials: Credentials | None) -> str:
    return credentials.basic() if credentials is not None and not credentials.identity_token else ""


def unsupported_rewrites(mirror: ResolvedMirror) -> Iterator[MirrorProblem]:
    """Say so if a mirror rewrites names in a way that is no path before every name."""
    if mirror.rewrites and (len(mirror.rewrites) > 1 or added_prefix(mirror.rewrites[0]) is None):
        yield MirrorProblem(
            mirror.name,
            "RewriteUnsupported",
            "only K3s and RKE2 rewrite names by pattern; containerd can only put a fixed path before every name "
            "(pattern ^(.*)$, replacement path/$1): exclude these nodes with nodeSelector, or arrange the mirror like "
            "the registry",
        )


def _unsupported(facts: RuntimeFacts, mirror: ResolvedMirror) -> Iterator[MirrorProblem]:
    """Say what of a mirror this containerd cannot do; nothing is dropped silently."""
    if mirror.deny_fallback and not mirror.endpoints:
        yield MirrorProblem(
            mirror.name, "DenyNeedsEndpoint", "upstream.fallback: Deny has no effect without an endpoint: add one"
        )
    yield from unsupported_rewrites(mirror)
    tables = mirror.endpoints[:-1] if mirror.deny_fallback else mirror.endpoints
    if versions.known_below(facts.containerd_version, 2, 0) and any("[" in item.url for item in tables):
        yield MirrorProblem(
            mirror.name,
            "IPv6Unsupported",
            f"containerd {facts.containerd_version} cannot read a hosts.toml with an IPv6 address in an endpoint, and "
            "would ignore all of it: use a host name, or containerd 2.0 or later",
        )
    yield from _credentials(facts, mirror)
    yield from _too_old(facts, mirror)


def _credentials(facts: RuntimeFacts, mirror: ResolvedMirror) -> Iterator[MirrorProblem]:
    credentials = [item.credentials for item in mirror.endpoints] + [mirror.upstream_credentials]
    if not layout(facts).edits and any(item is not None and item.identity_token for item in credentials):
        yield MirrorProblem(
            mirror.name,
            "IdentityTokenUnsupported",
            "containerd sends identity tokens only for registries in its config.toml, which is none that the operator "
            "edits on this node: use a user name and password",
        )
    # containerd 1.x takes no bracket in the name of a table (go-toml 1.9 lexer.go, lexInsideTableKey).
    hosts = [item.host for item in _in_config(facts, mirror) if item.config.auth]
    if versions.known_below(facts.containerd_version, 2, 0) and any("[" in host for host in hosts):
        yield MirrorProblem(
            mirror.name,
            "IPv6Unsupported",
            f"containerd {facts.containerd_version} takes no credentials for an IPv6 address in its config.toml: use a "
            "host name, or containerd 2.0 or later",
        )


def _too_old(facts: RuntimeFacts, mirror: ResolvedMirror) -> Iterator[MirrorProblem]:
    """What came with a later containerd; the versions are those of runtimes.md."""
    if mirror.registry == "*" and versions.known_below(facts.containerd_version, 1, 6, 17):
        yield MirrorProblem(
            mirror.name,
            "WildcardUnsupported",
            f'containerd {facts.containerd_version} has no default for every registry ("*" needs 1.6.17 or later): '
            "name the registries",
        )
    other = next((item.url for item in mirror.endpoints if mirror.rewrites or not _plain(item)), None)
    if other is not None and versions.known_below(facts.containerd_version, 1, 6):
        yield MirrorProblem(
            mirror.name,
            "EndpointUnsupported",
            f"containerd {facts.containerd_version} reaches an endpoint under /v2 only ({other} would need "
            "override_path, which came with 1.6.0): have the mirror answer under /v2, or upgrade",
        )
