"""What is wrong with the Secrets and ConfigMaps that mirrors refer to; no value of them is ever shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...api.errors import InvalidError
from ...api.models import TLS, Endpoint, Metadata, RegistryMirror, RegistryMirrorSpec, Upstream
from ..certificates import certificates, day
from ..finding import Finding
from ..resolve import Source, SourceKind, references, resolve
from .picture import Picture, mirrors_named

_SOON = 30 * 86400.0
_NAMESPACE = "registry-mirror-system"
# It does not hold any more, not yet, or not for long.
_AUTHORITY = ("AuthorityExpired", "AuthorityNotYetValid", "AuthorityExpiring")
_CLIENT = ("ClientCertificateExpired", "ClientCertificateNotYetValid", "ClientCertificateExpiring")
_Reference = tuple[SourceKind, str, str, bool]  # kind, name, key, and whether it is a CA


def readable(seen: Picture, spec: RegistryMirrorSpec) -> bool:
    """Whether all that a mirror refers to was looked at, so that it is known here what is wrong with it."""
    mirror = RegistryMirror(metadata=Metadata(), spec=spec)
    return all(key in seen.sources for key in references(mirror))


def of_references(seen: Picture) -> Iterator[Finding]:
    """Secrets and ConfigMaps that are missing or malformed, each once for all mirrors that refer to it."""
    found: dict[tuple[str, str], list[str]] = {}
    known = {key: item for key, item in seen.sources.items() if item is not None}
    for name, spec in seen.specs():
        if not readable(seen, spec):
            continue
        try:
            resolve(RegistryMirror(metadata=Metadata(name=name), spec=spec), known)
        except InvalidError as error:
            for item in dict.fromkeys((item.found, item.expected) for item in error.errors):
                found.setdefault(item, []).append(name)
    for (what, expected), names in found.items():
        missing = what.startswith("no ")
        yield Finding(
            reason="ReferenceNotFound" if missing else "ReferenceInvalid",
            severity="error",
            subject=what.removeprefix("no "),
            evidence=f"{'it does not exist' if missing else expected}{_used(names)}",
            remedy=f"{'create' if missing else 'correct'} it in the namespace {_NAMESPACE}; nothing else is needed",
        )


def _used(names: Sequence[str]) -> str:
    return f"; {mirrors_named(names)} {'refers' if len(names) == 1 else 'refer'} to it"


def of_certificates(seen: Picture) -> Iterator[Finding]:
    """CAs and client certificates that do not hold, or end soon.

    Of a CA bundle, the certificate that lasts longest counts: bundles carry old ones along.
    """
    users: dict[_Reference, list[str]] = {}
    for name, spec in seen.specs():
        for reference in _certificates_of(spec):
            names = users.setdefault(reference, [])
            if name not in names:
                names.append(name)
    for (kind, name, key, is_authority), mirrors in sorted(users.items()):
        source = seen.sources.get((kind, name))
        if source is not None and key in source.data:
            yield from _period(seen, source, key, is_authority, mirrors)


def _certificates_of(spec: RegistryMirrorSpec) -> Iterator[_Reference]:
    for tls in _tls_of(spec):
        if tls.ca_ref is not None:
            yield tls.ca_ref.kind, tls.ca_ref.name, tls.ca_ref.key, True
        if tls.client_certificate_ref is not None:
            yield "Secret", tls.client_certificate_ref.name, "tls.crt", False


def _tls_of(spec: RegistryMirrorSpec) -> Iterator[TLS]:
    parts: tuple[Endpoint | Upstream, ...] = (*spec.endpoints, spec.upstream)
    yield from (item.tls for item in parts if item.tls is not None)


def _period(seen: Picture, source: Source, key: str, is_authority: bool, mirrors: Sequence[str]) -> Iterator[Finding]:
    found = certificates(source.data[key].decode("latin-1"))
    if not found:
        return
    last = max(found, key=lambda item: item.ends) if is_authority else found[0]
    label = "the CA certificate" if is_authority else "the client certificate"
    told = f'{label} "{last.name}" in key {key}' if last.name else f"{label} in key {key}"
    expired, later, expiring = _AUTHORITY if is_authority else _CLIENT
    if last.ends <= seen.now:
        reason, verb = expired, f"ended on {day(last.ends)}"
    elif last.begins > seen.now:
        reason, verb = later, f"begins on {day(last.begins)}"
    elif last.ends <= seen.now + _SOON:
        reason, verb = expiring, f"ends on {day(last.ends)}"
    else:
        return
    yield Finding(
        reason=reason,
        severity="warning" if reason == expiring else "error",
        subject=f"{source.kind} {source.name}",
        evidence=f"{told} {verb}{_used(mirrors)}",
        remedy="renew it, and put the new one beside it or in its place: it reaches the nodes by itself",
    )
