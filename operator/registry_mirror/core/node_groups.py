"""Nodes that have runtime, version, state and reason in common, each group with at most three names."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Literal

from msgspec import Struct

from ..api.conditions import Condition, find
from ..api.models import NodeRegistryConfig
from .words import SHOWN

NodeState = Literal["in force", "drifted", "waiting", "changing", "restarting", "silent", "failed"]

_ORDER: Mapping[NodeState, int] = {
    "failed": 0,
    "silent": 1,
    "restarting": 2,
    "changing": 3,
    "waiting": 4,
    "drifted": 5,
    "in force": 6,
}


class NodeGroup(Struct, frozen=True, kw_only=True, rename="camel"):
    """Nodes that have runtime, version, state and reason in common.

    ``since`` is when the first of them came into that state, ``names`` are at most three of them, and ``message`` is
    what the first of these says.
    """

    runtime: str
    version: str
    state: NodeState
    reason: str
    count: int
    names: tuple[str, ...]
    since: str
    message: str


def grouped(configs: Iterable[NodeRegistryConfig], nodes: Collection[str] | None) -> tuple[NodeGroup, ...]:
    """Put together what nodes have in common; what is worst comes first.

    Takes their objects, and the names of all nodes that agents can run on (None: those that have an object).
    """
    found: dict[tuple[str, str, NodeState, str], list[tuple[str, str, str]]] = {}
    known = set()
    for config in configs:
        known.add(config.metadata.name)
        if nodes is not None and config.metadata.name not in nodes:
            continue  # of a node that has just gone
        facts = config.status.runtime
        state, reason, since, message = node_state(config)
        runtime, version = (facts.name, facts.version) if facts is not None else ("", "")
        found.setdefault((runtime, version, state, reason), []).append((config.metadata.name, since, message))
    for name in set(nodes or ()) - known:
        silent: tuple[str, str, NodeState, str] = ("", "", "silent", "AgentNotReporting")
        found.setdefault(silent, []).append((name, "", "the agent has not reported yet"))
    groups = [_group(key, members) for key, members in found.items()]
    return tuple(sorted(groups, key=lambda item: (_ORDER[item.state], item.runtime, item.version, item.reason)))


def _group(key: tuple[str, str, NodeState, str], members: list[tuple[str, str, str]]) -> NodeGroup:
    runtime, version, state, reason = key
    members.sort()
    return NodeGroup(
        runtime=runtime,
        version=version,
        state=state,
        reason=reason,
        count=len(members),
        names=tuple(name for name, _, _ in members[:SHOWN]),
        since=min((since for _, since, _ in members if since), default=""),
        message=members[0][2],
    )


def node_state(config: NodeRegistryConfig) -> tuple[NodeState, str, str, str]:
    """Give what a node is at: state, reason, since when and a message."""
    status = config.status
    for type_, bad in (("Stalled", "True"), ("RuntimeHealthy", "False")):
        found = find(status.conditions, type_)
        if found is not None and found.status == bad and found.reason != "Restarting":
            return "failed", *told(found)
    if status.runtime is None:
        since = config.metadata.creation_timestamp
        return "silent", "AgentNotReporting", since, "the agent has not reported yet"
    required = find(status.conditions, "RestartRequired")
    if status.restart is not None and status.restart.result == "InProgress":
        return "restarting", "Restarting", status.restart.started_at, "the runtime is being restarted"
    applied = find(status.conditions, "Applied")
    if applied is not None and applied.status != "True":
        return ("changing" if config.spec.revision else "waiting"), *told(applied)
    if config.spec.revision != status.applied_revision:
        return "changing", "Applying", "", "the agent has not applied the revision yet"
    if required is not None and required.status == "True":
        return "waiting", *told(required)
    if status.waiting_for_restart:
        return "waiting", "RestartRequired", "", f"waits for a restart: {', '.join(status.waiting_for_restart)}"
    drifted = find(status.conditions, "Drifted")
    if drifted is not None and drifted.status == "True":
        return "drifted", *told(drifted)
    return "in force", "", applied.last_transition_time if applied is not None else "", ""


def told(found: Condition) -> tuple[str, str, str]:
    """Give reason, time and message of a condition."""
    return found.reason, found.last_transition_time, found.message
