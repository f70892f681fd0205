"""The endpoints of the files: how they are asked, and what their answers mean for the pulls of this node."""

from __future__ import annotations

import ipaddress
import posixpath
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import urlsplit

from msgspec import Struct

from ...api import grammar
from .. import upstream
from ..finding import Finding
from ..material import Credentials, checked_pem
from ..probing import MAX_TARGETS, Target
from ..resolve import ResolvedTLS
from . import certs, crio, registries
from .evidence import Asked, File, Node
from .text import finding
from .tls import Named

_UPSTREAM = "the registry itself is asked next, after this one has failed"
# What the runtime's way to an endpoint came to (agent/exchange.py, core/answers.py), and what to do about it.
_REMEDIES: Mapping[str, str] = {
    "NameNotResolved": "correct the name, or the node's DNS (/etc/resolv.conf)",
    "ConnectionRefused": "start it, or correct the port",
    "ConnectionFailed": "look at the node's routes, and at the log of the endpoint",
    "TimedOut": "restart or remove it: every pull waits 30 s for each request to it (containerd #10624)",
    "ProxyFailed": "correct the proxy in the environment of the runtime's service, or add the host to NO_PROXY",
    "CertificateExpired": "renew its certificate, and check the node's clock",
    "HostnameMismatch": "use a name that its certificate has, or issue another one",
    "CertificateNotTrusted": "name the CA that signed its certificate: ca in hosts.toml, ca_file in registries.yaml",
    "ClientCertificateRefused": "name a client certificate that it takes: client in hosts.toml, cert_file and key_file "
    "in registries.yaml",
    "TLSFailed": "write http:// if it speaks no TLS, else look at its TLS settings",
    "NotARegistry": "correct scheme, host, port and path",
    "ServerError": "look at its own log",
    "Unauthorized": "correct the credentials that the file has for it",
    "TokenRefused": "look at the log of its token service",
}
_INTERNAL = (".local", ".internal", ".lan", ".home", ".corp", ".intranet", ".svc", ".cluster.local", ".home.arpa")


class Endpoint(Struct, frozen=True, kw_only=True):
    """An endpoint to be asked, and the file and line that names it."""

    target: Target
    where: str


def named(read: certs.Read, found: registries.Registries) -> Iterator[Named]:
    """Give the TLS files that the settings name, paths absolute."""
    for registry in read.registries:
        folder = posixpath.dirname(registry.path)
        for host in registry.hosts:
            if host.cas or host.clients:
                where = f"{registry.path}:{host.line}" if host.line else registry.path
                cas = tuple(posixpath.join(folder, path) for path in host.cas)
                clients = tuple((posixpath.join(folder, a), posixpath.join(folder, b)) for a, b in host.clients)
                yield Named(where=where, cas=cas, clients=clients)
    yield from found.named


def endpoints(node: Node, read: certs.Read, found: registries.Registries) -> tuple[Endpoint, ...]:
    """Give the endpoints, each once. Those of registries.yaml are in hosts.toml too, once K3s has started.

    A registry that is listed as an endpoint of its own is none: that it cannot be reached may be why there are others.
    """
    items: dict[str, Endpoint] = {}
    for registry in read.registries:
        folder = posixpath.dirname(registry.path)
        for host in registry.hosts:
            if _is_own(registry.name, host.url):
                continue
            tls = _tls(
                node,
                tuple(posixpath.join(folder, path) for path in host.cas),
                tuple((posixpath.join(folder, a), posixpath.join(folder, b)) for a, b in host.clients),
                host.skip_verify,
            )
            credentials = host.credentials or _by_host(found.credentials, host.url)
            place = f"{registry.path}:{host.line}" if host.line else registry.path
            _add(items, host.url, tls, credentials, place)
    file = node.facts.registries_file if node.facts is not None else ""
    for item in found.endpoints:
        if _is_own(item.registry, item.url):
            continue
        tls = _tls(node, item.named.cas, item.named.clients, item.skip_verify)
        _add(items, item.url, tls, item.credentials, f"{file}, {item.place}")
    for path, entry in crio.endpoints(node):
        skip = entry.tls is not None and entry.tls.skip_verify
        _add(items, entry.url, ResolvedTLS(insecure_skip_verify=True) if skip else None, None, path)
    return tuple(items.values())[:MAX_TARGETS]


