"""Nodes without an agent, with an old one, or with a taint that nobody takes away."""

from __future__ import annotations

from collections.abc import Iterator

from ...api.conditions import is_true
from ..finding import Finding, Severity
from ..plan import unsupported
from ..startup import TAINT
from ..words import some
from .picture import NodeSeen, Picture, nodes_named

_YOUNG = 180.0  # as long as an agent's image is pulled, and it has a first look
_TAINTED = 900.0
_AGENT = "kubectl -n registry-mirror-system describe"


def of_agents(seen: Picture) -> Iterator[Finding]:
    """Nodes that are Ready and no agent looks after, by what is the matter."""
    found: dict[tuple[str, Severity, str, str], list[str]] = {}
    for name, node in sorted((seen.nodes or {}).items()):
        if not node.ready:
            continue
        told = _agent(seen, node)
        if told is not None:
            found.setdefault(told, []).append(name)
    for (reason, severity, evidence, remedy), names in found.items():
        yield Finding(
            reason=reason,
            severity=severity,
            subject=nodes_named(names),
            evidence=evidence,
            remedy=remedy,
        )


def _agent(seen: Picture, node: NodeSeen) -> tuple[str, Severity, str, str] | None:
    """Give reason, severity, evidence and remedy."""
    config = seen.configs.get(node.name)
    stalled = config is not None and is_true(config.status.conditions, "Stalled")
    silent = not stalled and (config is None or config.status.runtime is None)
    if silent and seen.now - node.created < _YOUNG:
        return None
    severity: Severity = "error" if silent else "warning"
    kept = "" if silent else "; what the node has stays in force, and nothing new comes"
    if seen.agents is None:
        look = "kubectl -n registry-mirror-system get pods -o wide"
        return ("AgentNotReporting", severity, "the agent has not reported yet", look) if silent else None
    pod = seen.agents.get(node.name)
    if pod is None:
        text = f"no Pod of the DaemonSet registry-mirror-agent is there{kept}"
        return "AgentMissing", severity, text, f"{_AGENT} daemonset registry-mirror-agent says why"
    if not pod.ready:
        text = f"the agent's Pod is not ready: {pod.told}{kept}"
        return "AgentNotReady", severity, text, f"{_AGENT} pods -l app.kubernetes.io/component=agent says more"
    if silent:
        look = "kubectl -n registry-mirror-system logs -l app.kubernetes.io/component=agent says why"
        return "AgentNotReporting", severity, "the agent's Pod is ready, but has not reported yet", look
    return None


def of_versions(seen: Picture) -> Iterator[Finding]:
    """Agents and controller of different versions."""
    versions: dict[str, list[str]] = {}
    for name, config in sorted(seen.configs.items()):
        if config.status.agent_version:
            versions.setdefault(config.status.agent_version, []).append(name)
    if len(versions) > 1:
        text = ", ".join(f"{version} on {nodes_named(names)}" for version, names in sorted(versions.items()))
        yield _differ("the agents", f"their versions are {text}")
    images = {}
    for kind, body in (seen.parts.workloads or {}).items():
        spec = ((body or {}).get("spec") or {}).get("template", {}).get("spec", {})
        images[kind] = [str(item.get("image")) for item in spec.get("containers") or ()][:1]
    found = {kind: image[0] for kind, image in images.items() if image}
    if len(set(found.values())) > 1:
        text = " and ".join(f"the {kind} has {image}" for kind, image in sorted(found.items()))
        yield _differ("controller and agents", text)


def _differ(subject: str, evidence: str) -> Finding:
    return Finding(
        reason="VersionsDiffer",
        severity="warning",
        subject=subject,
        evidence=evidence,
        remedy="apply one version of the manifests, and look at kubectl -n registry-mirror-system rollout status "
        "daemonset/registry-mirror-agent",
    )


def of_taints(seen: Picture) -> Iterator[Finding]:
    """The startup taint, where nobody takes it away any more."""
    old = [
        name
        for name, node in sorted((seen.nodes or {}).items())
        if node.tainted and (not seen.policy.startup_taint or seen.now - node.created > _TAINTED)
    ]
    if not old:
        return
    if not seen.policy.startup_taint:
        yield Finding(
            reason="StartupTaintIgnored",
            severity="error",
            subject=nodes_named(old),
            evidence=f"the taint {TAINT} keeps Pods away, and RegistryMirrorPolicy default does not say startupTaint: "
            "true: nobody takes it away",
            remedy="set spec.startupTaint: true in the policy, or take the taint away with kubectl taint node",
        )
        return
    yield Finding(
        reason="StartupTaintKept",
        severity="error",
        subject=nodes_named(old),
        evidence=f"the taint {TAINT} has kept Pods away for longer than a quarter of an hour: the mirrors of the node "
        "are not in place",
        remedy=f"kubectl describe node {old[0]} has an Event that says why; see docs/how-to/startup-taint.md",
    )


def of_runtimes(seen: Picture) -> Iterator[Finding]:
    """Runtimes for which nothing can be rendered, before there is an object that says so."""
    told = {line.reason for line in seen.overview.mirrors if line.state == "Stalled"}
    found: dict[tuple[str, str], list[str]] = {}
    for name, config in sorted(seen.configs.items()):
        facts = config.status.runtime
        problem = unsupported(facts) if facts is not None else None
        if problem is not None and problem[0] not in told:
            found.setdefault(problem, []).append(name)
    for (reason, message), names in found.items():
        yield Finding(
            reason=reason,
            severity="warning",
            subject=nodes_named(names),
            evidence=f"no mirror can be in force there: {message}",
            remedy=f"see docs/conditions.md, {reason}, or exclude {some(names)} with nodeSelector",
        )
