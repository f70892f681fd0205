"""What a diagnosis of a cluster works on: its objects, as far as they could be read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from ...api.models import NodeRegistryConfig, RegistryMirrorPolicySpec, RegistryMirrorSpec, RegistryMirrorStatus
from ..overview import Overview
from ..resolve import Source, SourceKind
from ..select import matches
from ..words import SHOWN, counted, some

Json = Mapping[str, Any]


class MirrorSeen(Struct, frozen=True, kw_only=True):
    """A RegistryMirror; ``spec`` is None where it cannot be read. ``created`` is RFC 3339."""

    name: str
    created: str
    spec: RegistryMirrorSpec | None
    status: RegistryMirrorStatus


class NodeSeen(Struct, frozen=True, kw_only=True):
    """A node that an agent can run on; ``created`` in seconds since 1970, ``tainted``: with the startup taint."""

    name: str
    labels: Mapping[str, str]
    created: float
    ready: bool
    tainted: bool


class AgentPod(Struct, frozen=True, kw_only=True):
    """The agent's Pod of a node, or the one of several that is Ready; ``told`` says what keeps it from that."""

    name: str
    ready: bool
    told: str = ""


class Pulls(Struct, frozen=True, kw_only=True):
    """A pull secret of Pods: where it is, and the registries from which Pods with it pull and for which it has an
    entry. ``certain`` is False where it could not be read.
    """

    namespace: str
    name: str
    registries: frozenset[str]
    certain: bool = True


class Parts(Struct, frozen=True, kw_only=True):
    """What an installation has, as it is in the API; a mapping is None, as a whole, if it could not be read, and an
    object is None, in it, if there is none.

    Namespaces, CRDs, ValidatingAdmissionPolicies and their bindings are by name (the latter two None as a whole also on
    clusters before Kubernetes 1.30), ``workloads`` by kind (Deployment, DaemonSet).
    """

    namespaces: Mapping[str, Json | None] | None = None
    workloads: Mapping[str, Json | None] | None = None
    crds: Mapping[str, Json | None] | None = None
    policies: Mapping[str, Json | None] | None = None
    bindings: Mapping[str, Json | None] | None = None


class Picture(Struct, frozen=True, kw_only=True):
    """All of it, at a time (seconds since 1970).

    ``nodes`` and ``agents`` (by node) are None where they could not be read, ``sources`` has what mirrors refer to, as
    far as it could be read (None: there is none), ``overview`` what the objects say of themselves, and ``pulled`` the
    registries that Pods pull from.
    """

    now: float
    mirrors: Mapping[str, MirrorSeen]
    configs: Mapping[str, NodeRegistryConfig]
    nodes: Mapping[str, NodeSeen] | None
    policy: RegistryMirrorPolicySpec
    overview: Overview
    sources: Mapping[tuple[SourceKind, str], Source | None]
    agents: Mapping[str, AgentPod] | None = None
    pulls: tuple[Pulls, ...] = ()
    pulled: frozenset[str] = frozenset()
    parts: Parts = Parts()

    def specs(self) -> Iterator[tuple[str, RegistryMirrorSpec]]:
        """All mirrors that can be read, by name."""
        for name, item in sorted(self.mirrors.items()):
            if item.spec is not None:
                yield name, item.spec

    def selected(self, spec: RegistryMirrorSpec) -> list[str]:
        """The nodes that a mirror is for, as far as they are known."""
        nodes = self.nodes or {}
        return [name for name, node in sorted(nodes.items()) if matches(spec.node_selector, node.labels)]

    def is_for(self, spec: RegistryMirrorSpec, node: str) -> bool:
        """Whether a mirror is for a node, or may be."""
        known = (self.nodes or {}).get(node)
        return known is None or matches(spec.node_selector, known.labels)


def nodes_named(names: Sequence[str], count: int = 0, most: int = SHOWN) -> str:
    """Name nodes as the subject of a finding: ``node a``, ``4 nodes (a, b, c and 1 more)``."""
    total = max(count, len(names))
    return f"node {names[0]}" if total == 1 else f"{counted(total)} ({some(names, total, most)})"


def mirrors_named(names: Sequence[str]) -> str:
    """Name mirrors as the subject of a finding: ``RegistryMirror a``, ``4 RegistryMirrors (a, b, c and 1 more)``."""
    return (
        f"RegistryMirror {names[0]}" if len(names) == 1 else f"{counted(len(names), 'RegistryMirror')} ({some(names)})"
    )


def only(names: Sequence[str], count: int = 0) -> str:
    """Give the name if it is the only one, for ``Finding.node``."""
    return names[0] if len(names) == max(count, 1) else ""
