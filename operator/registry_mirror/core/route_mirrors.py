"""Mirrors in containerd's own configuration, which count where that has no config_path."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from msgspec.structs import replace

from .material import Credentials
from .route import Host, Route, itself, rewrites, table
from .upstream import is_local


def mirrors(file: str, settings: Mapping[str, Any], registry: str) -> Route:
    """Give what ``registry.mirrors`` of containerd's own configuration says (registryEndpoints, registryHosts).

    TLS settings and credentials are looked up by the host of an endpoint. A rewrite is one of the fork's.
    """
    listed = table(settings, "mirrors")
    chosen = listed.get(registry, listed.get("*"))
    entry = chosen if isinstance(chosen, dict) else {}
    hosts = []
    name = registry if registry in listed else "*"
    for item in entry.get("endpoint") or ():
        # addDefaultScheme: http for the node itself, else https.
        text = str(item)
        default = "http" if is_local(text.partition("/")[0]) else "https"
        parts = urlsplit(text if "://" in text else f"{default}://{text}")
        hosts.append(
            Host(
                scheme=parts.scheme,
                host=parts.netloc.rpartition("@")[2],
                path=unquote(parts.path) or "/v2",
                origin=f'{file}: registry.mirrors."{name}"',
                rewrites=rewrites(entry),
            )
        )
    if all(host.host != registry for host in hosts):
        scheme = "http" if is_local(registry) else "https"
        hosts.append(replace(itself(registry), scheme=scheme, skip_verify=None))
    return Route(hosts=tuple(_with_config(item, settings, registry) for item in hosts), files=(file,))


def _with_config(host: Host, settings: Mapping[str, Any], registry: str) -> Host:
    entry = table(table(settings, "configs"), host.host)
    tls = table(entry, "tls")
    certificate, key = str(tls.get("cert_file") or ""), str(tls.get("key_file") or "")
    skip = tls.get("insecure_skip_verify") is True or (not tls and host.scheme == "http" and is_local(registry))
    return replace(
        host,
        ca=(str(tls["ca_file"]),) if tls.get("ca_file") else (),
        client=((certificate, key or certificate),) if certificate else (),
        skip_verify=True if skip else None,
        credentials=credentials_of(settings, host.host),
    )


def credentials_of(settings: Mapping[str, Any], host: str) -> Credentials | None:
    """Give what ``registry.configs`` has for a host (internal/cri/server/images, ParseAuth); it may be a secret."""
    auth = table(table(table(settings, "configs"), host), "auth")
    user, password = str(auth.get("username") or ""), str(auth.get("password") or "")
    if user:
        return Credentials(username=user, password=password)
    if auth.get("identitytoken"):
        return Credentials(identity_token=str(auth["identitytoken"]))
    return _decoded(str(auth.get("auth") or ""))


def _decoded(text: str) -> Credentials | None:
    try:
        user, colon, password = base64.b64decode(text).decode().strip("\0").partition(":")
    except ValueError:
        return None
    return Credentials(username=user, password=password) if colon else None
