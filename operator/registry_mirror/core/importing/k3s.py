"""registries.yaml of K3s and RKE2, read as they read it (wharfie pkg/registries, K3s getHostConfigs)."""

from __future__ import annotations

import base64

from .. import upstream
from ..material import Credentials
from ..render.hosts import TLSFiles
from ..render.k3s_hosts import Config, Mirror, Registries, is_local, normalise
from .draft import (
    TLS,
    Draft,
    Drafts,
    Endpoint,
    HostConfig,
    Options,
    Read,
    ca_of,
    checked_url,
    known_registry,
    pem,
    set_endpoint_tls,
    unknown_keys,
    usable,
)
from .reading import Table, read_yaml


def registries_yaml(subject: str, text: str, read: Read, options: Options) -> Drafts:
    """Give drafts for a registries.yaml; raises InvalidError for what is not one."""
    root = read_yaml(subject, text)
    result = Drafts()
    unknown_keys(iter(root), ("mirrors", "configs", "auths"), "", result.notes)
    if "auths" in root:
        result.notes.append("auths: left out, K3s and RKE2 do not use it")
    mirrors, entries = root.table("mirrors"), root.table("configs")
    configs = {host: _config(entries.table(host), read, result) for host in entries}
    used: set[str] = set()
    for name in mirrors:
        if known_registry(subject, mirrors.where(name), name, result.notes):
            result.items.append(_Entry(result, mirrors.table(name), name, configs, options, used).draft())
    for host, config in configs.items():
        if host not in mirrors and host not in used:
            _own_object(subject, entries.where(host), host, config, result)
    if "*" in configs and configs["*"].credentials is not None:
        result.notes.append(f"{entries.where('*')}.auth: left out, it has no effect in K3s and RKE2")
    result.original = _original(mirrors, entries, configs, result)
    return result


def config_for(configs: dict[str, HostConfig], registry: str) -> tuple[str, HostConfig]:
    """configForHost: give the settings of a registry and the key that they stand under (empty if there are none)."""
    for key in (upstream.default_host(registry), registry):
        if key in configs:
            return key, configs[key]
    return "", HostConfig()


class _Entry:
    """One entry of ``mirrors`` on its way to a draft."""

    def __init__(
        self,
        result: Drafts,
        entry: Table,
        name: str,
        configs: dict[str, HostConfig],
        options: Options,
        used: set[str],
    ) -> None:
        self.entry, self.name, self.configs, self.options, self.used = entry, name, configs, options, used
        self.own = normalise(name, options.embedded)[1] if name != "*" else ""
        self.item = Draft(name, f"{entry.subject}: {entry.path}")
        unknown_keys(iter(entry), ("endpoint", "rewrite"), f"{entry.path}.", result.notes)

    def draft(self) -> Draft:
        rewrite = self.entry.table("rewrite")
        self.item.rewrites = {pattern: rewrite.text(pattern) for pattern in rewrite}
        own_is_last = self._endpoints()
        listed = self.name in self.configs and self.name != "*"
        shared = bool(self.options.embedded) and not is_local(self.name)
        if self.options.disable_default and not listed and not own_is_last:
            self.item.deny = bool(self.item.endpoints) or shared
            if not self.item.deny:
                self.item.notes.append("no endpoint and no embedded registry: the registry itself is still asked")
        self._upstream(listed)
        return self.item

    def _endpoints(self) -> bool:
        """Add the endpoints; tells whether the last one is the registry itself and left to ``upstream``."""
        values = self.entry.texts("endpoint")
        seen = set()
        for index, value in enumerate(values):
            path = f"{self.entry.path}.endpoint[{index}]"
            registry, url, verbatim = normalise(value, self.options.embedded)
            spelled = value if "://" in value else url if verbatim else url.removesuffix("/v2")
            checked_url(self.entry.subject, path, spelled)
            if url in seen:
                self.item.notes.append(f"{path}: left out, an earlier endpoint is the same ({url})")
                continue
            seen.add(url)
            if url == self.own and index + 1 == len(values) and not self.item.rewrites:
                return True
            if spelled != value:
                self.item.notes.append(f"{path}: {value} is read as {spelled}")
            self._endpoint(spelled, registry)
        return False

    def _endpoint(self, url: str, registry: str) -> None:
        key, config = config_for(self.configs, registry)
        endpoint = Endpoint(url, credentials=config.credentials)
        if set_endpoint_tls(endpoint, config.tls, self.item.notes) and key:
            self.used.add(key)
        self.item.endpoints.append(endpoint)

    def _upstream(self, listed: bool) -> None:
        key, config = (self.name, self.configs[self.name]) if listed else config_for(self.configs, self.name)
        if self.item.deny:
            if config != HostConfig():
                text = "left out, the registry itself is never asked (disable-default-registry-endpoint)"
                self.item.notes.append(f"configs.{key}: {text}")
            return
        if key and key != self.name:
            self.item.notes.append(f"configs.{key}: taken as those of {self.name}")
        self.used.add(key)
        self.item.tls = config.tls
        self.item.credentials = config.credentials if self.name != "*" else None


