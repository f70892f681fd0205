"""A RegistryMirror with its references filled in: what rendering works on, and what is kept as last good.

Everything that can be wrong with a Secret or a ConfigMap is found here, before a file is rendered: containerd fails a
whole pull, fallback included, on a CA file that it cannot parse (runtimes.md, trap 1).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from msgspec import Struct

from ..api.errors import FieldError, InvalidError
from ..api.models import TLS, Capability, CARef, Endpoint, LabelSelector, RegistryMirror, Rewrite, SecretRef, Upstream
from ..api.parse import subject_of
from .material import Credentials as Credentials, checked_pem, credentials

SourceKind = Literal["Secret", "ConfigMap"]


class Source(Struct, frozen=True, kw_only=True):
    """A Secret or ConfigMap that an object refers to; the values are decoded bytes."""

    kind: SourceKind
    name: str
    data: dict[str, bytes]

    def __repr__(self) -> str:
        return f"Source({self.kind} {self.name}, keys={sorted(self.data)})"


Sources = Mapping[tuple[SourceKind, str], Source]


def source(body: Any) -> Source:
    """Read a Secret or ConfigMap document as the API server gives it, or as a user writes it (``stringData``).

    Raises InvalidError for a value that is not text, or not base64 where it has to be; never with the value.
    """
    if not isinstance(body, Mapping):
        raise InvalidError(
            subject_of(body), (FieldError("", "", "write an object with apiVersion, kind and metadata"),)
        )
    kind: SourceKind = "Secret" if body.get("kind") == "Secret" else "ConfigMap"
    subject = subject_of(body, kind)
    metadata = body.get("metadata")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    if not isinstance(name, str) or not name:
        raise InvalidError(subject, (FieldError("metadata.name", "", "give the object a name"),))
    encoded = "data" if kind == "Secret" else "binaryData"
    plain = "stringData" if kind == "Secret" else "data"
    data: dict[str, bytes] = {}
    for section in (encoded, plain):
        values = body.get(section) or {}
        if not isinstance(values, Mapping):
            raise InvalidError(subject, (FieldError(section, "", "write keys and values"),))
        for key, value in values.items():
            try:
                data[str(key)] = _decoded(value) if section == encoded else value.encode()
            except (binascii.Error, TypeError, ValueError, AttributeError):
                form = "base64" if section == encoded else "text (in quotes)"
                raise InvalidError(subject, (FieldError(f"{section}.{key}", "", f"write {form}"),)) from None
    return Source(kind=kind, name=name, data=data)


def _decoded(value: Any) -> bytes:
    """Decode base64 as the API server does: line breaks do not count, anything else has to be right."""
    return base64.b64decode(value.replace("\n", "").replace("\r", ""), validate=True)


class ResolvedTLS(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """TLS settings with the PEM texts themselves."""

    ca: str = ""
    certificate: str = ""
    key: str = ""
    insecure_skip_verify: bool = False

    def __repr__(self) -> str:
        return f"ResolvedTLS(ca={bool(self.ca)}, certificate={bool(self.certificate)}, key=***)"


class ResolvedEndpoint(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An endpoint with nothing left to look up."""

    url: str
    capabilities: tuple[Capability, ...] = ("Pull", "Resolve")
    tls: ResolvedTLS | None = None
    credentials: Credentials | None = None
    dial_timeout: str | None = None
    node_selector: LabelSelector | None = None


