"""The three kinds as frozen, typed models; crds/ says the same as schemas and a test walks both side by side.

Users' specs refuse unknown fields (a typo must not be silently ignored offline either); status and metadata tolerate
them, because during an upgrade an older reader meets a newer writer.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from .conditions import Condition

GROUP = "registrymirror.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

Name = Annotated[str, Meta(min_length=1, max_length=253)]
Key = Annotated[str, Meta(min_length=1, max_length=253)]
Url = Annotated[str, Meta(min_length=1, max_length=1024)]
Duration = Annotated[str, Meta(min_length=1, max_length=32)]
Label = Annotated[str, Meta(max_length=317)]
Count = Annotated[int, Meta(ge=0)]
HostPath = Annotated[str, Meta(max_length=1024)]
Text = Annotated[str, Meta(max_length=1024)]


class Spec(Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """Base of what users write: unknown fields are an error."""


class Status(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Base of what the program writes: unknown fields are tolerated."""


# ---- shared --------------------------------------------------------------------------------------------------------


class OwnerReference(Status, frozen=True, kw_only=True):
    """The part of metav1.OwnerReference that is read here."""

    kind: str = ""
    name: str = ""
    uid: str = ""


class Metadata(Status, frozen=True, kw_only=True):
    """The part of metav1.ObjectMeta that is read here."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    creation_timestamp: str = ""
    deletion_timestamp: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    owner_references: tuple[OwnerReference, ...] = ()


class LabelSelectorRequirement(Spec, frozen=True, kw_only=True):
    """metav1.LabelSelectorRequirement."""

    key: Label
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: Annotated[tuple[Annotated[str, Meta(max_length=63)], ...], Meta(max_length=64)] = ()


class LabelSelector(Spec, frozen=True, kw_only=True):
    """metav1.LabelSelector: all of it must match; an empty one matches every node."""

    match_labels: Annotated[dict[str, Annotated[str, Meta(max_length=63)]], Meta(max_length=64)] = field(
        default_factory=dict
    )
    match_expressions: Annotated[tuple[LabelSelectorRequirement, ...], Meta(max_length=16)] = ()


# ---- RegistryMirror ------------------------------------------------------------------------------------------------


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


Conditions = Annotated[tuple[Condition, ...], Meta(max_length=16)]


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


# ---- RegistryMirrorPolicy ------------------------------------------------------------------------------------------


class MaintenanceWindow(Spec, frozen=True, kw_only=True):
    """A recurring span of time in which restarts may happen."""

    schedule: Annotated[str, Meta(min_length=9, max_length=128)]
    duration: Duration
    time_zone: Annotated[str, Meta(min_length=1, max_length=64)] = "UTC"


class Canary(Spec, frozen=True, kw_only=True):
    """The nodes that a change reaches first, and how long they are watched."""

    nodes: Count = 1
    soak: Duration = "30s"


class Rollout(Spec, frozen=True, kw_only=True):
    """How a change that takes a restart moves through the cluster."""

    max_unavailable: int | str = 1
    canary: Canary = Canary()
    paused: bool = False
    restart: Literal["WhenRequired", "Never"] = "WhenRequired"
    windows: Annotated[tuple[MaintenanceWindow, ...], Meta(max_length=16)] = ()
    deadline: Duration = "120s"


ProbeMode = Literal["Off", "Report", "Demote"]


class Probe(Spec, frozen=True, kw_only=True):
    """Whether and how nodes test the endpoints."""

    mode: ProbeMode = "Report"
    interval: Duration = "60s"
    image: Annotated[str, Meta(max_length=512)] | None = None


class RegistryMirrorPolicySpec(Spec, frozen=True, kw_only=True):
    """Cluster-wide rules; an absent object means these defaults."""

    rollout: Rollout = Rollout()
    drift: Literal["Repair", "Report"] = "Repair"
    startup_taint: bool = False
    probe: Probe = Probe()


class RegistryMirrorPolicyStatus(Status, frozen=True, kw_only=True):
    """What the controller observed of the policy."""

    observed_generation: Count = 0
    conditions: Conditions = ()


class RegistryMirrorPolicy(Status, frozen=True, kw_only=True):
    """The one policy object, named ``default``."""

    metadata: Metadata
    spec: RegistryMirrorPolicySpec = RegistryMirrorPolicySpec()
    status: RegistryMirrorPolicyStatus = RegistryMirrorPolicyStatus()


# ---- NodeRegistryConfig --------------------------------------------------------------------------------------------

RuntimeName = Literal["k3s", "rke2", "microk8s", "containerd", "k0s", "crio"]


class EmbeddedRegistry(Status, frozen=True, kw_only=True):
    """The registry that K3s or RKE2 embeds, as its own hosts.toml names it."""

    address: Annotated[str, Meta(max_length=255)]
    ca_file: HostPath = ""
    cert_file: HostPath = ""
    key_file: HostPath = ""


class RuntimeFacts(Status, frozen=True, kw_only=True):
    """What the agent found on its node; rendering depends on nothing else of the node."""

    name: RuntimeName
    version: Annotated[str, Meta(max_length=128)] = ""
    containerd_version: Annotated[str, Meta(max_length=128)] = ""
    config_path: HostPath = ""
    config_file: HostPath = ""
    config_schema: int = 0
    config_managed: bool = False
    reloads_registries: bool = False
    registries_file: HostPath = ""
    disable_default_endpoint: bool = False
    embedded_registry: EmbeddedRegistry | None = None


class BundleRef(Status, frozen=True, kw_only=True):
    """The Secret in the bundle namespace that holds the files of a revision."""

    name: Name


class NodeProbe(Status, frozen=True, kw_only=True):
    """How the node tests the endpoints: spec.probe of the policy, which an agent may not read."""

    mode: ProbeMode
    interval: Duration
    image: Annotated[str, Meta(max_length=512)] = ""


class NodeRegistryConfigSpec(Status, frozen=True, kw_only=True):
    """What one node is to have; written by the controller only."""

    revision: Annotated[str, Meta(max_length=64)] = ""
    bundle: BundleRef | None = None
    restart_allowed: bool = False
    restart_deadline: Duration | None = None
    keep_drift: bool = False
    probe: NodeProbe | None = None


class FileStatus(Status, frozen=True, kw_only=True):
    """A file that the agent wrote and found unchanged; the digest is keyed and tells nothing about the content."""

    path: HostPath
    digest: Annotated[str, Meta(max_length=64)]


class RestartStatus(Status, frozen=True, kw_only=True):
    """The restart of the runtime that is going on, or else the last one; ``log`` has the runtime's last lines."""

    revision: Annotated[str, Meta(max_length=64)]
    started_at: Annotated[str, Meta(max_length=64)]
    finished_at: Annotated[str, Meta(max_length=64)] = ""
    result: Literal["InProgress", "Succeeded", "RolledBack", "RollbackFailed"]
    message: Text = ""
    log: Annotated[tuple[Text, ...], Meta(max_length=20)] = ()