def _own_object(subject: str, path: str, host: str, config: HostConfig, result: Drafts) -> None:
    """An entry of ``configs`` for a registry that is pulled from directly."""
    if not known_registry(subject, path, host, result.notes):
        return
    credentials = config.credentials if host != "*" else None
    if config.tls is not None or credentials is not None:
        result.items.append(Draft(host, f"{subject}: {path}", tls=config.tls, credentials=credentials))


def _config(entry: Table, read: Read, result: Drafts) -> HostConfig:
    unknown_keys(iter(entry), ("auth", "tls"), f"{entry.path}.", result.notes)
    return HostConfig(_tls(entry.table("tls"), read, result.notes), auth_of(entry.table("auth"), result.notes))


def _tls(entry: Table, read: Read, notes: list[str]) -> TLS | None:
    unknown_keys(iter(entry), ("ca_file", "cert_file", "key_file", "insecure_skip_verify"), f"{entry.path}.", notes)
    return tls_of(entry, read, notes)


def tls_of(entry: Table, read: Read, notes: list[str]) -> TLS | None:
    """Give TLS settings as registries.yaml and config.toml spell them; None if they say nothing."""
    ca, certificate, key = entry.text("ca_file"), entry.text("cert_file"), entry.text("key_file")
    if bool(certificate) != bool(key):
        notes.append(f"{entry.path}: client certificate left out, cert_file and key_file go together")
    pair = [(certificate, "CERTIFICATE"), (key, "PRIVATE KEY")] if certificate and key else []
    found = TLS(
        ca=ca_of(read, "/", [ca] if ca else []),
        client=pem(read, "/", pair) if pair else None,
        skip_verify=entry.flag("insecure_skip_verify"),
    )
    return None if found == TLS() else found


def auth_of(entry: Table, notes: list[str]) -> Credentials | None:
    """Give credentials as containerd reads them (ParseAuth): user name, else identity token, else ``auth``."""
    known = ("username", "password", "auth", "identity_token", "identitytoken")
    unknown_keys(iter(entry), known, f"{entry.path}.", notes)
    user, password, token = entry.text("username"), entry.text("password"), entry.text("identity_token")
    token = token or entry.text("identitytoken")
    auth = entry.text("auth")
    if not user and not token and auth:
        try:
            user, colon, password = base64.b64decode(auth, validate=True).decode().partition(":")
            password = password.strip("\0")
        except ValueError:
            colon = ""
        if not colon:
            notes.append(f"{entry.path}.auth: left out, it is not base64 of user:password")
            return None
    return usable(user, password if user else "", token, entry.path, notes)


def _original(mirrors: Table, entries: Table, configs: dict[str, HostConfig], result: Drafts) -> Registries:
    """The file as K3s reads it; TLS settings are named ``configs`` key first, for the comparison to fill in."""
    read_mirrors = {}
    for name in mirrors:
        entry = mirrors.table(name)
        rewrite = entry.table("rewrite")
        read_mirrors[name] = Mirror(tuple(entry.texts("endpoint")), {key: rewrite.text(key) for key in rewrite})
    read_configs = {}
    for host, config in configs.items():
        has_auth = entries.table(host).is_table("auth")
        tls = None
        if config.tls is not None:
            result.tls_of[host] = config.tls
            tls = TLSFiles(ca=host)
        read_configs[host] = Config(auth={} if has_auth else None, tls=tls)
    return Registries(read_mirrors, read_configs)
