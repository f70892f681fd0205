"""RegistryMirrorPolicy: the rules for the whole cluster."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from .shared import Conditions, Count, Duration, Metadata, Spec, Status


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
