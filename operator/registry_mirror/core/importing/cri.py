"""config.toml of containerd with old-style ``registry.mirrors`` and ``registry.configs``, in all three schemas.

The containerd-template.toml of MicroK8s is one too.
"""

from __future__ import annotations

from ...api import grammar
from .. import upstream
from .draft import (
    Draft,
    Drafts,
    Endpoint,
    HostConfig,
    Read,
    checked_url,
    known_registry,
    leave_out_empty,
    set_endpoint_tls,
    unknown_keys,
)
from .k3s import auth_of, config_for, tls_of
from .reading import Table, read_toml

# Schema 1, 2 and 3: the plugin whose table ``registry`` is read.
_PLUGINS = ("cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images")


def config_toml(subject: str, text: str, read: Read) -> Drafts:
    """Give drafts for a config.toml; raises InvalidError. Settings of other plugins are no concern here."""
    plugins = read_toml(subject, text).table("plugins")
    result = Drafts()
    for plugin in _PLUGINS:
        registry = plugins.table(plugin).table("registry")
        known = ("mirrors", "configs", "auths", "config_path")
        unknown_keys(iter(registry), known, f"{registry.path}.", result.notes)
        _configs(registry, read, result)
        _mirrors(subject, registry.table("mirrors"), result)
        path = registry.text("config_path")
        if path:
            result.notes.append(f"{registry.where('config_path')}: the files in {path} count as well, import them too")
        if path and registry.table("mirrors").is_table("docker.io"):
            result.notes.append(f"{registry.path}: containerd refuses mirrors beside config_path")
    return result


def _configs(registry: Table, read: Read, result: Drafts) -> None:
    entries = registry.table("configs")
    for host in entries:
        entry = entries.table(host)
        unknown_keys(iter(entry), ("auth", "tls"), f"{entry.path}.", result.notes)
        tls = tls_of(entry.table("tls"), read, result.notes)
        result.hosts[host] = HostConfig(tls, auth_of(entry.table("auth"), result.notes))
    auths = registry.table("auths")
    for url in auths:
        host = url.partition("://")[2].partition("/")[0] or url
        if host not in result.hosts:
            result.hosts[host] = HostConfig(None, auth_of(auths.table(url), result.notes))


def _mirrors(subject: str, mirrors: Table, result: Drafts) -> None:
    for name in mirrors:
        entry = mirrors.table(name)
        unknown_keys(iter(entry), ("endpoint", "rewrite"), f"{entry.path}.", result.notes)
        if not known_registry(subject, entry.path, name, result.notes):
            continue
        draft = Draft(name, f"{subject}: {entry.path}")
        if entry.table("rewrite"):
            rewrite = entry.table("rewrite")
            draft.rewrites = {pattern: rewrite.text(pattern) for pattern in rewrite}
        for index, value in enumerate(entry.texts("endpoint")):
            path = f"{entry.path}.endpoint[{index}]"
            url = value if "://" in value else f"https://{value}"
            checked_url(subject, path, url)
            if url != value:
                draft.notes.append(f"{path}: {value} is read as {url}")
            if all(grammar.normal_url(item.url) != grammar.normal_url(url) for item in draft.endpoints):
                draft.endpoints.append(Endpoint(url))
        own = upstream.default_url(name) if name != "*" else ""
        if draft.endpoints and grammar.normal_url(draft.endpoints[-1].url) == own and not draft.rewrites:
            draft.endpoints.pop()
        result.items.append(draft)


def apply_hosts(result: Drafts, origin: str) -> None:
    """Give endpoints and registries what is known about their hosts; what is left over gets objects of its own.

    What a draft says itself stays. Drafts that end up saying nothing are left out with a note.
    """
    used = set()
    for draft in result.items:
        for endpoint in draft.endpoints:
            key, config = config_for(result.hosts, endpoint.url.partition("://")[2].partition("/")[0])
            used.add(key)
            if endpoint.tls is None:
                set_endpoint_tls(endpoint, config.tls, draft.notes)
            endpoint.credentials = endpoint.credentials or config.credentials
        if draft.registry != "*" and not draft.deny:
            key, config = config_for(result.hosts, draft.registry)
            used.add(key)
            draft.tls, draft.credentials = draft.tls or config.tls, draft.credentials or config.credentials
    for host, config in result.hosts.items():
        name = "docker.io" if host == "registry-1.docker.io" else host
        if host in used or config == HostConfig() or any(name == draft.registry for draft in result.items):
            continue
        if host == "*":
            result.notes.append('configs."*": left out, containerd has no such entry')
        elif known_registry(origin, f"configs.{host}", name, result.notes):
            result.items.append(
                Draft(name, f"{origin}: configs.{host}", tls=config.tls, credentials=config.credentials)
            )
    leave_out_empty(result)
