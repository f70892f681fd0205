"""The startup taint: what keeps it on a node, and the patch that takes it away."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, strategies as st
from msgspec.structs import replace

from registry_mirror.api.errors import FieldError, InvalidError
from registry_mirror.api.models import RestartStatus
from registry_mirror.core import startup
from registry_mirror.core.plan import NodePlan, NodeView
from registry_mirror.core.rollout import Hold
from registry_mirror.core.startup import TAINT
from tests.pure.nodes import BUNDLE, PROBLEM, WAITS, Progress, config, node

OURS = {"key": TAINT, "effect": "NoSchedule"}
OTHER = {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}
NO_SECRET = InvalidError("m", (FieldError("spec", "Secret x does not exist", "create it"),), "ReferenceNotFound")


def kept(view: NodeView, hold: Hold | None = None) -> tuple[str, bool] | None:
    """The reason why the taint stays, and whether it is said at once; None if it goes."""
    found = startup.missing(view, hold, {})
    return (found.reason, found.lasting) if found is not None else None


@pytest.mark.parametrize(
    ("progress", "reason", "lasting"),
    [
        ("untold", "RolloutPending", False),
        ("applying", "Applying", False),
        ("silent", "AgentNotReporting", False),
        ("stalled", "DiskFull", True),
        ("silent and stalled", "DiskFull", True),
        ("waiting", "RestartRequired", False),
    ],
)
def test_the_taint_stays_until_all_is_in_place(progress: Progress, reason: str, lasting: bool) -> None:
    assert kept(node("n", progress, WAITS)) == (reason, lasting)


@pytest.mark.parametrize("plan", [WAITS, NodePlan(BUNDLE, frozenset()), NodePlan(BUNDLE, frozenset(), {"m": "other"})])
def test_the_taint_goes_when_what_is_planned_is_there(plan: NodePlan) -> None:
    assert kept(node("n", "applied", plan)) is None
    assert kept(node("n", "drifted", plan)) is None


def test_without_an_object_or_a_plan_the_agent_has_not_reported() -> None:
    assert kept(node("n", None)) == ("AgentNotReporting", False)
    assert kept(node("n", "applied", NodePlan(None, frozenset()))) == ("AgentNotReporting", False)


def test_a_restart_that_goes_on_keeps_the_taint() -> None:
    found = config("applied")
    at_work = RestartStatus(revision="new", started_at="2026-08-01T10:00:00Z", result="InProgress")
    for restart, reason in ((at_work, ("Restarting", False)), (replace(at_work, result="Succeeded"), None)):
        view = NodeView("n", WAITS, replace(found, status=replace(found.status, restart=restart)))
        assert kept(view) == reason


@pytest.mark.parametrize("progress", ["untold", "waiting"])
@pytest.mark.parametrize(
    ("reason", "lasting"),
    [("Paused", True), ("RolloutHalted", True), ("OutsideWindow", True), ("WaitingForSlot", False), ("Soaking", False)],
)
def test_a_hold_is_the_reason_and_said_at_once_where_it_does_not_pass_by_itself(
    progress: Progress, reason: str, lasting: bool
) -> None:
    assert kept(node("n", progress, WAITS), Hold(reason, "held")) == (reason, lasting)


def test_a_mirror_that_cannot_be_had_there_keeps_the_taint() -> None:
    found = startup.missing(node("n", "applied", PROBLEM), None, {})
    assert found == startup.Keep("RewriteUnsupported", "RegistryMirror m: exclude the nodes", lasting=True)


def test_a_mirror_that_was_never_good_keeps_the_taint() -> None:
    found = startup.missing(node("n"), None, {"m": NO_SECRET})
    assert found is not None
    assert (found.reason, found.lasting) == ("ReferenceNotFound", True)
    assert found.message.startswith("RegistryMirror m: ")
    assert "Secret x" in found.message
    event = startup.told(found, "n")
    assert (event.type, event.reason) == ("Warning", "StartupTaintKept")
    assert event.message.startswith(f"the taint {TAINT} stays: ReferenceNotFound: RegistryMirror m: ")


def test_a_taint_that_nobody_removes_is_told_with_what_to_do() -> None:
    event = startup.told(startup.IGNORED, "worker-1")
    assert (event.type, event.reason) == ("Warning", "StartupTaintIgnored")
    assert f"kubectl taint node worker-1 {TAINT}-" in event.message
    assert "spec.startupTaint" in event.message


def test_without_the_taint_there_is_nothing_to_remove() -> None:
    assert startup.removal("u", []) == []
    assert startup.removal("u", [OTHER]) == []
    assert not startup.carries([OTHER, {"key": f"{TAINT}-yet", "effect": "NoSchedule"}, {}])
    assert startup.carries([OTHER, {**OURS, "effect": "NoExecute", "value": "x"}])


TAINTS = st.lists(
    st.fixed_dictionaries(
        {
            "key": st.sampled_from([TAINT, "a", "b", f"{TAINT}x"]),
            "effect": st.sampled_from(["NoSchedule", "NoExecute"]),
        },
        optional={"value": st.sampled_from(["", "true"])},
    ),
    max_size=6,
)


@given(TAINTS)
def test_the_patch_removes_ours_and_leaves_the_others_in_order(taints: list[dict[str, Any]]) -> None:
    before = copy.deepcopy(taints)
    assert patched(before, startup.removal("u", taints)) == [item for item in taints if item["key"] != TAINT]


@given(TAINTS, TAINTS)
def test_the_patch_is_refused_or_removes_nothing_but_ours_from_another_list(
    taints: list[dict[str, Any]], now: list[dict[str, Any]]
) -> None:
    try:
        after = patched(copy.deepcopy(now), startup.removal("u", taints))
    except (LookupError, ValueError):
        return
    assert [item for item in after if item["key"] != TAINT] == [item for item in now if item["key"] != TAINT]


def patched(taints: list[dict[str, Any]], patch: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What an API server makes of the taints of a Node with the UID u: RFC 6902, as far as it is needed here."""
    for step in patch:
        if step["path"] == "/metadata/uid":
            assert step == {"op": "test", "path": "/metadata/uid", "value": "u"}
            continue
        index = int(step["path"].removeprefix("/spec/taints/"))
        if step["op"] == "test" and taints[index] != step["value"]:
            raise ValueError(step)
        if step["op"] == "remove":
            del taints[index]
    return taints
