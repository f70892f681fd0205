"""containerd with hosts.toml: one directory a registry below config_path, read at every pull.

kubeadm and others have it as it is here; MicroK8s and k0s add their own paths and limits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from urllib.parse import urlsplit

from ...api.models import Rewrite, RuntimeFacts
from .. import versions
from ..bundle import MirrorProblem, Rendered, StartSetting
from ..edits import ConfigPath
from ..layout import MARK, layout
from ..resolve import Credentials, ResolvedEndpoint, ResolvedMirror
from . import upstream
from .hosts import Host, HostsFile
from .tls import TLSStore

COMMENT = f"{MARK}: changes made here are overwritten. Edit the RegistryMirror objects instead."
_EVERYTHING = ("^", "^(.*)", "^(.*)$", "(.*)", "^(.+)", "^(.+)$", "(.+)")
_ADDED_PREFIX = re.compile(r"((?:[a-z0-9._-]+/)+)(?:\$1|\$\{1\})")


def render(facts: RuntimeFacts, mirrors: Sequence[ResolvedMirror]) -> Rendered:
    """Give hosts.toml files and the TLS files that they name, TLS files first.

    Nothing here takes a restart but this, once in a node's life: config_path, where the node has not set it.
    """
    paths = layout(facts)
    store = TLSStore(paths.tls)
    files, problems = [], []
    # A registry with an object of its own must not fall under "*", even if the object has nothing else to say.
    default = any(mirror.registry == "*" for mirror in mirrors)
    for mirror in sorted(mirrors, key=lambda item: item.registry):
        problem = next(_unsupported(facts, mirror), None)
        if problem is not None:
            problems.append(problem)
        elif (default and mirror.registry != "*") or _says_anything(mirror):
            directory = "_default" if mirror.registry == "*" else mirror.registry
            files.append(_hosts_file(facts, mirror, store).file(paths.certs, directory))
    edits = tuple(ConfigPath(path=item, config_schema=facts.config_schema, value=paths.certs) for item in paths.edits)
    if not files or not edits:
        return Rendered((*store.files(), *files), {}, tuple(problems))
    left_out = {item.mirror for item in problems}
    waiting = frozenset(item.name for item in mirrors if item.name not in left_out)
    settings = {"config_path of containerd": StartSetting(paths.certs, waiting)}
    return Rendered((*store.files(), *files), settings, tuple(problems), edits)


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
    parts = urlsplit(endpoint.url)
    plain = _plain(endpoint)
    # Unknown keys are ignored without a word (runtimes.md, hosts.toml): what has no effect is not written.
    timed = not versions.known_below(facts.containerd_version, 2, 0, 7)
    host = Host(
        url=f"{parts.scheme}://{parts.netloc}{'/v2' if plain else parts.path}",
        capabilities=tuple(item.lower() for item in endpoint.capabilities),
        tls=store.paths(endpoint.tls),
        authorization=_authorization(endpoint.credentials),
        override_path=not plain,
        dial_timeout=endpoint.dial_timeout if timed else None,
    )
    prefix = "".join(str(added_prefix(item)) for item in rewrites)
    if prefix:
        return replace(host, url=f"{str(host.url).rstrip('/')}/{prefix.rstrip('/')}", override_path=True)
    return host


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
    return credentials.basic() if credentials is not None else ""


def _unsupported(facts: RuntimeFacts, mirror: ResolvedMirror) -> Iterator[MirrorProblem]:
    """Say what of a mirror this containerd cannot do; nothing is dropped silently."""
    if mirror.deny_fallback and not mirror.endpoints:
        yield MirrorProblem(
            mirror.name, "DenyNeedsEndpoint", "upstream.fallback: Deny has no effect without an endpoint: add one"
        )
    if mirror.rewrites and (len(mirror.rewrites) > 1 or added_prefix(mirror.rewrites[0]) is None):
        yield MirrorProblem(
            mirror.name,
            "RewriteUnsupported",
            "only K3s and RKE2 rewrite names by pattern; containerd can only put a fixed path before every name "
            "(pattern ^(.*)$, replacement path/$1): exclude these nodes with nodeSelector, or arrange the mirror like "
            "the registry",
        )
    tables = mirror.endpoints[:-1] if mirror.deny_fallback else mirror.endpoints
    if versions.known_below(facts.containerd_version, 2, 0) and any("[" in item.url for item in tables):
        yield MirrorProblem(
            mirror.name,
            "IPv6Unsupported",
            f"containerd {facts.containerd_version} cannot read a hosts.toml with an IPv6 address in an endpoint, and "
            "would ignore all of it: use a host name, or containerd 2.0 or later",
        )
    credentials = [item.credentials for item in mirror.endpoints] + [mirror.upstream_credentials]
    if any(item is not None and item.identity_token for item in credentials):
        yield MirrorProblem(
            mirror.name,
            "IdentityTokenUnsupported",
            "containerd sends identity tokens only for registries in its config.toml, which this version of the "
            "operator does not edit: use a user name and password",
        )
    yield from _too_old(facts, mirror)


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