def _is_own(registry: str, url: str) -> bool:
    return urlsplit(url).netloc in (registry, upstream.default_host(registry))


def _add(
    items: dict[str, Endpoint], url: str, tls: ResolvedTLS | None, credentials: Credentials | None, where: str
) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or grammar.host_port_problem(parts.netloc):
        return
    shown = url.removesuffix("/v2") if parts.path == "/v2" else url
    target = Target(url=shown, tls=None if parts.scheme == "http" else tls, credentials=credentials)
    items.setdefault(shown, Endpoint(target=target, where=where))


def _by_host(known: Mapping[str, Credentials], url: str) -> Credentials | None:
    host = urlsplit(url).netloc
    return known.get(host) or (known.get("docker.io") if host == "registry-1.docker.io" else None)


def _tls(
    node: Node, cas: tuple[str, ...], clients: tuple[tuple[str, str], ...], skip_verify: bool
) -> ResolvedTLS | None:
    """Give the settings with the texts of the files; what is wrong with those is said elsewhere."""
    ca = "".join(_pem(node.tls.get(path), "CERTIFICATE") for path in cas)
    certificate, key = "", ""
    if clients and clients[0] not in node.mismatched:
        certificate = _pem(node.tls.get(clients[0][0]), "CERTIFICATE")
        key = _pem(node.tls.get(clients[0][1]), "PRIVATE KEY")
    both = bool(certificate and key)
    found = ResolvedTLS(
        ca=ca, certificate=certificate if both else "", key=key if both else "", insecure_skip_verify=skip_verify
    )
    return None if found == ResolvedTLS() else found


def _pem(file: File | None, label: str) -> str:
    try:
        return checked_pem((file.text or "").encode(), label) if file is not None else ""
    except ValueError:
        return ""


def broken(endpoint: Endpoint, wrong: Iterable[str], items: Iterable[Named]) -> bool:
    """Tell whether a file that an endpoint's settings name is wrong: asking it without would tell nothing."""
    bad = set(wrong)
    place = endpoint.where.partition(", ")[0]
    return any(
        bad.intersection((*item.cas, *(path for pair in item.clients for path in pair)))
        for item in items
        if item.where.startswith(place)
    )


def check(found: Iterable[Endpoint], answers: Mapping[str, Asked]) -> Iterator[Finding]:
    """Say what is wrong with the endpoints that were asked."""
    for item in found:
        asked = answers.get(item.target.url)
        if asked is None:
            continue
        if asked.proxy and (not asked.reachable or _is_internal(item.target.url)):
            host = urlsplit(item.target.url).hostname or ""
            evidence = f"{item.where}: the runtime goes to it through the proxy {asked.proxy}"
            remedy = f"add {host} to NO_PROXY in the environment of the runtime's service, and restart that"
            yield finding("warning", "ProxyCatchesMirror", item.target.url, evidence, remedy)
        if asked.reachable and "without credentials" in asked.message:
            evidence = f"{item.where}: {asked.message.partition(': ')[0]}"
            remedy = "give the endpoint credentials, unless every Pod that uses it has imagePullSecrets"
            yield finding("warning", "CredentialsMissing", item.target.url, evidence, remedy)
        elif not asked.reachable:
            evidence = f"{item.where}: {asked.message.partition(': ')[0]}; {_UPSTREAM}"
            remedy = _REMEDIES.get(asked.reason, "look at its own log")
            yield finding("error", asked.reason, item.target.url, evidence, remedy)


def _is_internal(url: str) -> bool:
    """Tell whether a proxy has hardly been meant for a host."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith(_INTERNAL)
