"""RegistryMirror: what users ask for one registry, and what became of it."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from .shared import Conditions, Count, Duration, Key, LabelSelector, Metadata, Name, Spec, Status, Text, Url


class CARef(Spec, frozen=True, kw_only=True):
    """Where the PEM certificates of a CA are kept, in the operator's own namespace."""

    kind: Literal["Secret", "ConfigMap"] = "Secret"
    name: Name
    key: Key = "ca.crt"


class SecretRef(Spec, frozen=True, kw_only=True):
    """A Secret in the operator's own namespace."""

    name: Name


class TLS(Spec, frozen=True, kw_only=True):
    """How an HTTPS endpoint is verified, and which certificate the node shows it."""

    ca_ref: CARef | None = None
    client_certificate_ref: SecretRef | None = None
    insecure_skip_verify: bool = False


Capability = Literal["Pull", "Resolve"]


class Endpoint(Spec, frozen=True, kw_only=True):
    """One address at which a mirror answers."""

    url: Url
    capabilities: Annotated[tuple[Capability, ...], Meta(min_length=1, max_length=2)] = ("Pull", "Resolve")
    tls: TLS | None = None
    credentials_ref: SecretRef | None = None
    dial_timeout: Duration | None = None
    node_selector: LabelSelector | None = None


class Rewrite(Spec, frozen=True, kw_only=True):
    """A regular expression over the repository name and what replaces it."""

    pattern: Annotated[str, Meta(min_length=1, max_length=256)]
    replacement: Annotated[str, Meta(max_length=256)]


class Upstream(Spec, frozen=True, kw_only=True):
    """The registry itself: whether it may be asked when no endpoint answers, and how."""

    fallback: Literal["Allow", "Deny"] = "Allow"
    tls: TLS | None = None
    credentials_ref: SecretRef | None = None


class RegistryMirrorSpec(Spec, frozen=True, kw_only=True):
    """What a user asks for one registry."""

    registry: Annotated[str, Meta(min_length=1, max_length=255)]
    endpoints: Annotated[tuple[Endpoint, ...], Meta(max_length=16)] = ()
    rewrites: Annotated[tuple[Rewrite, ...], Meta(max_length=32)] = ()
    upstream: Upstream = Upstream()
    node_selector: LabelSelector | None = None
    priority: Annotated[int, Meta(ge=-1_000_000, le=1_000_000)] = 0


class NodeCounts(Status, frozen=True, kw_only=True, omit_defaults=False):
    """On how many nodes the object is in which state."""

    selected: Count = 0
    applied: Count = 0
    pending: Count = 0
    failed: Count = 0
    drifted: Count = 0


class NodeFailure(Status, frozen=True, kw_only=True):
    """Why the object is not in force on one node."""

    node: Name
    reason: Annotated[str, Meta(max_length=128)]
    message: Text = ""


class EndpointStatus(Status, frozen=True, kw_only=True, omit_defaults=False):
    """From how many nodes an endpoint answers."""

    url: Url
    reachable: Count = 0
    unreachable: Count = 0
    message: Text = ""


class RegistryMirrorStatus(Status, frozen=True, kw_only=True):
    """What the controller observed; counts and at most ten samples, never a list of all nodes."""

    observed_generation: Count = 0
    conditions: Conditions = ()
    nodes: NodeCounts | None = None
    failures: Annotated[tuple[NodeFailure, ...], Meta(max_length=10)] = ()
    endpoints: Annotated[tuple[EndpointStatus, ...], Meta(max_length=16)] = ()


class RegistryMirror(Status, frozen=True, kw_only=True):
    """A mirror, or the absence of one, for one registry on a set of nodes."""

    metadata: Metadata
    spec: RegistryMirrorSpec
    status: RegistryMirrorStatus = RegistryMirrorStatus()
