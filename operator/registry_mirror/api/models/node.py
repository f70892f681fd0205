"""NodeRegistryConfig: what one node is to have, and what it has."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from .policy import ProbeMode
from .shared import Conditions, Count, Duration, HostPath, Metadata, Name, Status, Text, Url

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
    """What one node has; written by its agent only.

    The files themselves are not listed: with 200 mirrors their paths and digests were nine tenths of the object, and
    the API server took three times as long for each write of it. ``applied_revision`` is the digest of them all.
    ``file_count`` is written even if it is 0, for people who wait for that.
    """

    observed_generation: Count = 0
    applied_revision: Annotated[str, Meta(max_length=64)] = ""
    last_good_revision: Annotated[str, Meta(max_length=64)] = ""
    agent_version: Annotated[str, Meta(max_length=64)] = ""
    runtime: RuntimeFacts | None = None
    file_count: Count | None = None
    waiting_for_restart: Annotated[tuple[Text, ...], Meta(max_length=512)] = ()
    restart: RestartStatus | None = None
    endpoints: Annotated[tuple[EndpointResult, ...], Meta(max_length=256)] = ()
    conditions: Conditions = ()


class NodeRegistryConfig(Status, frozen=True, kw_only=True):
    """The meeting point of controller and agent for one node, named as the node and owned by it."""

    metadata: Metadata
    spec: NodeRegistryConfigSpec = NodeRegistryConfigSpec()
    status: NodeRegistryConfigStatus = NodeRegistryConfigStatus()
