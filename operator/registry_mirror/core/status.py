"""What a RegistryMirror's status says, summed up from the plans and from what the agents report.

Conditions only, never a phase: Ready, Reconciling and Stalled as kstatus reads them, Conflicted and EndpointsReachable.
Only Stalled says that somebody has to change something.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from ..api.conditions import Condition, condition, find, is_true, merge
from ..api.errors import FieldError, InvalidError
from ..api.models import (
    NodeCounts,
    NodeFailure,
    Probe,
    RegistryMirrorPolicyStatus,
    RegistryMirrorSpec,
    RegistryMirrorStatus,
)
from . import reachability
from .tally import NodeState, Tally
from .words import counted, short, some

MAX_FAILURES = 10
_MAX_TEXT = 1000


def mirror_status(
    *,
    generation: int,
    spec: RegistryMirrorSpec | None,
    error: InvalidError | None,
    tally: Tally,
    old: RegistryMirrorStatus,
    now: str,
    probe: Probe = Probe(),  # noqa: B008 - frozen
) -> RegistryMirrorStatus:
    """Give the status of one mirror.

    Takes its spec (None if it could not be read), what is wrong with it or its references, the sum over all nodes, the
    status it has, the present time (RFC 3339) and how endpoints are probed. Equal input gives an equal status: nothing
    to write.
    """
    counts = tally.counts()
    wanted = _broken(error, counts) if error is not None else _summary(spec, tally, counts)
    failures = tuple(
        NodeFailure(node=item.node, reason=item.reason, message=short(item.message, _MAX_TEXT))
        for item in tally.of("failed")[:MAX_FAILURES]
    )
    endpoints = {} if probe.mode == "Off" else tally.endpoints
    wanted = (*wanted, _conflicted(tally), reachability.summary(spec, endpoints, probe))
    return RegistryMirrorStatus(
        observed_generation=generation,
        conditions=merge(old.conditions, wanted, generation=generation, now=now),
        nodes=counts,
        failures=failures,
        endpoints=reachability.statuses(spec, endpoints),
    )


def policy_status(
    generation: int, errors: Sequence[FieldError], old: RegistryMirrorPolicyStatus, now: str
) -> RegistryMirrorPolicyStatus:
    """Give the status of the policy: takes what is wrong with it that the API server cannot see, the status it has and
    the present time (RFC 3339).
    """
    if errors:
        text = f"{'; '.join(map(str, errors))}. Runtimes are not restarted until then"
        wanted = _triple(False, "InvalidSpec", text, stalled=True)
    else:
        wanted = _triple(True, "InForce", "")
    conditions = merge(old.conditions, wanted, generation=generation, now=now)
    return RegistryMirrorPolicyStatus(observed_generation=generation, conditions=conditions)


def _triple(
    ready: bool, reason: str, message: str, *, reconciling: bool = False, stalled: bool = False
) -> tuple[Condition, ...]:
    """Ready, Reconciling and Stalled for one finding."""
    message = short(message, _MAX_TEXT)
    return (
        condition("Ready", ready, reason, message),
        condition("Reconciling", reconciling, reason if reconciling else "Idle", message if reconciling else ""),
        condition("Stalled", stalled, reason if stalled else "Working", message if stalled else ""),
    )


def _broken(error: InvalidError, counts: NodeCounts) -> tuple[Condition, ...]:
    message = error.detail
    if counts.selected:
        message += f". The last good configuration stays in force on {counted(counts.selected)}"
    missing = error.reason == "ReferenceNotFound"
    return _triple(False, error.reason, message, reconciling=missing, stalled=not missing)


def _summary(spec: RegistryMirrorSpec | None, tally: Tally, counts: NodeCounts) -> tuple[Condition, ...]:
    if not counts.selected and tally.conflicts:
        winners = ", ".join(sorted({winner for _, winner in tally.conflicts}))
        text = f"in force on no node: RegistryMirror {winners} configures the same registry and takes precedence"
        return _triple(False, "Conflicted", text, stalled=True)
    if not counts.selected:
        return _triple(True, "NoNodesSelected", "no node matches spec.nodeSelector")
    failed, pending = tally.of("failed"), tally.of("pending")
    halted = [item for item in pending if item.reason == "RolloutHalted"]
    if failed or halted:
        # Never Reconciling too, whatever goes on elsewhere: kstatus would read that as progress, and the failure would
        # not be seen until the last node is done.
        stuck = [*failed, *halted]
        text = f"{len(stuck)} of {counted(counts.selected)}: {_grouped(stuck)}"
        return _triple(False, stuck[0].reason, text, stalled=True)
    if pending:
        text = f"in force on {counts.applied} of {counted(counts.selected)}; {_grouped(pending)}"
        return _triple(False, pending[0].reason, text, reconciling=True)
    text = f"in force on {counts.applied} of {counted(counts.selected)}"
    if spec is not None and not spec.endpoints:
        text += (
            "; spec.endpoints is empty, so it only shares images through the embedded registry of K3s and RKE2, which "
            f"is enabled on {counted(tally.embedded)}"
        )
    return _triple(True, "Applied", text)


def _conflicted(tally: Tally) -> Condition:
    if not tally.conflicts:
        return condition("Conflicted", False, "NoConflict", "")
    winners = sorted({winner for _, winner in tally.conflicts})
    first = min(tally.conflicts)[0]
    return condition(
        "Conflicted",
        True,
        "LowerPrecedence",
        f"RegistryMirror {', '.join(winners)} takes precedence on {counted(len(tally.conflicts))} (such as {first}): "
        "the highest spec.priority wins, then the oldest object, then the name",
    )


def _grouped(states: Sequence[NodeState]) -> str:
    """Say what the nodes have in common, most frequent first: ``a, b: message; c: message``."""
    groups: dict[str, list[str]] = {}
    for item in states:
        groups.setdefault(item.message, []).append(item.node)
    parts = []
    for message, names in sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))[:3]:
        parts.append(f"{some(names)}: {message}")
    return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class Transition:
    """Something that is worth an Event on the object."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


def transitions(old: Sequence[Condition], new: Sequence[Condition]) -> Iterator[Transition]:
    """Give an event for each change that a person wants to hear of: became ready, became stalled (or for another
    reason), lost to another object, has endpoints that do not answer or do again. Progress alone is none.
    """
    if is_true(new, "Ready") and not is_true(old, "Ready"):
        ready = find(new, "Ready")
        assert ready is not None
        yield Transition("Normal", ready.reason, ready.message)
    for type_ in ("Stalled", "Conflicted"):
        after, before = find(new, type_), find(old, type_)
        if after is None or after.status != "True":
            continue
        if before is None or before.status != "True" or before.reason != after.reason:
            yield Transition("Warning", after.reason, after.message)
    answers, answered = find(new, "EndpointsReachable"), find(old, "EndpointsReachable")
    if answers is not None and answers.status == "False":
        if answered is None or (answered.status, answered.reason) != (answers.status, answers.reason):
            yield Transition("Warning", answers.reason, answers.message)
    elif answers is not None and answers.status == "True" and answered is not None and answered.status == "False":
        yield Transition("Normal", answers.reason, answers.message)
