"""The controller's own picture of the cluster, fed by watches and by lists.

kopf's indices are not used: their start-up is superlinear in the number of objects. A deletion that a watch misses is
found by the next list (``replace``); the resource versions keep a slow list from undoing what a watch already knows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ..api import parse
from ..api.errors import InvalidError
from ..api.models import (
    Metadata,
    NodeRegistryConfig,
    RegistryMirror,
    RegistryMirrorPolicy,
    RegistryMirrorStatus,
    RuntimeFacts,
)
from ..core.resolve import Source, SourceKind, source
from ..core.startup import carries
from ..core.times import seconds
from ..kube.resources import CONFIG_MAPS, CONFIGS, MIRRORS, NODES, POLICIES, SECRETS, Resource

_log = logging.getLogger(__name__)

Json = Mapping[str, Any]

_SERVER_LABELS = frozenset(
    {
        "node-role.kubernetes.io/control-plane",
        "node-role.kubernetes.io/master",
        "node-role.kubernetes.io/etcd",  # RKE2 and K3s: servers that run nothing else
        "node.kubernetes.io/microk8s-controlplane",
    }
)


class NodeInfo(Struct, frozen=True, kw_only=True):
    """What of a Node matters here; its heartbeats change nothing of this. ``tainted``: with the startup taint."""

    name: str
    uid: str
    labels: dict[str, str]
    kubelet_version: str
    runtime_version: str
    created_at: float = 0.0
    ready: bool = True
    schedulable: bool = True
    tainted: bool = False

    @property
    def managed(self) -> bool:
        """Whether an agent can run there: the DaemonSet selects Linux nodes (the kubelet sets the label)."""
        return self.labels.get("kubernetes.io/os", "linux") == "linux"

    @property
    def server(self) -> bool:
        """Whether the control plane, or its etcd, runs there."""
        return not _SERVER_LABELS.isdisjoint(self.labels)

    def complete(self, facts: RuntimeFacts) -> RuntimeFacts:
        """Fill in the versions that the agent could not see from the host's files."""
        version = self.runtime_version.rpartition("://")[2]
        if facts.name == "crio":
            return replace(facts, version=facts.version or version)
        own = version if facts.name == "containerd" else self.kubelet_version
        return replace(facts, version=facts.version or own, containerd_version=facts.containerd_version or version)


class MirrorInfo(Struct, frozen=True, kw_only=True):
    """A RegistryMirror, or what is wrong with it; its status is compared, not watched."""

    metadata: Metadata
    mirror: RegistryMirror | None
    error: InvalidError | None
    status: RegistryMirrorStatus


def _mirror(body: Json) -> MirrorInfo:
    metadata = _metadata(body)
    try:
        mirror = parse.registry_mirror(body)
    except InvalidError as error:
        return MirrorInfo(metadata=metadata, mirror=None, error=error, status=_status(body))
    return MirrorInfo(
        metadata=metadata, mirror=replace(mirror, status=RegistryMirrorStatus()), error=None, status=mirror.status
    )


def _status(body: Json) -> RegistryMirrorStatus:
    """The status of an object whose spec cannot be read: without it, the same would be written and told for ever."""
    try:
        return msgspec.convert(body.get("status") or {}, RegistryMirrorStatus)
    except msgspec.ValidationError:
        return RegistryMirrorStatus()


def _metadata(body: Json) -> Metadata:
    raw = body["metadata"]
    return Metadata(
        name=raw["name"],
        uid=raw.get("uid", ""),
        generation=raw.get("generation", 0),
        creation_timestamp=raw.get("creationTimestamp", ""),
        deletion_timestamp=raw.get("deletionTimestamp"),
    )


def _node(body: Json) -> NodeInfo:
    status = body.get("status") or {}
    info = status.get("nodeInfo") or {}
    metadata, spec = body["metadata"], body.get("spec") or {}
    conditions = {item.get("type"): item.get("status") for item in status.get("conditions") or ()}
    return NodeInfo(
        name=metadata["name"],
        uid=metadata["uid"],
        labels=dict(metadata.get("labels") or {}),
        kubelet_version=info.get("kubeletVersion", ""),
        runtime_version=info.get("containerRuntimeVersion", ""),
        created_at=seconds(metadata.get("creationTimestamp") or ""),
        ready=conditions.get("Ready") == "True",
        schedulable=not spec.get("unschedulable"),
        tainted=carries(spec.get("taints") or ()),
    )


def _secret(body: Json) -> Source:
    return source({**body, "kind": "Secret"})


def _config_map(body: Json) -> Source:
    return source({**body, "kind": "ConfigMap"})


