"""What stands for a Secret or ConfigMap that may not be read, so that all else about its mirrors can be worked out."""

from __future__ import annotations

from collections.abc import Iterable

from ..api.models import Endpoint, RegistryMirror, Upstream
from ..core.resolve import Source, SourceKind

# Nobody's: the key was never kept.
_CERTIFICATE = b"""\
-----BEGIN CERTIFICATE-----
MIIBeDCCAR2gAwIBAgIUURIIBThHZKHTFAgIPkIyP47chnIwCgYIKoZIzj0EAwIw
ETEPMA0GA1UEAwwGdW5yZWFkMB4XDTI2MTEyMTE4MDI1NVoXDTI2MTEyMjE4MDI1
NVowETEPMA0GA1UEAwwGdW5yZWFkMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE
1uak6NXduJCJnUSTIwchpEU4SN7z2aDKMQN6eKNj5Lw2vzgHeB2PDfg94lKaGYNf
7V5NxEkeKl0or7rTyW26Z6NTMFEwHQYDVR0OBBYEFMcRC8n5suH2qlzBhpN557/j
+VTzMB8GA1UdIwQYMBaAFMcRC8n5suH2qlzBhpN557/j+VTzMA8GA1UdEwEB/wQF
MAMBAf8wCgYIKoZIzj0EAwIDSQAwRgIhAMj0T6RKxnZOioWhqub+nkQnSGbML5Ef
qYJAi9G4ADvqAiEA/QudjiHmnqwO3gl5zmSkXFanpxnku6BxrNeeOLJCaE4=
-----END CERTIFICATE-----
"""
# An empty sequence: whole, as far as anybody looks.
_KEY = b"-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n"


def stand_in(kind: SourceKind, name: str, mirrors: Iterable[RegistryMirror]) -> Source:
    """Give something with every key that the mirrors look for in it."""
    data = {"username": b"unread", "password": b"unread", "tls.crt": _CERTIFICATE, "tls.key": _KEY}
    for mirror in mirrors:
        parts: tuple[Endpoint | Upstream, ...] = (*mirror.spec.endpoints, mirror.spec.upstream)
        for part in parts:
            found = part.tls.ca_ref if part.tls is not None else None
            if found is not None and (found.kind, found.name) == (kind, name):
                data[found.key] = _CERTIFICATE
    return Source(kind=kind, name=name, data=data)
