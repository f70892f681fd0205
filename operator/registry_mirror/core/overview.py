"""The whole cluster at a glance, from what the objects say of themselves: the same size for 3 nodes and for 3,000."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Literal

from msgspec import Struct

from ..api.conditions import Condition, find
from ..api.models import EndpointStatus, NodeCounts, NodeFailure, NodeRegistryConfig, RegistryMirrorStatus
from .node_groups import NodeGroup, NodeState, grouped, told
from .words import counted, some

MirrorState = Literal["Ready", "Reconciling", "Stalled"]
Kind = Literal["wrong", "going on", "notice"]

_MIRRORS: Mapping[MirrorState, int] = {"Stalled": 0, "Reconciling": 1, "Ready": 2}
_KINDS: Mapping[Kind, int] = {"wrong": 0, "going on": 1, "notice": 2}
_NODE_KINDS: Mapping[NodeState, Kind] = {"failed": "wrong", "drifted": "notice", "silent": "notice"}
_UNSEEN = "no controller has seen this version of the object yet"
_PODS = "kubectl -n registry-mirror-system get pods -o wide"
# What to do, where the message of a condition says only what is the matter.
_REMEDIES: Mapping[str, str] = {
    "AgentNotReporting": f"look at its agent: {_PODS}",
    "StartSettings": "the controller restarts the runtime where rollout.restart is WhenRequired; else it is yours",
    "RuntimeNotAnswering": "look at the runtime's log on the node; it is not restarted for a change in that state",
    "RolledBack": "change or delete the object: the node works, and goes on by itself",
    "RollbackFailed": "look at the runtime's log on the node",
    "RolloutHalted": "change the object or take it back: the rollout goes on by itself",
    "Paused": "set rollout.paused to false in RegistryMirrorPolicy default",
}


class Seen(Struct, frozen=True, kw_only=True):
    """A RegistryMirror as it was read; ``endpoints`` are its URLs."""

    name: str
    registry: str
    generation: int
    endpoints: tuple[str, ...]
    status: RegistryMirrorStatus


class Leader(Struct, frozen=True, kw_only=True, rename="camel"):
    """Who leads the controllers; empty for nobody. ``renewed`` is when one last said so that does no more
    (RFC 3339).
    """

    holder: str = ""
    renewed: str = ""
    alive: bool = False


class MirrorLine(Struct, frozen=True, kw_only=True, rename="camel"):
    """One mirror; ``answering`` of its ``endpoints`` answer every node that has asked them (None: nobody has)."""

    name: str
    registry: str
    state: MirrorState
    reason: str
    message: str
    since: str
    nodes: NodeCounts
    endpoints: int
    answering: int | None
    reachability: tuple[EndpointStatus, ...] = ()
    failures: tuple[NodeFailure, ...] = ()


class Finding(Struct, frozen=True, kw_only=True, rename="camel"):
    """Something to know: what is ``wrong`` needs somebody, what is ``going on`` comes to an end by itself, and a
    ``notice`` keeps nothing from being in force. ``remedy`` says what to do where the message does not.
    """

    kind: Kind
    subject: str
    reason: str
    message: str
    remedy: str = ""
    since: str = ""


class Overview(Struct, frozen=True, kw_only=True, rename="camel"):
    """All of it; ``nodes`` is how many agents can run on, or None if the Nodes cannot be read."""

    leader: Leader | None
    nodes: int | None
    mirrors: tuple[MirrorLine, ...]
    groups: tuple[NodeGroup, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()

    @property
    def state(self) -> MirrorState:
        """The worst of it: Stalled if somebody has to do something, Reconciling if something is not there yet."""
        if any(item.kind == "wrong" for item in self.findings):
            return "Stalled"
        busy = any(group.state in ("changing", "restarting") for group in self.groups)
        return "Reconciling" if busy or any(item.state != "Ready" for item in self.mirrors) else "Ready"


def overview(
    mirrors: Iterable[Seen],
    configs: Iterable[NodeRegistryConfig],
    nodes: Collection[str] | None,
    leader: Leader | None,
    rules: Sequence[Condition] = (),
    notes: Sequence[str] = (),
) -> Overview:
    """Sum up what was read.

    Takes the mirrors, the nodes' objects with the runtime versions filled in, the names of all nodes that agents can
    run on, and who leads (both None: could not be read), the conditions of the policy, and what could not be read.
    """
    lines = tuple(sorted((_line(item) for item in mirrors), key=lambda item: (_MIRRORS[item.state], item.name)))
    groups = grouped(configs, nodes)
    findings = (*_leaderless(leader, lines), *_of_policy(rules), *_of_mirrors(lines), *_ofcounted(groups))
    return Overview(
        leader=leader,
        nodes=len(nodes) if nodes is not None else None,
        mirrors=lines,
        groups=groups,
        findings=tuple(sorted(findings, key=lambda item: _KINDS[item.kind])),
        notes=tuple(notes),
    )


# ---- mirrors -----------------------------------------------------------------------------------------------------


def _line(item: Seen) -> MirrorLine:
    status = item.status
    state, found = _state(item)
    return MirrorLine(
        name=item.name,
        registry=item.registry,
        state=state,
        reason=found.reason if found is not None else "",
        message=found.message if found is not None else _UNSEEN,
        since=found.last_transition_time if found is not None else "",
        nodes=status.nodes or NodeCounts(),
        endpoints=len(item.endpoints),
        answering=_answering(item),
        reachability=status.endpoints,
        failures=status.failures,
    )


def _state(item: Seen) -> tuple[MirrorState, Condition | None]:
    if item.status.observed_generation < item.generation:
        return "Reconciling", None
    for state in ("Stalled", "Reconciling", "Ready"):
        found = find(item.status.conditions, state)
        if found is not None and found.status == "True":
            return state, found
    return "Reconciling", None


def _answering(item: Seen) -> int | None:
    known = {found.url: found for found in item.status.endpoints}
    if not known:
        return None
    return sum(url in known and not known[url].unreachable for url in item.endpoints)


# ---- what to look at ---------------------------------------------------------------------------------------------


def _leaderless(leader: Leader | None, lines: Sequence[MirrorLine]) -> Iterator[Finding]:
    if leader is None or leader.alive:
        return
    text = f"{leader.holder} led until {leader.renewed}" if leader.holder else "none has taken the Lease"
    stale = "; what stands here may be out of date" if lines else ""
    message, remedy = f"no controller works: {text}{stale}", f"look at its Pods: {_PODS}"
    yield Finding(kind="wrong", subject="controller", reason="", message=message, remedy=remedy)


def _of_policy(rules: Sequence[Condition]) -> Iterator[Finding]:
    found = find(rules, "Stalled")
    if found is not None and found.status == "True":
        reason, since, message = told(found)
        yield Finding(kind="wrong", subject="RegistryMirrorPolicy default", reason=reason, message=message, since=since)


def _of_mirrors(lines: Sequence[MirrorLine]) -> Iterator[Finding]:
    """What keeps mirrors back, once for all that it keeps back; and endpoints that do not answer."""
    groups: dict[tuple[Kind, str, str], list[MirrorLine]] = {}
    endpoints: dict[EndpointStatus, list[str]] = {}
    for line in lines:
        if line.state != "Ready":
            kind: Kind = "wrong" if line.state == "Stalled" else "going on"
            groups.setdefault((kind, line.reason, line.message), []).append(line)
        for item in line.reachability:
            if item.unreachable:
                endpoints.setdefault(item, []).append(line.name)
    for (kind, reason, message), found in groups.items():
        yield Finding(
            kind=kind,
            subject=some([line.name for line in found]),
            reason=reason,
            message=message,
            remedy=_REMEDIES.get(reason, ""),
            since=min((line.since for line in found if line.since), default=""),
        )
    for item, names in endpoints.items():
        total = item.reachable + item.unreachable
        yield Finding(
            kind="notice",
            subject=some(names),
            reason="SomeUnreachable" if item.reachable else "NoneReachable",
            message=f"{item.url} does not answer {item.unreachable} of {counted(total)}: {item.message}",
        )


def _ofcounted(groups: Sequence[NodeGroup]) -> Iterator[Finding]:
    for group in groups:
        if group.state != "in force":
            yield Finding(
                kind=_NODE_KINDS.get(group.state, "going on"),
                subject=some(group.names, group.count),
                reason=group.reason,
                message=group.message,
                remedy=_REMEDIES.get(group.reason, ""),
                since=group.since,
            )
