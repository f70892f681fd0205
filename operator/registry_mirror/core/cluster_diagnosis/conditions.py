"""What the objects of a cluster say of themselves, as findings: each cause once, with whatever it keeps back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..finding import Finding, Severity
from ..node_groups import NodeGroup
from ..overview import MirrorLine
from ..times import seconds
from ..words import short
from .nodes import of_agents
from .picture import Picture, mirrors_named, nodes_named
from .references import readable

_EVIDENCE = 600
_LONG = 1800.0  # what goes on comes to an end by itself; after half an hour somebody should look
_LOGS = "kubectl -n registry-mirror-system logs -l app.kubernetes.io/component"
# Where the message of a condition does not say it already. docs/conditions.md has all of them.
_REMEDIES: Mapping[str, str] = {
    "ReferenceNotFound": "create what is missing in the namespace registry-mirror-system; nothing else is needed",
    "ReferenceInvalid": "correct the Secret or ConfigMap; nothing else is needed",
    "Conflicted": "delete one of the two objects, or set priority or nodeSelector",
    "RolloutHalted": "change the object or take it back; the rollout goes on by itself",
    "RolledBack": "change or delete the object; the node works, and goes on by itself",
    "RollbackFailed": "look at the runtime's log on the node",
    "RestartRequired": "restart the runtime on these nodes, or set rollout.restart to WhenRequired in the policy",
    "StartSettings": "restart the runtime on these nodes, or set rollout.restart to WhenRequired in the policy",
    "AgentNotReporting": "look at the log of its agent: its Pod says that it is well",
    "Restarting": "look at the runtime's log on the node",
    "RuntimeNotAnswering": "look at the runtime's log on the node; it is not restarted for a change in that state",
    "RuntimeTooOld": "upgrade the runtime, or exclude the node with nodeSelector",
    "RuntimeMismatch": "use the overlay of the runtime that the message names",
    "ProvisionedElsewhere": "say it where the message names, or exclude the node with nodeSelector",
    "NodeNotConfined": "kubectl apply -f manifests/base/admission-agents.yaml; before Kubernetes 1.30 see "
    "docs/security.md",
    "CoOwned": "find the other tool, such as Rancher or Ansible, and have only one of the two write the file",
    "Reported": "find what writes the file; with drift: Repair in the policy the operator puts it back",
    "WaitingForSlot": "look at the nodes that are named, or raise rollout.maxUnavailable in the policy",
    "OutsideWindow": "wait for it, or change rollout.windows in the policy",
    "RewriteUnsupported": "exclude these nodes with nodeSelector, and give them an object without rewrites",
    "InvalidSpec": "write the object anew: kubectl apply it, and read what is refused",
}
# It follows from a node that has failed, which is found itself; and these are found where they come from.
_FOLLOWS = frozenset({"RolloutHalted"})
_PAUSED, _SILENT = "Paused", "AgentNotReporting"
_WAITS = frozenset({"RestartRequired", "StartSettings"})


def findings(seen: Picture) -> Iterator[Finding]:
    """Give what is wrong with nodes, then with mirrors for other reasons."""
    failed = [group for group in seen.overview.groups if group.state == "failed"]
    elsewhere = {_PAUSED, _SILENT} if any(of_agents(seen)) else {_PAUSED}
    kept = dict.fromkeys((group.reason for group in failed), 0)
    groups: dict[tuple[str, str, str], list[MirrorLine]] = {}
    for line in seen.overview.mirrors:
        if line.state == "Ready" or _is_known(seen, line):
            continue
        if line.state == "Stalled" and failed and (line.reason in kept or line.reason in _FOLLOWS):
            kept[line.reason] = kept.get(line.reason, 0) + 1
        elif line.reason not in ("", *elsewhere):
            groups.setdefault((line.state, line.reason, line.message), []).append(line)
    followed = sum(count for reason, count in kept.items() if reason in _FOLLOWS)
    for index, group in enumerate(failed):
        yield _failed(group, kept.get(group.reason, 0) + (followed if index == 0 else 0))
    for group in seen.overview.groups:
        yield from _waiting(seen, group)
    for (state, reason, message), lines in groups.items():
        yield from _mirrors(seen, state, reason, message, lines)


def _is_known(seen: Picture, line: MirrorLine) -> bool:
    """Whether it is found where it comes from: in the Secrets and ConfigMaps."""
    spec = seen.mirrors[line.name].spec
    return line.reason.startswith("Reference") and spec is not None and readable(seen, spec)


def _failed(group: NodeGroup, kept: int) -> Finding:
    held = f"; it keeps {kept} RegistryMirrors back" if kept > 1 else ""
    return _finding("error", group.reason, nodes_named(group.names, group.count), f"{group.message}{held}", group)


def _waiting(seen: Picture, group: NodeGroup) -> Iterator[Finding]:
    subject = nodes_named(group.names, group.count)
    since = seconds(group.since)
    if group.state == "drifted":
        yield _finding("warning", group.reason, subject, group.message, group)
    elif group.state == "waiting":
        yours = group.reason in _WAITS and seen.policy.rollout.restart == "Never"
        if yours:
            text = f"{group.message}; the policy has rollout.restart: Never, so the restart is yours"
            yield _finding("warning", group.reason, subject, text, group)
        elif _long(seen, since) and group.reason != _PAUSED:
            yield _finding("warning", group.reason, subject, _lasts(seen, group.message, since), group)
    elif group.state in ("changing", "restarting") and _long(seen, since):
        yield _finding("warning", group.reason, subject, _lasts(seen, group.message, since), group)


def _finding(severity: Severity, reason: str, subject: str, evidence: str, group: NodeGroup) -> Finding:
    return Finding(
        reason=reason,
        severity=severity,
        subject=subject,
        evidence=short(evidence, _EVIDENCE) or reason,
        remedy=_remedy(reason, f"{_LOGS}=agent"),
    )


def _mirrors(seen: Picture, state: str, reason: str, message: str, lines: list[MirrorLine]) -> Iterator[Finding]:
    names = [line.name for line in lines]
    since = min((seconds(line.since) for line in lines if line.since), default=0.0)
    severity: Severity = "error" if state == "Stalled" or reason == "ReferenceNotFound" else "warning"
    if severity == "warning" and not _long(seen, since):
        return
    yield Finding(
        reason=reason,
        severity=severity,
        subject=mirrors_named(names),
        evidence=short(message if severity == "error" else _lasts(seen, message, since), _EVIDENCE) or reason,
        remedy=_remedy(reason, f"kubectl describe registrymirror {names[0]}"),
    )


def _remedy(reason: str, look: str) -> str:
    return _REMEDIES.get(reason) or f"do what the message says; docs/conditions.md has {reason}, and see {look}"


def _long(seen: Picture, since: float) -> bool:
    return bool(since) and seen.now - since > _LONG


def _lasts(seen: Picture, message: str, since: float) -> str:
    minutes = int(seen.now - since) // 60
    return f"for {minutes // 60} h now: {message}" if minutes >= 120 else f"for {minutes} min now: {message}"
