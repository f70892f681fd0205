"""What a node must ask, worked out from the RegistryMirror documents alone: no renderer and no text takes part."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

from tests.harness.oracles import RegistryHost

from .sources import CAS, CLIENT_NAME, authorization

Document = dict[str, Any]


def document(registry: str, *endpoints: str | dict[str, Any], **spec: Any) -> Document:
    """A RegistryMirror, named after its registry."""
    items = [{"url": item} if isinstance(item, str) else item for item in endpoints]
    return {"metadata": {"name": registry}, "spec": {"registry": registry, "endpoints": items, **spec}}


def endpoint(url: str, **fields: Any) -> dict[str, Any]:
    return {"url": url, **fields}


def of(registry: str, documents: Sequence[Document]) -> Document | None:
    """The object that stands for a registry: its own, else that of every registry."""
    by_registry = {item["spec"]["registry"]: item for item in documents}
    return by_registry.get(registry, by_registry.get("*"))


def asked(found: Document | None, upstream: RegistryHost, *, prefix: bool = True) -> list[RegistryHost]:
    """The hosts in order. ``upstream`` is what would be asked without any mirror; with ``prefix``, a rewrite that puts
    a path before every name is part of each endpoint's path (elsewhere than on K3s).
    """
    if found is None:
        return [upstream]
    spec = found["spec"]
    rewrites = spec.get("rewrites", ()) if prefix else ()
    hosts = [_asked(item, rewrites) for item in spec["endpoints"]]
    settings = spec.get("upstream", {})
    if settings.get("fallback") == "Deny":
        return hosts
    return [*hosts, _with_settings(upstream, settings)]


def _asked(item: dict[str, Any], rewrites: Sequence[dict[str, str]]) -> RegistryHost:
    scheme, _, rest = item["url"].partition("://")
    host, slash, path = rest.partition("/")
    path = "/v2" if slash + path in ("", "/", "/v2") else _path(slash + path)
    for rewrite in rewrites:
        path = _path(path + "/" + rewrite["replacement"].replace("$1", "").replace("${1}", ""))
    allowed = [name.lower() for name in item.get("capabilities", ("Pull", "Resolve"))]
    plain = RegistryHost(
        scheme,
        host,
        path,
        tuple(name for name in ("pull", "resolve") if name in allowed),
        {},
        dial_timeout=_go_duration(item.get("dialTimeout")),
    )
    return _with_settings(plain, item)


def _path(path: str) -> str:
    return "/" + posixpath.normpath(unquote(path)).strip("/")


def _with_settings(host: RegistryHost, item: dict[str, Any]) -> RegistryHost:
    tls = item.get("tls") or {}
    secret = (item.get("credentialsRef") or {}).get("name")
    return replace(
        host,
        header={"Authorization": (authorization(secret),)} if secret else {},
        cas=(CAS[tls["caRef"]["name"]],) if "caRef" in tls else (),
        certificates=(CLIENT_NAME,) if "clientCertificateRef" in tls else (),
        # containerd does not verify a registry on the node itself, unless something is said about how to.
        skip_verify=tls.get("insecureSkipVerify", False) if tls else host.skip_verify,
    )


_DURATIONS = {None: "30s", "500ms": "500ms", "5s": "5s", "90s": "1m30s", "1h2m": "1h2m0s", "1m1500ms": "1m1.5s"}
DIAL_TIMEOUTS = tuple(name for name in _DURATIONS if name)


def _go_duration(value: str | None) -> str:
    """As Go prints it; without a setting, containerd's own 30 s."""
    return _DURATIONS[value]
