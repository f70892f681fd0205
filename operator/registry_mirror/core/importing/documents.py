"""From drafts to Kubernetes documents: RegistryMirrors, and the Secrets and ConfigMaps that they refer to.

Everything made here is parsed by the API's own reader before it is given back: what it would refuse is an error that
names the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ...api import parse
from ...api.errors import InvalidError
from ...api.models import API_VERSION, RegistryMirror
from ..material import Credentials
from ..resolve import ResolvedMirror, Source, SourceKind, resolve, source
from .draft import TLS, Draft, Pem

_MAX_NAME = 200
_OTHER = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True, slots=True)
class Document:
    """One object, and what a person must see about it."""

    body: dict[str, Any]
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Document({self.body['kind']} {self.body['metadata']['name']})"


class Objects:
    """Collects documents: one for each distinct content, each with a name of its own."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._names: set[tuple[str, str]] = set()
        self._by_content: dict[tuple[str, ...], str] = {}
        self.materials: list[Document] = []
        self.mirrors: list[Document] = []
        self.missing = False

    def mirror(self, draft: Draft) -> None:
        """Add the RegistryMirror of a draft; raises InvalidError if it cannot be one."""
        notes = list(draft.notes)
        slug = slug_of(draft.registry)
        endpoints = []
        for item in draft.endpoints:
            host = slug_of(item.url.partition("://")[2].partition("/")[0])
            found: dict[str, Any] = {"url": item.url}
            if len(item.capabilities) != 2:
                found["capabilities"] = list(item.capabilities)
            found.update(self._access(item.tls, item.credentials, host, notes))
            if item.dial_timeout:
                found["dialTimeout"] = item.dial_timeout
            endpoints.append(found)
        spec: dict[str, Any] = {"registry": draft.registry}
        if endpoints:
            spec["endpoints"] = endpoints
        if draft.rewrites:
            spec["rewrites"] = [{"pattern": key, "replacement": value} for key, value in draft.rewrites.items()]
        upstream: dict[str, Any] = {"fallback": "Deny"} if draft.deny else {}
        upstream.update(self._access(draft.tls, draft.credentials, slug, notes))
        if upstream:
            spec["upstream"] = upstream
        name = self._name("RegistryMirror", slug)
        body = {"apiVersion": API_VERSION, "kind": "RegistryMirror", "metadata": {"name": name}, "spec": spec}
        try:
            parse.registry_mirror(body)
        except InvalidError as error:
            raise InvalidError(draft.origin, error.errors, "InvalidFile") from None
        self.mirrors.append(Document(body, tuple(dict.fromkeys(notes))))

    def _access(self, tls: TLS | None, credentials: Credentials | None, slug: str, notes: list[str]) -> dict[str, Any]:
        """The fields ``tls`` and ``credentialsRef`` of an endpoint or of ``upstream``."""
        result: dict[str, Any] = {}
        settings: dict[str, Any] = {}
        if tls is not None and tls.ca is not None:
            settings["caRef"] = {"kind": "ConfigMap", "name": self._pem("ConfigMap", f"{slug}-ca", tls.ca, notes)}
        if tls is not None and tls.client is not None:
            settings["clientCertificateRef"] = {"name": self._pem("Secret", f"{slug}-client", tls.client, notes)}
        if tls is not None and tls.skip_verify:
            settings["insecureSkipVerify"] = True
        if settings:
            result["tls"] = settings
        if credentials is not None:
            data = {"username": credentials.username, "password": credentials.password}
            kind = "kubernetes.io/basic-auth"
            if credentials.identity_token:
                data, kind = {"token": credentials.identity_token}, "Opaque"
            result["credentialsRef"] = {"name": self._material("Secret", f"{slug}-credentials", kind, data)}
        return result

    def _pem(self, kind: SourceKind, name: str, pem: Pem, notes: list[str]) -> str:
        keys = ("ca.crt",) if kind == "ConfigMap" else ("tls.crt", "tls.key")
        if pem.texts:
            return self._material(kind, name, "kubernetes.io/tls", dict(zip(keys, pem.texts, strict=True)))
        self.missing = True
        content = (kind, "missing", pem.origin)
        if content not in self._by_content:
            self._by_content[content] = self._name(kind, name)
        found = self._by_content[content]
        notes.append(
            f"{kind} {found} is missing, because a file could not be read ({pem.problem}): create it in the namespace "
            f"{self._namespace} with {' and '.join(keys)}"
        )
        return found

    def _material(self, kind: SourceKind, name: str, type_: str, data: dict[str, str]) -> str:
        content = (kind, type_, *(part for item in data.items() for part in item))
        if content not in self._by_content:
            self._by_content[content] = name = self._name(kind, name)
            body: dict[str, Any] = {"apiVersion": "v1", "kind": kind}
            body["metadata"] = {"name": name, "namespace": self._namespace}
            if kind == "Secret":
                body["type"] = type_
            body["data" if kind == "ConfigMap" else "stringData"] = data
            self.materials.append(Document(body))
        return self._by_content[content]

    def _name(self, kind: str, wanted: str) -> str:
        number, name = 1, wanted
        while (kind, name) in self._names:
            number += 1
            name = f"{wanted}-{number}"
        self._names.add((kind, name))
        return name

    def resolved(self) -> list[ResolvedMirror]:
        """The mirrors as rendering takes them; only if nothing is missing."""
        sources = {(item.kind, item.name): item for item in self._sources()}
        return [resolve(parsed(document), sources) for document in self.mirrors]

    def _sources(self) -> Iterable[Source]:
        return (source(document.body) for document in self.materials)


def parsed(document: Document) -> RegistryMirror:
    """The model of a RegistryMirror document."""
    return parse.registry_mirror(document.body)


def slug_of(host: str) -> str:
    """A name for a host that Kubernetes takes: docker.io is docker-io."""
    if host == "*":
        return "default-mirror"
    return _OTHER.sub("-", host.lower()).strip("-")[:_MAX_NAME].strip("-") or "registry"
