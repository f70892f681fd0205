"""containerd with hosts.toml (kubeadm and others): one directory a registry below config_path, read at every pull."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from urllib.parse import urlsplit

from ...api.models import Rewrite, RuntimeFacts
from .. import versions
from ..bundle import MirrorProblem, Rendered
from ..layout import layout
from ..resolve import Credentials, ResolvedEndpoint, ResolvedMirror
from . import upstream
from .hosts import Host, HostsFile
from .tls import TLSStore

COMMENT = (
    "# Managed by registry-mirror-operator: changes made here are overwritten. Edit the RegistryMirror objects instead."
)
_EVERYTHING = ("^", "^(.*)", "^(.*)$", "(.*)", "^(.+)", "^(.+)$", "(.+)")
_ADDED_PREFIX = re.compile(r"((?:[a-z0-9._-]+/)+)(?:\$1|\$\{1\})")


def render(facts: RuntimeFacts, mirrors: Sequence[ResolvedMirror]) -> Rendered:
    """Give hosts.toml files and the TLS files that they name, TLS files first.

    Nothing here ever takes a restart; that config_path is set is a fact of the node, checked before this is called.
    """
    paths = layout(facts)
    store = TLSStore(paths.tls)
    files, problems = [], []
    for mirror in sorted(mirrors, key=lambda item: item.registry):
        problem = next(_unsupported(facts, mirror), None)
        if problem is not None:
            problems.append(problem)
        elif mirror.endpoints or mirror.upstream_tls is not None or mirror.upstream_credentials is not None:
            directory = "_default" if mirror.registry == "*" else mirror.registry
            files.append(_hosts_file(mirror, store).file(paths.certs, directory))
    return Rendered((*store.files(), *files), {}, tuple(problems))


def _hosts_file(mirror: ResolvedMirror, store: TLSStore) -> HostsFile:
    # Two URLs can become one by a rewrite, and a second table of one name makes the file invalid (runtimes.md, trap 7).
    unique: dict[str | None, Host] = {}
    for endpoint in mirror.endpoints:
        host = _host(endpoint, mirror.rewrites, store)
        unique.setdefault(host.url, host)
    hosts = tuple(unique.values())
    if mirror.deny_fallback:
        # containerd always tries the registry itself last, unless the root names another server (runtimes.md, trap 4
        # and "Deny fallback"): the last mirror takes that place.
        return HostsFile(COMMENT, hosts[-1], hosts[:-1])
    root = Host(
        url=None if mirror.registry == "*" else upstream.default_url(mirror.registry),
        tls=store.paths(mirror.upstream_tls),
        authorization=_authorization(mirror.upstream_credentials),
    )
    return HostsFile(COMMENT, root, hosts)


def _host(endpoint: ResolvedEndpoint, rewrites: Sequence[Rewrite], store: TLSStore) -> Host:
    parts = urlsplit(endpoint.url)
    plain = parts.path in ("", "/", "/v2")
    host = Host(
        url=f"{parts.scheme}://{parts.netloc}{'/v2' if plain else parts.path}",
        capabilities=tuple(item.lower() for item in endpoint.capabilities),
        tls=store.paths(endpoint.tls),
        authorization=_authorization(endpoint.credentials),
        override_path=not plain,
        dial_timeout=endpoint.dial_timeout,
    )
    prefix = "".join(str(_added_prefix(item)) for item in rewrites)
    if prefix:
        return replace(host, url=f"{str(host.url).rstrip('/')}/{prefix.rstrip('/')}", override_path=True)
    return host


def _added_prefix(rewrite: Rewrite) -> str | None:
    """Give the path that a rewrite puts before every repository name, or None if it does anything else."""
    if rewrite.pattern not in _EVERYTHING:
        return None
    replacement = rewrite.replacement + ("$1" if rewrite.pattern == "^" else "")
    match = _ADDED_PREFIX.fullmatch(replacement)
    return match[1] if match and not {".", ".."} & set(match[1].split("/")) else None


def _authorization(credentials: Credentials | None) -> str:
    return credentials.basic() if credentials is not None else ""


def _unsupported(facts: RuntimeFacts, mirror: ResolvedMirror) -> Iterator[MirrorProblem]:
    """Say what of a mirror this containerd cannot do; nothing is dropped silently."""
    if mirror.deny_fallback and not mirror.endpoints:
        yield MirrorProblem(
            mirror.name, "DenyNeedsEndpoint", "upstream.fallback: Deny has no effect without an endpoint: add one"
        )
    if mirror.rewrites and (len(mirror.rewrites) > 1 or _added_prefix(mirror.rewrites[0]) is None):
        yield MirrorProblem(
            mirror.name,
            "RewriteUnsupported",
            "only K3s and RKE2 rewrite names by pattern; containerd can only put a fixed path before every name "
            "(pattern ^(.*)$, replacement path/$1): exclude these nodes with nodeSelector, or arrange the mirror like "
            "the registry",
        )
    credentials = [item.credentials for item in mirror.endpoints] + [mirror.upstream_credentials]
    if any(item is not None and item.identity_token for item in credentials):
        yield MirrorProblem(
            mirror.name,
            "IdentityTokenUnsupported",
            "containerd sends identity tokens only for registries in its config.toml, which this version of the "
            "operator does not edit: use a user name and password",
        )
    if mirror.registry == "*" and versions.known_below(facts.containerd_version, 1, 6, 17):
        yield MirrorProblem(
            mirror.name,
            "WildcardUnsupported",
            f'containerd {facts.containerd_version} has no default for every registry ("*" needs 1.6.17 or later): '
            "name the registries",
        )