class EndpointResult(Status, frozen=True, kw_only=True):
    """Whether an endpoint answers this node as a registry does; the latency is that of an answer."""

    url: Url
    reachable: bool
    reason: Annotated[str, Meta(max_length=128)]
    message: Annotated[str, Meta(max_length=256)] = ""
    latency: Annotated[str, Meta(max_length=32)] = ""


class NodeRegistryConfigStatus(Status, frozen=True, kw_only=True):
    """What one node has; written by its agent only."""

    observed_generation: Count = 0
    applied_revision: Annotated[str, Meta(max_length=64)] = ""
    last_good_revision: Annotated[str, Meta(max_length=64)] = ""
    agent_version: Annotated[str, Meta(max_length=64)] = ""
    runtime: RuntimeFacts | None = None
    files: Annotated[tuple[FileStatus, ...], Meta(max_length=2048)] = ()
    waiting_for_restart: Annotated[tuple[Text, ...], Meta(max_length=512)] = ()
    restart: RestartStatus | None = None
    endpoints: Annotated[tuple[EndpointResult, ...], Meta(max_length=256)] = ()
    conditions: Conditions = ()


class NodeRegistryConfig(Status, frozen=True, kw_only=True):
    """The meeting point of controller and agent for one node, named as the node and owned by it."""

    metadata: Metadata
    spec: NodeRegistryConfigSpec = NodeRegistryConfigSpec()
    status: NodeRegistryConfigStatus = NodeRegistryConfigStatus()
