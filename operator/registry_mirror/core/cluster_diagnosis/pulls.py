"""Which registries Pods pull from, and whether a pull secret is for one: as the kubelet sees it, without values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatch

import msgspec

HUB = frozenset({"docker.io", "registry-1.docker.io", "index.docker.io"})
_JSON, _OLD = ".dockerconfigjson", ".dockercfg"


def registry_of(image: str) -> str:
    """Give the registry of an image as a Pod names it (distribution/reference: splitDockerDomain)."""
    first, slash, _ = image.partition("/")
    if not slash or not (first == "localhost" or any(char in first for char in ".:")):
        return "docker.io"
    return "docker.io" if first in HUB else first


def hosts_of(data: Mapping[str, bytes]) -> tuple[str, ...]:
    """Name the hosts in a Secret of type dockerconfigjson or dockercfg, as they stand there; nothing if it is none."""
    raw = data.get(_JSON) or data.get(_OLD) or b""
    try:
        found = msgspec.json.decode(raw)
        entries = found["auths"] if _JSON in data else found
        return tuple(str(key) for key in entries)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError):
        return ()


def has_entry(hosts: Iterable[str], registry: str) -> bool:
    """Whether one of those is for a registry (k8s.io/kubernetes pkg/credentialprovider keyring.go: scheme and path do
    not count for the host, and it may have stars).
    """
    names = HUB if registry in HUB else {registry}
    return any(fnmatch(name, _host(key)) for key in hosts for name in names)


def _host(key: str) -> str:
    return key.removeprefix("https://").removeprefix("http://").partition("/")[0]


def pulls(pods: Iterable[Mapping[str, object]]) -> Iterator[tuple[str, str, str]]:
    """Give namespace, pull secret and registry for the Pods that have not ended; without a pull secret, it is empty. A
    ServiceAccount's pull secrets are in its Pods: the API server puts them there.
    """
    for body in pods:
        pod = msgspec.convert(body, _Pod)
        if pod.status.phase in ("Succeeded", "Failed"):
            continue
        containers = (*pod.spec.init_containers, *pod.spec.containers)
        for secret in pod.spec.image_pull_secrets or (_Part(),):
            for item in containers:
                yield pod.metadata.namespace, secret.name, registry_of(item.image)


class _Part(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    image: str = ""
    namespace: str = ""
    phase: str = ""


class _Spec(msgspec.Struct, frozen=True, rename="camel"):
    containers: tuple[_Part, ...] = ()
    init_containers: tuple[_Part, ...] = ()
    image_pull_secrets: tuple[_Part, ...] = ()


class _Pod(msgspec.Struct, frozen=True, rename="camel"):
    metadata: _Part = _Part()
    spec: _Spec = _Spec()
    status: _Part = _Part()
