"""Read registries.yaml as wharfie does, as far as certs.d depends on it: the tests' own reader, not the renderer's."""

from __future__ import annotations

from typing import Any

import yaml

from registry_mirror.core.render.hosts import TLSFiles
from registry_mirror.core.render.k3s_hosts import Config, Mirror, Registries


def read(text: str) -> Registries:
    document = yaml.safe_load(text) or {}
    mirrors = {name: _mirror(entry or {}) for name, entry in (document.get("mirrors") or {}).items()}
    configs = {host: _config(entry or {}) for host, entry in (document.get("configs") or {}).items()}
    return Registries(mirrors, configs)


def _mirror(entry: dict[str, Any]) -> Mirror:
    return Mirror(tuple(entry.get("endpoint") or ()), entry.get("rewrite") or {})


def _config(entry: dict[str, Any]) -> Config:
    settings = entry.get("tls")
    tls = None
    if settings is not None:
        tls = TLSFiles(
            ca=settings.get("ca_file", ""),
            certificate=settings.get("cert_file", ""),
            key=settings.get("key_file", ""),
            insecure_skip_verify=settings.get("insecure_skip_verify", False),
        )
    return Config(auth=entry.get("auth"), tls=tls)
