"""What Argo CD and Flux make of every state that an object can be in: the Lua itself is run, and both must agree."""

from __future__ import annotations

import itertools
from typing import Any, get_args

import msgspec
import pytest
import yaml

from registry_mirror.api.conditions import condition, merge
from registry_mirror.api.errors import FieldError, InvalidError
from registry_mirror.api.models import RegistryMirrorPolicyStatus, RegistryMirrorStatus
from registry_mirror.core.plan import NodeView
from registry_mirror.core.rollout import Hold
from registry_mirror.core.status import policy_status
from tests.gitops import argocd, kstatus
from tests.pure.nodes import CONFLICT, NOW, PROBLEM, WAITS, Progress, node, status_of

# What kstatus knows no word for is in progress to it.
SAME = {"Healthy": "Current", "Degraded": "Failed", "Progressing": "InProgress", "Suspended": "InProgress"}
NOT_FOUND = InvalidError("RegistryMirror m", (FieldError("spec.x", "no Secret s", "create it"),), "ReferenceNotFound")
INVALID = InvalidError("RegistryMirror m", (FieldError("spec.x", "'y'", "write z"),))
NODES: dict[str, NodeView] = {
    **{progress: node(progress, progress) for progress in get_args(Progress)},
    "absent": node("absent", None),
    "waiting for a restart": node("w", "waiting", WAITS),
    "conflict": node("c", plan=CONFLICT),
    "problem": node("p", plan=PROBLEM),
}
HOLDS = ("Paused", "CanaryPending", "Soaking", "WaitingForSlot", "OutsideWindow", "RolloutPending", "RolloutHalted")


def held(reason: str, *nodes: NodeView) -> RegistryMirrorStatus:
    """The status when all those nodes have to wait for that reason."""
    return status_of(*nodes, holds={item.name: Hold(reason, f"because of {reason}") for item in nodes})


def mirror(status: RegistryMirrorStatus | None, generation: int = 3) -> dict[str, Any]:
    """A RegistryMirror as the API server gives it; ``status_of`` speaks of generation 3."""
    body: dict[str, Any] = {"metadata": {"name": "m", "generation": generation}, "spec": {"registry": "docker.io"}}
    return body if status is None else {**body, "status": msgspec.to_builtins(status)}


def states() -> list[dict[str, Any]]:
    """Every state of a RegistryMirror on up to two nodes, sound and broken, free to go on and held."""
    found = []
    for count in range(3):
        for nodes in itertools.combinations(NODES.values(), count):
            found += [mirror(status_of(*nodes, error=error)) for error in (None, NOT_FOUND, INVALID)]
            found += [mirror(held(reason, *nodes)) for reason in HOLDS]
    return found


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (status_of(), "Healthy"),
        (status_of(node("a")), "Healthy"),
        (status_of(node("a", "drifted")), "Healthy"),
        (status_of(node("a"), node("b", plan=CONFLICT)), "Healthy"),
        (status_of(node("a", None)), "Progressing"),
        (status_of(node("a", "applying")), "Progressing"),
        (status_of(node("a", "waiting", WAITS)), "Progressing"),
        (status_of(node("a"), error=NOT_FOUND), "Progressing"),
        (held("Paused", node("a", "untold")), "Suspended"),
        (held("WaitingForSlot", node("a", "untold")), "Progressing"),
        (held("OutsideWindow", node("a", "waiting", WAITS)), "Progressing"),
        (held("RolloutHalted", node("a", "untold"), node("b")), "Degraded"),
        (status_of(node("a"), node("b", "stalled")), "Degraded"),
        (status_of(node("a", plan=PROBLEM)), "Degraded"),
        (status_of(node("a", plan=CONFLICT)), "Degraded"),
        (status_of(node("a"), error=INVALID), "Degraded"),
    ],
)
def test_argocd_shows_a_mirror_as_it_is_and_says_why(status: RegistryMirrorStatus, expected: str) -> None:
    health, message = argocd.health("RegistryMirror", mirror(status))

    assert health == expected
    assert message == status.conditions[0].message


def test_argocd_and_kstatus_agree_on_every_state() -> None:
    seen = set()
    for body in states():
        health, message = argocd.health("RegistryMirror", body)
        assert SAME[health] == kstatus.compute(body), body
        assert message
        seen.add(health)
    assert seen == set(SAME)


def test_a_mirror_is_ready_exactly_if_both_say_so() -> None:
    for body in states():
        ready = body["status"]["conditions"][0]
        assert ready["type"] == "Ready"
        assert (ready["status"] == "True") == (argocd.health("RegistryMirror", body)[0] == "Healthy"), body


@pytest.mark.parametrize("kind", ["RegistryMirror", "RegistryMirrorPolicy", "NodeRegistryConfig"])
def test_nothing_is_believed_that_was_said_of_another_generation(kind: str) -> None:
    for status in (status_of(node("a")), status_of(node("a", "stalled"))):
        for generation in (2, 4):
            body = mirror(status, generation)
            assert argocd.health(kind, body) == (
                "Progressing",
                f"the {'agent' if kind == 'NodeRegistryConfig' else 'controller'} has not seen this generation yet",
            )
            assert kstatus.compute(body) == "InProgress"


