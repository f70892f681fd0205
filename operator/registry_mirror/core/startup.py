"""The startup taint: whether the mirrors of a new node are in place, so that Pods may come, or what is still missing.

Kubelets set taints when they register their Node, and never again (kubelet 1.36, kubelet_node_status.go: a Node that is
there already keeps what it has). Nothing here ever adds one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..api.conditions import find
from ..api.errors import InvalidError
from ..api.models import GROUP
from .plan import NodeView
from .rollout import Hold
from .status import Transition

TAINT = f"{GROUP}/not-ready"

# Holds that end only when somebody does something, or at an hour that somebody chose. The others pass by themselves.
_LASTING_HOLDS = frozenset({"Paused", "RolloutHalted", "OutsideWindow"})


@dataclass(frozen=True, slots=True)
class Keep:
    """Why the taint stays; ``lasting``: somebody should hear of it at once, as it does not pass by itself."""

    reason: str
    message: str
    lasting: bool = False


IGNORED = Keep("StartupTaintIgnored", "spec.startupTaint is not set in RegistryMirrorPolicy default")


def carries(taints: Iterable[Mapping[str, Any]]) -> bool:
    """Tell whether the startup taint is among a Node's taints, with any effect and any value."""
    return any(item.get("key") == TAINT for item in taints)


def missing(node: NodeView, hold: Hold | None, broken: Mapping[str, InvalidError]) -> Keep | None:
    """Say what is missing before Pods may come to a node; None if all its mirrors are in place.

    Takes the node with its plan, why it has to wait (None: it need not), and the mirrors that are meant for it, but
    cannot be had anywhere because they, or what they refer to, cannot be read.
    """
    config, plan = node.config, node.plan
    stalled = find(config.status.conditions, "Stalled") if config is not None else None
    if stalled is not None and stalled.status == "True":
        return Keep(stalled.reason, stalled.message, lasting=True)
    if config is None or config.status.runtime is None or plan.bundle is None:
        return Keep("AgentNotReporting", "the agent has not reported yet")
    for name, problem in sorted(plan.problems.items()):
        return Keep(problem.reason, f"RegistryMirror {name}: {problem.message}", lasting=True)
    for name, error in sorted(broken.items()):
        return Keep(error.reason, f"RegistryMirror {name}: {error.detail}", lasting=True)
    if config.spec.revision != plan.bundle.revision:
        return _held(hold, "RolloutPending", "the node has not been given the revision yet")
    if config.status.applied_revision != plan.bundle.revision:
        return Keep("Applying", "the agent has not applied the revision yet")
    if config.status.waiting_for_restart:
        text = f"a restart of the runtime brings into force: {', '.join(config.status.waiting_for_restart)}"
        return _held(hold, "RestartRequired", text)
    if config.status.restart is not None and config.status.restart.result == "InProgress":
        return Keep("Restarting", "the runtime is being restarted")
    return None


def _held(hold: Hold | None, reason: str, message: str) -> Keep:
    if hold is None:
        return Keep(reason, message)
    return Keep(hold.reason, f"{message}; {hold.message}", hold.reason in _LASTING_HOLDS)


def removal(uid: str, taints: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Give the JSON patch that takes the startup taint from a Node; empty if it has none.

    ``spec.taints`` is one list that several controllers write, so that a patch of the whole would undo what another one
    did a moment ago. This one is refused if it is another Node of the same name by now, or if the list has moved.
    """
    found = [(index, dict(item)) for index, item in enumerate(taints) if item.get("key") == TAINT]
    if not found:
        return []
    patch: list[dict[str, Any]] = [{"op": "test", "path": "/metadata/uid", "value": uid}]
    for index, item in reversed(found):  # from behind: what is removed moves what comes after it
        path = f"/spec/taints/{index}"
        patch += [{"op": "test", "path": path, "value": item}, {"op": "remove", "path": path}]
    return patch


def told(keep: Keep, node: str) -> Transition:
    """Give the Event on a Node for a taint that stays."""
    if keep == IGNORED:
        text = f"the node has the taint {TAINT}, and {keep.message}: set it, or: kubectl taint node {node} {TAINT}-"
        return Transition("Warning", IGNORED.reason, text)
    return Transition("Warning", "StartupTaintKept", f"the taint {TAINT} stays: {keep.reason}: {keep.message}")


REMOVED = Transition("Normal", "StartupTaintRemoved", f"the mirrors are in place; the taint {TAINT} was removed")