class ResolvedMirror(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A RegistryMirror with nothing left to look up."""

    name: str
    uid: str = ""
    generation: int = 0
    created: str = ""
    registry: str
    priority: int = 0
    node_selector: LabelSelector | None = None
    endpoints: tuple[ResolvedEndpoint, ...] = ()
    rewrites: tuple[Rewrite, ...] = ()
    deny_fallback: bool = False
    upstream_tls: ResolvedTLS | None = None
    upstream_credentials: Credentials | None = None


def resolve(mirror: RegistryMirror, sources: Sources) -> ResolvedMirror:
    """Fill in the references of a mirror.

    Takes the mirror and every Secret and ConfigMap that may be referred to, by kind and name. Raises InvalidError that
    names each reference that is missing or malformed; its reason is ``ReferenceNotFound`` if all that is wrong is that
    something does not exist (yet), else ``ReferenceInvalid``.
    """
    resolver = _Resolver(sources)
    spec = mirror.spec
    endpoints = tuple(
        resolver.endpoint(endpoint, f"spec.endpoints[{index}]") for index, endpoint in enumerate(spec.endpoints)
    )
    upstream_tls = resolver.tls(spec.upstream.tls, "spec.upstream.tls")
    upstream_host = "registry-1.docker.io" if spec.registry == "docker.io" else spec.registry
    upstream_credentials = resolver.credentials(
        spec.upstream.credentials_ref, upstream_host, "spec.upstream.credentialsRef"
    )
    if resolver.errors:
        reason = "ReferenceInvalid" if resolver.malformed else "ReferenceNotFound"
        raise InvalidError(f"RegistryMirror {mirror.metadata.name}", tuple(resolver.errors), reason)
    return ResolvedMirror(
        name=mirror.metadata.name,
        uid=mirror.metadata.uid,
        generation=mirror.metadata.generation,
        created=mirror.metadata.creation_timestamp,
        registry=spec.registry,
        priority=spec.priority,
        node_selector=spec.node_selector,
        endpoints=endpoints,
        rewrites=spec.rewrites,
        deny_fallback=spec.upstream.fallback == "Deny",
        upstream_tls=upstream_tls,
        upstream_credentials=upstream_credentials,
    )


def references(mirror: RegistryMirror) -> Iterator[tuple[SourceKind, str]]:
    """Name every Secret and ConfigMap that the mirror refers to."""
    parts: tuple[Endpoint | Upstream, ...] = (*mirror.spec.endpoints, mirror.spec.upstream)
    for part in parts:
        if part.credentials_ref is not None:
            yield "Secret", part.credentials_ref.name
        if part.tls is not None and part.tls.ca_ref is not None:
            yield part.tls.ca_ref.kind, part.tls.ca_ref.name
        if part.tls is not None and part.tls.client_certificate_ref is not None:
            yield "Secret", part.tls.client_certificate_ref.name


class _Resolver:
    """Collects what is wrong while it looks things up, so that a user sees everything at once."""

    def __init__(self, sources: Sources) -> None:
        self.sources = sources
        self.errors: list[FieldError] = []
        self.malformed = False

    def endpoint(self, endpoint: Endpoint, path: str) -> ResolvedEndpoint:
        host = endpoint.url.partition("://")[2].partition("/")[0]
        return ResolvedEndpoint(
            url=endpoint.url,
            capabilities=endpoint.capabilities,
            tls=self.tls(endpoint.tls, f"{path}.tls"),
            credentials=self.credentials(endpoint.credentials_ref, host, f"{path}.credentialsRef"),
            dial_timeout=endpoint.dial_timeout,
            node_selector=endpoint.node_selector,
        )

    def tls(self, tls: TLS | None, path: str) -> ResolvedTLS | None:
        if tls is None or tls == TLS():
            return None
        certificate, key = self._client(tls.client_certificate_ref, f"{path}.clientCertificateRef")
        return ResolvedTLS(
            ca=self._ca(tls.ca_ref, f"{path}.caRef"),
            certificate=certificate,
            key=key,
            insecure_skip_verify=tls.insecure_skip_verify,
        )

    def credentials(self, ref: SecretRef | None, host: str, path: str) -> Credentials | None:
        source = self._source("Secret", ref.name, path) if ref is not None else None
        if source is None:
            return None
        try:
            return credentials(source.data, host)
        except ValueError as error:
            self._wrong(path, f"Secret {source.name}", str(error))
            return None

    def _ca(self, ref: CARef | None, path: str) -> str:
        source = self._source(ref.kind, ref.name, path) if ref is not None else None
        if ref is None or source is None:
            return ""
        return self._pem(source, ref.key, "CERTIFICATE", path)

    def _client(self, ref: SecretRef | None, path: str) -> tuple[str, str]:
        source = self._source("Secret", ref.name, path) if ref is not None else None
        if source is None:
            return "", ""
        return (
            self._pem(source, "tls.crt", "CERTIFICATE", path),
            self._pem(source, "tls.key", "PRIVATE KEY", path),
        )

    def _source(self, kind: SourceKind, name: str, path: str) -> Source | None:
        source = self.sources.get((kind, name))
        if source is None:
            self.errors.append(
                FieldError(f"{path}.name", f"no {kind} {name}", "create it in the namespace of the operator")
            )
        return source

    def _pem(self, source: Source, key: str, label: str, path: str) -> str:
        subject = f"{source.kind} {source.name}"
        if key not in source.data:
            self._wrong(path, subject, f"it has no key {key}: it has {', '.join(sorted(source.data)) or 'none'}")
            return ""
        try:
            return checked_pem(source.data[key], label)
        except ValueError as error:
            self._wrong(path, f"{subject}, key {key}", str(error))
            return ""

    def _wrong(self, path: str, subject: str, expected: str) -> None:
        self.malformed = True
        self.errors.append(FieldError(path, subject, expected))
