"""Contradictions of mirrors with each other and with the nodes, and a policy that holds everything up."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from ...api.models import LabelSelector, NodeRegistryConfig, RegistryMirrorSpec
from ..certificates import day
from ..finding import Finding
from ..select import matches
from ..windows import opening, problems
from ..words import some
from .picture import MirrorSeen, NodeSeen, Picture, mirrors_named, nodes_named, only

_FAR = 366 * 86400.0


def of_policy(seen: Picture) -> Iterator[Finding]:
    """The rollout is paused, or its windows cannot be read, or open too rarely to be meant."""
    rollout, subject = seen.policy.rollout, "RegistryMirrorPolicy default"
    if rollout.paused:
        yield Finding(
            reason="Paused",
            severity="warning",
            subject=subject,
            evidence="rollout.paused is true: no node is given anything new",
            remedy="set rollout.paused to false when the nodes may go on",
        )
    wrong = "; ".join(map(str, problems(rollout.windows)))
    if wrong:
        yield Finding(
            reason="InvalidSpec",
            severity="error",
            subject=subject,
            evidence=f"{wrong}; until then no runtime is restarted",
            remedy="correct spec.rollout.windows; nothing else is needed",
        )
    if rollout.restart == "Never" or not rollout.windows or wrong:
        return
    found = opening(rollout.windows, seen.now)
    if not found.open and (found.until is None or found.until > seen.now + _FAR):
        when = f"not before {day(found.until)}" if found.until is not None else "never"
        schedules = some([item.schedule for item in rollout.windows])
        yield Finding(
            reason="WindowFarOff",
            severity="warning",
            subject=subject,
            evidence=f"rollout.windows ({schedules}) open {when}; what takes a restart waits for that",
            remedy="correct day and month of the schedules, or add a window",
        )


def of_precedence(seen: Picture) -> Iterator[Finding]:
    """Two objects for one registry on the same nodes, of which none has the higher priority."""
    by_registry: dict[str, list[MirrorSeen]] = {}
    for item in seen.mirrors.values():
        if item.spec is not None:
            by_registry.setdefault(item.spec.registry, []).append(item)
    for registry, items in sorted(by_registry.items()):
        for one, other in combinations(sorted(items, key=lambda item: (item.created, item.name)), 2):
            assert one.spec is not None
            assert other.spec is not None
            both = [
                name
                for name, node in sorted((seen.nodes or {}).items())
                if matches(one.spec.node_selector, node.labels) and matches(other.spec.node_selector, node.labels)
            ]
            if both and one.spec.priority == other.spec.priority and not _conflicted(seen, other.name):
                yield Finding(
                    reason="PriorityUndecided",
                    severity="warning",
                    subject=f"RegistryMirror {other.name}",
                    evidence=f"{one.name} is for {registry} too, on {nodes_named(both)}, with the same priority "
                    f"({one.spec.priority}): there {one.name} is in force, because it is older",
                    remedy="give the one that is meant the higher priority, or other nodes by nodeSelector",
                )


def _conflicted(seen: Picture, name: str) -> bool:
    return any(line.name == name and line.reason == "Conflicted" for line in seen.overview.mirrors)


def of_labels(seen: Picture) -> Iterator[Finding]:
    """Selectors that ask for labels that no node has."""
    keys = {key for node in (seen.nodes or {}).values() for key in node.labels}
    for name, spec in seen.specs() if seen.nodes else ():
        for where, selector in _selectors(spec):
            wanted = {*selector.match_labels}
            wanted |= {item.key for item in selector.match_expressions if item.operator in ("In", "Exists")}
            unknown = sorted(wanted - keys)
            if unknown:
                yield Finding(
                    reason="LabelNotFound",
                    severity="warning",
                    subject=f"RegistryMirror {name}",
                    evidence=f"{where} asks for the label {some(unknown)}, which no node has",
                    remedy="correct the key, or label the nodes; kubectl get nodes --show-labels has what there is",
                )


def _selectors(spec: RegistryMirrorSpec) -> Iterator[tuple[str, LabelSelector]]:
    if spec.node_selector is not None:
        yield "spec.nodeSelector", spec.node_selector
    for index, item in enumerate(spec.endpoints):
        if item.node_selector is not None:
            yield f"spec.endpoints[{index}].nodeSelector", item.node_selector


def of_nodes(seen: Picture) -> Iterator[Finding]:
    """Nodes for which a mirror is, but none of its endpoints."""
    nodes = seen.nodes or {}
    for name, spec in seen.specs():
        left = [node for node in seen.selected(spec) if spec.endpoints and not _has_endpoint(spec, nodes[node])]
        if left and spec.upstream.fallback == "Allow":  # else the object is not in force there, and says so
            yield Finding(
                reason="NoEndpointForNode",
                severity="warning",
                subject=f"RegistryMirror {name}",
                evidence=f"none of its endpoints is for {nodes_named(left)}: pulls go to {spec.registry} itself there",
                remedy="leave nodeSelector out of one endpoint, or exclude the nodes in spec.nodeSelector",
                node=only(left),
            )


def _has_endpoint(spec: RegistryMirrorSpec, node: NodeSeen) -> bool:
    return any(matches(item.node_selector, node.labels) for item in spec.endpoints)


def of_failures(seen: Picture) -> Iterator[Finding]:
    """Mirrors that say why they are not in force on a node, for another reason than the node says itself."""
    own = {group.reason for group in seen.overview.groups}
    for name, item in sorted(seen.mirrors.items()):
        for failure in item.status.failures:
            if failure.node in seen.configs and failure.reason not in own:
                yield Finding(
                    reason=failure.reason,
                    severity="error",
                    subject=f"RegistryMirror {name}",
                    evidence=failure.message or failure.reason,
                    remedy=f"do what the message says; docs/conditions.md has more about {failure.reason}",
                    node=failure.node,
                )


def of_sharing(seen: Picture) -> Iterator[Finding]:
    """Objects without endpoints, which are for the embedded registry, on nodes of K3s and RKE2 that have it off."""
    found: dict[tuple[str, ...], list[str]] = {}
    for name, spec in seen.specs():
        if spec.endpoints or spec.upstream.tls is not None or spec.upstream.credentials_ref is not None:
            continue
        off = tuple(node for node in seen.selected(spec) if _is_off(seen.configs.get(node)))
        if off:
            found.setdefault(off, []).append(name)
    for nodes, names in found.items():
        yield Finding(
            reason="EmbeddedRegistryOff",
            severity="warning",
            subject=mirrors_named(names),
            evidence=f"an object without endpoints shares images through the embedded registry, which is off on "
            f"{nodes_named(nodes)}",
            remedy="set embedded-registry: true in the config.yaml of all servers and restart them, or give the object "
            "an endpoint",
            node=only(nodes),
        )


def _is_off(config: NodeRegistryConfig | None) -> bool:
    facts = config.status.runtime if config is not None else None
    return facts is not None and facts.name in ("k3s", "rke2") and facts.embedded_registry is None
