"""How many nodes have a mirror, and which do not: the sum over all nodes, from which its status is made."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from ..api.conditions import find, is_true
from ..api.models import NodeCounts
from . import reachability
from .plan import NodeView, Prints
from .reachability import EndpointTally
from .rollout import Hold

State = Literal["applied", "pending", "failed"]


@dataclass(frozen=True, slots=True)
class NodeState:
    """How far one mirror, or a whole revision, is on one node, and why it is not in force."""

    node: str
    state: State
    reason: str = ""
    message: str = ""
    drifted: bool = False


@dataclass(slots=True)
class Tally:
    """What one mirror looks like over all nodes; of those that have it, only how many there are."""

    applied: int = 0
    drifted: int = 0
    others: list[NodeState] = field(default_factory=list)
    conflicts: list[tuple[str, str]] = field(default_factory=list)
    embedded: int = 0
    endpoints: dict[str, EndpointTally] = field(default_factory=dict)

    def add(self, state: NodeState) -> None:
        """Count a node."""
        self.drifted += state.drifted
        if state.state == "applied":
            self.applied += 1
        else:
            self.others.append(state)

    def merge(self, other: Tally, *, in_force: bool) -> None:
        """Count all nodes of another one, as it says, or as having the mirror whatever it says."""
        self.drifted += other.drifted
        self.applied += other.applied + in_force * len(other.others)
        if not in_force:
            self.others += other.others

    def counts(self) -> NodeCounts:
        """The counts of the status; ``selected`` are the nodes on which no other object takes precedence."""
        failed = sum(item.state == "failed" for item in self.others)
        return NodeCounts(
            selected=self.applied + len(self.others),
            applied=self.applied,
            pending=len(self.others) - failed,
            failed=failed,
            drifted=self.drifted,
        )

    def of(self, state: State) -> list[NodeState]:
        """The nodes in that state, which is not ``applied``, by name."""
        return sorted((item for item in self.others if item.state == state), key=lambda item: item.node)


def tally(
    nodes: Iterable[NodeView], holds: Mapping[str, Hold], known: Mapping[str, Prints] = MappingProxyType({})
) -> dict[str, Tally]:
    """Sum up all nodes for all mirrors in one pass; gives a Tally by mirror name, none for a mirror without nodes.

    ``holds`` says why nodes have to wait, by name, and ``known`` what mirrors were made of in revisions: one that is
    the same in what a node has is in force there, whatever else the node waits for. Nodes that share a plan are summed
    up once, and not once a mirror: a thousand nodes with hundreds of mirrors have few plans.
    """
    result: defaultdict[str, Tally] = defaultdict(Tally)
    groups: defaultdict[int, list[NodeView]] = defaultdict(list)
    for node in nodes:
        groups[id(node.plan)].append(node)
    for group in groups.values():
        _add(result, group, holds, known)
    return dict(result)


def _add(
    result: defaultdict[str, Tally],
    group: Sequence[NodeView],
    holds: Mapping[str, Hold],
    known: Mapping[str, Prints],
) -> None:
    """Add nodes that share a plan."""
    plan = group[0].plan
    parts: defaultdict[str, Tally] = defaultdict(Tally)  # by the revision that is on the node although not the wanted
    waiting = []
    for node in group:
        state = _revision_state(node, holds.get(node.name))
        revision = _still_has(node, state)
        has = bool(revision) or state.state == "applied"
        if has and node.config is not None and node.config.status.waiting_for_restart:
            waiting.append((node, state, revision))
        else:
            parts[revision].add(state)
    same = {revision: _same(plan.prints, known.get(revision, {})) for revision in {*parts, *(r for *_, r in waiting)}}
    for name in plan.in_force:
        found = result[name]
        found.embedded += len(group) * plan.embedded_registry
        for revision, part in parts.items():
            found.merge(part, in_force=name in same[revision])
        for node, state, revision in waiting:
            if name in same[revision]:
                state = NodeState(node.name, "applied", drifted=state.drifted)
            applied = state.state == "applied"
            found.add(_waiting_state(node, name, state, holds.get(node.name)) if applied else state)
    for name, problem in plan.problems.items():
        result[name].others += [NodeState(node.name, "failed", problem.reason, problem.message) for node in group]
    for loser, winner in plan.conflicts.items():
        result[loser].conflicts += [(node.name, winner) for node in group]
    reachability.add(plan, group, lambda name: result[name].endpoints)


def _still_has(node: NodeView, state: NodeState) -> str:
    """Give the revision that a node has and that is not the wanted one; empty if there is none, or it may not work.

    The last good one does (RolledBack). Any other failure is the node's, and no mirror there is beyond doubt.
    """
    if node.config is None or node.config.status.runtime is None or state.state == "applied":
        return ""
    works = state.state == "pending" or state.reason == "RolledBack"
    return node.config.status.applied_revision if works else ""


def _same(wanted: Prints, found: Prints) -> frozenset[str]:
    return frozenset(name for name, made_of in wanted.items() if name in found and found[name] == made_of)


def _revision_state(node: NodeView, hold: Hold | None) -> NodeState:
    config, bundle = node.config, node.plan.bundle
    if config is None or config.status.runtime is None or bundle is None:
        stalled = find(config.status.conditions, "Stalled") if config is not None else None
        if stalled is not None and stalled.status == "True":
            return NodeState(node.name, "failed", stalled.reason, stalled.message)
        return NodeState(node.name, "pending", "AgentNotReporting", "the agent has not reported yet")
    drifted = is_true(config.status.conditions, "Drifted")
    if config.spec.revision == bundle.revision:
        stalled = find(config.status.conditions, "Stalled")
        if stalled is not None and stalled.status == "True":
            return NodeState(node.name, "failed", stalled.reason, stalled.message, drifted)
        if config.status.applied_revision == bundle.revision:
            return NodeState(node.name, "applied", drifted=drifted)
        return NodeState(node.name, "pending", "Applying", "the agent has not applied the revision yet", drifted)
    if hold is not None:
        return NodeState(node.name, "pending", hold.reason, hold.message, drifted)
    return NodeState(node.name, "pending", "RolloutPending", "the node has not been given the revision yet", drifted)


def _waiting_state(node: NodeView, mirror: str, state: NodeState, hold: Hold | None) -> NodeState:
    """The state of a mirror on a node on which something waits for a restart, be it this mirror or another one."""
    assert node.config is not None  # what waits was reported
    status = node.config.status
    settings = sorted(name for name in status.waiting_for_restart if mirror in node.plan.needs_start.get(name, ()))
    if not settings:
        return state
    text = f"a restart of the runtime brings into force: {', '.join(settings)}"
    if hold is not None:
        return NodeState(node.name, "pending", hold.reason, f"{text}; {hold.message}", state.drifted)
    found = find(status.conditions, "RestartRequired")
    if found is not None and found.status == "True" and found.reason != "StartSettings":
        return NodeState(node.name, "pending", found.reason, found.message, state.drifted)
    return NodeState(node.name, "pending", "RestartRequired", text, state.drifted)
