"""What of a mirror CRI-O cannot do, whatever the other mirrors are."""

from __future__ import annotations

from collections.abc import Iterator

from ...api.models import RuntimeFacts
from .. import versions
from ..bundle import MirrorProblem
from ..resolve import ResolvedMirror
from .containerd import added_prefix
from .crio_source import location


def within(place: str, registry: str) -> bool:
    """Tell whether a registry's table holds for a location (sysregistriesv2, refMatchingPrefix, the colon included)."""
    return place == registry or place.startswith((f"{registry}/", f"{registry}:"))


def unsupported(facts: RuntimeFacts, mirror: ResolvedMirror) -> Iterator[MirrorProblem]:
    """Say what cannot be said in registries.conf; nothing is dropped silently."""
    for reason, text in (*_shape(mirror), *_endpoints(facts, mirror)):
        yield MirrorProblem(mirror.name, reason, text)


def _shape(mirror: ResolvedMirror) -> Iterator[tuple[str, str]]:
    if mirror.registry == "*":
        yield "WildcardUnsupported", 'CRI-O has no default for every registry ("*"): name the registries'
    if mirror.deny_fallback and not mirror.endpoints:
        yield "DenyNeedsEndpoint", "upstream.fallback: Deny has no effect without an endpoint: add one"
    if mirror.rewrites and (len(mirror.rewrites) > 1 or added_prefix(mirror.rewrites[0]) is None):
        yield (
            "RewriteUnsupported",
            "only K3s and RKE2 rewrite names by pattern; CRI-O can only put a fixed path before every name "
            "(pattern ^(.*)$, replacement path/$1): exclude these nodes with nodeSelector, or arrange the mirror like "
            "the registry",
        )
    if mirror.upstream_credentials is not None or any(item.credentials is not None for item in mirror.endpoints):
        yield (
            "CredentialsUnsupported",
            "this version of the operator writes no credentials for CRI-O, which reads them from its global_auth_file: "
            "exclude these nodes with nodeSelector",
        )


def _endpoints(facts: RuntimeFacts, mirror: ResolvedMirror) -> Iterator[tuple[str, str]]:
    for endpoint in mirror.endpoints:
        if location(endpoint, "".join(added_prefix(item) or "" for item in mirror.rewrites).strip("/")) is None:
            yield (
                "EndpointUnsupported",
                f"CRI-O asks for names under /v2/ only, in lower case, and of no IPv6 address: {endpoint.url} cannot "
                "be said in registries.conf",
            )
        if "Pull" not in endpoint.capabilities:
            yield (
                "CapabilitiesUnsupported",
                f"CRI-O pulls from where it resolves a tag: add Pull to the capabilities of {endpoint.url}",
            )
        # The key came with containers/image 5.21 and so with CRI-O 1.25 (their go.mod); an older one ignores it.
        elif "Resolve" not in endpoint.capabilities and versions.known_below(facts.version, 1, 25):
            yield (
                "CapabilitiesUnsupported",
                f"CRI-O {facts.version} always resolves tags at a mirror (1.25 is the first that need not): add "
                f"Resolve to the capabilities of {endpoint.url}",
            )