_EXTRACT: Mapping[Resource, Callable[[Json], object]] = {
    MIRRORS: _mirror,
    POLICIES: parse.policy,
    CONFIGS: parse.node_registry_config,
    NODES: _node,
    SECRETS: _secret,
    CONFIG_MAPS: _config_map,
}
WATCHED = tuple(_EXTRACT)


class Store:
    """Objects by kind and name; every change says whether it made a difference."""

    def __init__(self) -> None:
        self._objects: dict[Resource, dict[str, object]] = {resource: {} for resource in WATCHED}
        self._versions: dict[tuple[Resource, str], int] = {}

    @property
    def mirrors(self) -> Mapping[str, MirrorInfo]:
        """All RegistryMirrors by name."""
        return cast(dict[str, MirrorInfo], self._objects[MIRRORS])

    @property
    def nodes(self) -> Mapping[str, NodeInfo]:
        """The Nodes that an agent can run on, by name; made anew at each call."""
        found = cast(dict[str, NodeInfo], self._objects[NODES])
        return {name: node for name, node in found.items() if node.managed}

    def node(self, name: str) -> NodeInfo | None:
        """The Node of that name if an agent can run there."""
        found = cast(NodeInfo | None, self._objects[NODES].get(name))
        return found if found is not None and found.managed else None

    @property
    def configs(self) -> Mapping[str, NodeRegistryConfig]:
        """All NodeRegistryConfigs by name."""
        return cast(dict[str, NodeRegistryConfig], self._objects[CONFIGS])

    @property
    def policy(self) -> RegistryMirrorPolicy | None:
        """The policy named ``default``, if there is one."""
        return cast(dict[str, RegistryMirrorPolicy], self._objects[POLICIES]).get("default")

    def sources(self) -> dict[tuple[SourceKind, str], Source]:
        """All Secrets and ConfigMaps of the operator's namespace."""
        found = [*self._objects[SECRETS].values(), *self._objects[CONFIG_MAPS].values()]
        return {(item.kind, item.name): item for item in cast(list[Source], found)}

    def version(self, resource: Resource, name: str) -> str:
        """The resourceVersion up to which an object is known, empty if it cannot be told."""
        return str(self._versions.get((resource, name), 0) or "")

    def put(self, resource: Resource, body: Json) -> bool:
        """Take in an object; gives False if nothing that matters changed, or if something newer is known.

        Raises InvalidError for an object that cannot be read at all; a RegistryMirror never does that.
        """
        name = body["metadata"]["name"]
        version = _number(body["metadata"].get("resourceVersion"))
        if version < self._versions.get((resource, name), 0):
            return False
        self._versions[resource, name] = version
        new = _EXTRACT[resource](body)
        old = self._objects[resource].get(name)
        self._objects[resource][name] = new
        return not _equal(old, new)

    def drop(self, resource: Resource, body: Json) -> bool:
        """Forget a deleted object; gives False if it was not known."""
        name = body["metadata"]["name"]
        version = _number(body["metadata"].get("resourceVersion"))
        key = (resource, name)
        if version < self._versions.get(key, 0):
            return False
        self._versions[key] = version  # a grave stone: a slower list must not bring the object back
        return self._objects[resource].pop(name, None) is not None

    def forget(self, resource: Resource, name: str) -> None:
        """Forget an object that we deleted ourselves: a watch that starts later will not tell."""
        self._objects[resource].pop(name, None)

    def replace(self, resource: Resource, bodies: Iterable[Json], version: str) -> list[str]:
        """Take in a whole list, read at that resource version; gives the names for which something changed.

        An object that cannot be read (written by another version of the program) is logged and left out.
        """
        at, seen, changed = _number(version), set(), []
        for body in bodies:
            name = body["metadata"]["name"]
            seen.add(name)
            try:
                if self.put(resource, body):
                    changed.append(name)
            except InvalidError as error:
                _log.warning("%s", error.message)  # left as it was known: the others must not suffer
        for name in [name for name in self._objects[resource] if name not in seen]:
            if self._versions[resource, name] <= at:
                del self._objects[resource][name]
                changed.append(name)
        for key in [key for key, value in self._versions.items() if key[0] == resource and value <= at]:
            if key[1] not in self._objects[resource]:
                del self._versions[key]
        return changed


def _equal(old: object, new: object) -> bool:
    if isinstance(old, MirrorInfo) and isinstance(new, MirrorInfo):
        # Errors compare by text, and the status is ours.
        return replace(old, error=None, status=new.status) == replace(new, error=None) and str(old.error) == str(
            new.error
        )
    return old == new


def _number(version: object) -> int:
    """Resource versions are comparable as numbers (KEP-5504); anything else counts as newest of its moment."""
    return int(version) if isinstance(version, str) and version.isdigit() else 0
