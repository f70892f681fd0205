"""The three kinds as frozen, typed models; crds/ says the same as schemas and a test walks both side by side.

Users' specs refuse unknown fields (a typo must not be silently ignored offline either); status and metadata tolerate
them, because during an upgrade an older reader meets a newer writer.
"""

from __future__ import annotations

from .mirror import (
    TLS as TLS,
    Capability as Capability,
    CARef as CARef,
    Endpoint as Endpoint,
    EndpointStatus as EndpointStatus,
    NodeCounts as NodeCounts,
    NodeFailure as NodeFailure,
    RegistryMirror as RegistryMirror,
    RegistryMirrorSpec as RegistryMirrorSpec,
    RegistryMirrorStatus as RegistryMirrorStatus,
    Rewrite as Rewrite,
    SecretRef as SecretRef,
    Upstream as Upstream,
)
from .node import (
    BundleRef as BundleRef,
    EmbeddedRegistry as EmbeddedRegistry,
    EndpointResult as EndpointResult,
    NodeProbe as NodeProbe,
    NodeRegistryConfig as NodeRegistryConfig,
    NodeRegistryConfigSpec as NodeRegistryConfigSpec,
    NodeRegistryConfigStatus as NodeRegistryConfigStatus,
    RestartStatus as RestartStatus,
    RuntimeFacts as RuntimeFacts,
    RuntimeName as RuntimeName,
)
from .policy import (
    Canary as Canary,
    MaintenanceWindow as MaintenanceWindow,
    Probe as Probe,
    ProbeMode as ProbeMode,
    RegistryMirrorPolicy as RegistryMirrorPolicy,
    RegistryMirrorPolicySpec as RegistryMirrorPolicySpec,
    RegistryMirrorPolicyStatus as RegistryMirrorPolicyStatus,
    Rollout as Rollout,
)
from .shared import (
    API_VERSION as API_VERSION,
    GROUP as GROUP,
    VERSION as VERSION,
    Conditions as Conditions,
    Count as Count,
    Duration as Duration,
    HostPath as HostPath,
    Key as Key,
    Label as Label,
    LabelSelector as LabelSelector,
    LabelSelectorRequirement as LabelSelectorRequirement,
    Metadata as Metadata,
    Name as Name,
    OwnerReference as OwnerReference,
    Spec as Spec,
    Status as Status,
    Text as Text,
    Url as Url,
)