@pytest.mark.parametrize("kind", ["RegistryMirror", "RegistryMirrorPolicy", "NodeRegistryConfig"])
def test_what_nobody_has_spoken_of_yet_is_no_success(kind: str) -> None:
    assert argocd.health(kind, mirror(None))[0] == "Progressing"
    without_conditions = {"metadata": {"generation": 1}, "status": {"observedGeneration": 1}}
    assert argocd.health(kind, without_conditions)[0] == "Progressing"


@pytest.mark.parametrize("status", ["False", "Unknown"])
@pytest.mark.parametrize("kind", ["RegistryMirror", "RegistryMirrorPolicy"])
def test_what_is_not_ready_for_no_known_reason_is_no_success_either(kind: str, status: str) -> None:
    ready = {"type": "Ready", "status": status, "reason": "New", "message": "of a newer version"}
    body = {"metadata": {"generation": 1}, "status": {"observedGeneration": 1, "conditions": [ready]}}

    assert argocd.health(kind, body) == ("Progressing", "of a newer version")
    assert kstatus.compute(body) == "InProgress"


def with_conditions(*conditions: tuple[str, bool, str], **spec: Any) -> dict[str, Any]:
    """An object of any kind whose conditions have their reasons as messages."""
    found = merge((), (condition(*item, item[2]) for item in conditions), generation=1, now=NOW)
    status = {"observedGeneration": 1, "conditions": msgspec.to_builtins(found)}
    return {"metadata": {"generation": 1}, "spec": spec, "status": status}


def policy(*errors: FieldError, **rollout: Any) -> dict[str, Any]:
    """A RegistryMirrorPolicy with the status that it is given when that is wrong with it."""
    status = policy_status(1, errors, RegistryMirrorPolicyStatus(), NOW)
    return {"metadata": {"generation": 1}, "spec": {"rollout": rollout}, "status": msgspec.to_builtins(status)}


BAD_WINDOW = FieldError("spec.rollout.windows[0].schedule", "'x'", "write five fields")


@pytest.mark.parametrize(
    ("body", "expected", "same"),
    [
        (policy(), "Healthy", "Current"),
        (policy(paused=False), "Healthy", "Current"),
        (policy(paused=True), "Suspended", "Current"),
        (policy(BAD_WINDOW), "Degraded", "Failed"),
        (policy(BAD_WINDOW, paused=True), "Degraded", "Failed"),
        (with_conditions(("Ready", False, "New"), rollout={"paused": True}), "Progressing", "InProgress"),
        (with_conditions(("Ready", False, "New"), ("Reconciling", True, "New")), "Progressing", "InProgress"),
    ],
)
def test_argocd_shows_a_policy_as_it_is(body: dict[str, Any], expected: str, same: str) -> None:
    assert argocd.health("RegistryMirrorPolicy", body)[0] == expected
    assert kstatus.compute(body) == same


APPLIED, WORKS = ("Applied", True, "Applied"), ("RuntimeHealthy", True, "Listening")


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ((APPLIED,), ("Healthy", "Applied")),
        ((APPLIED, WORKS, ("RestartRequired", False, "NotRequired")), ("Healthy", "Applied")),
        ((APPLIED, ("Drifted", True, "Reported")), ("Healthy", "Applied")),
        ((APPLIED, WORKS, ("RestartRequired", True, "StartSettings")), ("Progressing", "StartSettings")),
        ((("Applied", False, "Restarting"), ("RuntimeHealthy", False, "Restarting")), ("Progressing", "Restarting")),
        ((("Applied", False, "BundleNotFound"), WORKS), ("Progressing", "BundleNotFound")),
        ((APPLIED, ("RuntimeHealthy", False, "RuntimeNotAnswering")), ("Degraded", "RuntimeNotAnswering")),
        ((APPLIED, ("Stalled", True, "RolledBack")), ("Degraded", "RolledBack")),
        ((("Applied", False, "WriteFailed"), ("Stalled", True, "WriteFailed")), ("Degraded", "WriteFailed")),
        ((WORKS,), ("Progressing", "the agent has not reported yet")),
    ],
)
def test_argocd_shows_a_node_as_it_is(conditions: tuple[tuple[str, bool, str], ...], expected: tuple[str, str]) -> None:
    body = with_conditions(*conditions)

    assert argocd.health("NodeRegistryConfig", body) == expected
    if kstatus.compute(body) == "Failed":
        assert expected[0] == "Degraded"


def test_there_is_a_check_for_every_kind_and_the_kinds_are_those_of_the_crds() -> None:
    crds = argocd.CONFIG.parents[2] / "crds"
    kinds = set()
    for path in crds.glob("*.yaml"):
        body = yaml.safe_load(path.read_text())
        if body["kind"] == "CustomResourceDefinition":
            kinds.add(f"{body['spec']['group']}_{body['spec']['names']['kind']}")
    assert argocd.scripts().keys() == kinds
