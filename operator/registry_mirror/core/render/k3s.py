"""K3s and RKE2: registries.yaml for the next start, and for the next pull the certs.d that K3s would render from it.

Both halves say the same, so a change takes effect at once and a later start changes nothing. What registries.yaml
cannot say for a mirror is a problem of that mirror, and it is left out: better no mirror than one that changes its
meaning at the next start. Releases before hosts.toml have the first half alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from msgspec.structs import replace as with_fields

from ...api.models import RuntimeFacts
from .. import versions
from ..bundle import SECRET_MODE, File, Rendered, StartSetting
from ..layout import Layout, layout
from ..resolve import ResolvedMirror
from . import k3s_old, quoting
from .hosts import HostsFile, TLSFiles
from .k3s_draft import config_host, settle, too_old
from .k3s_hosts import Registries, directory_of, host_files, is_local, normalise


def render(facts: RuntimeFacts, mirrors: Sequence[ResolvedMirror]) -> Rendered:
    """Give registries.yaml, the drop-in that denies fallback, certs.d and the TLS files, TLS files first."""
    old = too_old(facts)
    if old:
        # Neither setting exists there, whatever a configuration for a later release says.
        facts = with_fields(facts, disable_default_endpoint=False, embedded_registry=None)
    paths = layout(facts)
    draft, kept, problems = settle(facts, mirrors, paths)
    if not kept:
        return Rendered((), {}, problems)
    registries = Registries(k3s_old.entries(kept) if old else draft.mirrors, draft.configs)
    registries_file = _registries_file(facts.registries_file, registries)
    if old:
        settings = k3s_old.start_settings(registries, kept, _users(facts, registries, kept))
        return Rendered((*draft.tls.files(), registries_file), settings, problems)
    hosts = host_files(registries, facts.name, draft.disable_default, facts.embedded_registry)
    if facts.embedded_registry is not None:
        hosts.pop(facts.embedded_registry.address, None)  # K3s's own: neither ours to write nor to remove
    by_directory = {directory_of(item.registry): item for item in kept}
    hosts = {name: _with_dial_timeouts(file, by_directory.get(name)) for name, file in hosts.items()}
    files = [
        *draft.tls.files(),
        *(file.file(paths.certs, name) for name, file in sorted(hosts.items())),
        *_drop_in(paths, draft.disable_default and not facts.disable_default_endpoint),
        registries_file,
    ]
    return Rendered(tuple(files), _start_settings(facts, registries, kept), problems)


def _with_dial_timeouts(file: HostsFile, mirror: ResolvedMirror | None) -> HostsFile:
    """Add what registries.yaml has no word for and what does no harm when a start of K3s drops it for a moment."""
    wanted: dict[str | None, str | None] = {}
    for endpoint in mirror.endpoints if mirror is not None else ():
        wanted.setdefault(normalise(endpoint.url, "")[1], endpoint.dial_timeout)
    if not any(wanted.values()):
        return file
    root, *hosts = (
        replace(host, dial_timeout=wanted[host.url]) if wanted.get(host.url) else host
        for host in (file.root, *file.hosts)
    )
    return replace(file, root=root, hosts=tuple(hosts))


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
    users = _users(facts, registries, mirrors)
    for host, config in registries.configs.items():
        if config.auth is not None and not (tokens_by_header and config.authorization()):
            settings[f"credentials for {host}"] = StartSetting(repr(sorted(config.auth.items())), users[host])
    if facts.embedded_registry is not None:
        for mirror in mirrors:
            if not is_local(mirror.registry):
                name = f"sharing of {mirror.registry} through the embedded registry"
                settings[name] = StartSetting("", frozenset({mirror.name}))
    return settings


def _users(facts: RuntimeFacts, registries: Registries, mirrors: Sequence[ResolvedMirror]) -> dict[str, frozenset[str]]:
    """The names of the objects that speak to each host of ``configs``."""
    users: dict[str, set[str]] = {host: set() for host in registries.configs}
    for mirror in mirrors if users else ():
        for host in _hosts_of(facts, mirror) & users.keys():
            users[host].add(mirror.name)
    return {host: frozenset(names) for host, names in users.items()}


def _hosts_of(facts: RuntimeFacts, mirror: ResolvedMirror) -> set[str]:
    """The hosts of a mirror by the names that ``configs`` has for them."""
    registries = (mirror.registry, *(normalise(item.url, "")[0] for item in mirror.endpoints))
    return {config_host(facts, registry) for registry in registries}
