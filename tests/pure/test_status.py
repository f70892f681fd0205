"""What a RegistryMirror's status says for every state of its nodes: kstatus and people act on it, so each branch is
here, and equal facts must give an equal status, or the controller would write for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace as replace_plan
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from registry_mirror.api.conditions import Condition, find, is_true
from registry_mirror.api.errors import FieldError, InvalidError
from registry_mirror.api.models import RegistryMirrorPolicyStatus
from registry_mirror.core.bundle import MirrorProblem
from registry_mirror.core.plan import NodePlan, NodeView
from registry_mirror.core.rollout import Hold
from registry_mirror.core.status import policy_status
from tests.pure.builders import parsed
from tests.pure.nodes import BUNDLE, CONFLICT, IN_FORCE, LATER, NOW, PROBLEM, WAITS, config, node, status_of

WITHOUT_ENDPOINTS = parsed("docker.io").spec
NO_FACTS = NodePlan(None, frozenset({"m"}))
NOT_FOUND = InvalidError("RegistryMirror m", (FieldError("spec.x", "no Secret s", "create it"),), "ReferenceNotFound")
INVALID = InvalidError("RegistryMirror m", (FieldError("spec.x", "'y'", "write z"),))


def brief(conditions: Sequence[Condition]) -> str:
    """``Ready/reason`` and which of the other three are True."""
    true = [item.type for item in conditions if item.status == "True"]
    ready = find(conditions, "Ready")
    assert ready is not None
    return " ".join([ready.reason, *true])


HALTED = Hold("RolloutHalted", "halted: it failed on a")


def restarting(name: str) -> NodeView:
    """A node whose agent is about to restart the runtime."""
    found = config("waiting")
    said = Condition(type="RestartRequired", status="True", reason="Quiescing", message="waiting for 2 containers")
    return NodeView(name, WAITS, replace(found, status=replace(found.status, conditions=(said,))))


MADE = replace_plan(IN_FORCE, prints={"m": "as it is"})
MADE_AND_WAITS = replace_plan(WAITS, prints={"m": "as it is"})
TYPES = ["Ready", "Reconciling", "Stalled", "Conflicted", "EndpointsReachable"]
Counts = tuple[int, int, int, int, int]
CASES: dict[str, tuple[dict[str, Any], list[NodeView], str, Counts, str]] = {
    "no nodes": ({}, [], "NoNodesSelected Ready", (0, 0, 0, 0, 0), "no node matches spec.nodeSelector"),
    "applied": ({}, [node("a"), node("b")], "Applied Ready", (2, 2, 0, 0, 0), "in force on 2 of 2 nodes"),
    "one node": ({}, [node("a")], "Applied Ready", (1, 1, 0, 0, 0), "in force on 1 of 1 node"),
    "embedded registry only": (
        {"spec": WITHOUT_ENDPOINTS},
        [node("a", plan=NodePlan(BUNDLE, frozenset({"m"}), embedded_registry=True)), node("b")],
        "Applied Ready",
        (2, 2, 0, 0, 0),
        "spec.endpoints is empty, so it only shares images through the embedded registry of K3s and RKE2, which is "
        "enabled on 1 node",
    ),
    "drifted": ({}, [node("a", "drifted")], "Applied Ready", (1, 1, 0, 0, 1), "in force on 1 of 1 node"),
    "no agent": (
        {},
        [node("a"), node("b", None)],
        "AgentNotReporting Reconciling",
        (2, 1, 1, 0, 0),
        "in force on 1 of 2 nodes; b: the agent has not reported yet",
    ),
    "agent without facts": (
        {},
        [node("a", "silent", NO_FACTS)],
        "AgentNotReporting Reconciling",
        (1, 0, 1, 0, 0),
        "a: the agent has not reported yet",
    ),
    "agent that cannot find a runtime": (
        {},
        [node("a", "silent and stalled", NO_FACTS)],
        "DiskFull Stalled",
        (1, 0, 0, 1, 0),
        "1 of 1 node: a: no space left",
    ),
    "applying": (
        {},
        [node("a", "applying")],
        "Applying Reconciling",
        (1, 0, 1, 0, 0),
        "a: the agent has not applied the revision yet",
    ),
    "not told yet": (
        {},
        [node("a", "untold")],
        "RolloutPending Reconciling",
        (1, 0, 1, 0, 0),
        "a: the node has not been given the revision yet",
    ),
    "held": (
        {"holds": {"a": Hold("Soaking", "the first node is watched")}},
        [node("a", "untold"), node("b")],
        "Soaking Reconciling",
        (2, 1, 1, 0, 0),
        "in force on 1 of 2 nodes; a: the first node is watched",
    ),
    "held, and there is nothing to wait for": (
        {"holds": {"a": Hold("Soaking", "the first node is watched")}},
        [node("a")],
        "Applied Ready",
        (1, 1, 0, 0, 0),
        "in force on 1 of 1 node",
    ),
    "halted": (
        {"holds": dict.fromkeys("bc", HALTED)},
        [node("a", "stalled"), node("b", "untold"), node("c", "untold")],
        "DiskFull Stalled",
        (3, 0, 2, 1, 0),
        "3 of 3 nodes: b, c: halted: it failed on a; a: no space left",
    ),
    "halted by nodes of another kind": (
        {"holds": {"b": HALTED}},
        [node("a", "applying"), node("b", "untold")],
        "RolloutHalted Stalled",
        (2, 0, 2, 0, 0),
        "1 of 2 nodes: b: halted: it failed on a",
    ),
    "waiting for a slot for its restart": (
        {"holds": {"a": Hold("WaitingForSlot", "not available are: z")}},
        [node("a", "waiting", WAITS)],
        "WaitingForSlot Reconciling",
        (1, 0, 1, 0, 0),
        "a restart of the runtime brings into force: credentials for x; not available are: z",
    ),
    "restarting": (
        {},
        [restarting("a")],
        "Quiescing Reconciling",
        (1, 0, 1, 0, 0),
        "a: waiting for 2 containers",
    ),
    "another mirror has changed": (
        {"known": {"old": {"m": "as it is"}}, "holds": dict.fromkeys("bc", Hold("Soaking", "the first is watched"))},
        [node("a", "applying", MADE), node("b", "untold", MADE), node("c", "untold", MADE)],
        "Applied Ready",
        (3, 3, 0, 0, 0),
        "in force on 3 of 3 nodes",
    ),
    "it has changed itself": (
        {"known": {"old": {"m": "as it was"}}},
        [node("a", "applying", MADE), node("b", "untold", MADE)],
        "Applying Reconciling",
        (2, 0, 2, 0, 0),
        "in force on 0 of 2 nodes",
    ),
    "it is new": (
        {"known": {"old": {"other": "as it is"}}},
        [node("a", "applying", MADE)],
        "Applying Reconciling",
        (1, 0, 1, 0, 0),
        "in force on 0 of 1 node",
    ),
    "another mirror keeps the runtime from starting": (
        {"known": {"old": {"m": "as it is"}}},
        [node("a", "rolled back", MADE)],
        "Applied Ready",
        (1, 1, 0, 0, 0),
        "in force on 1 of 1 node",
    ),
    "it keeps the runtime from starting": (
        {"known": {"old": {"m": "as it was"}}},
        [node("a", "rolled back", MADE)],
        "RolledBack Stalled",
        (1, 0, 0, 1, 0),
        "1 of 1 node: a: it did not start",
    ),
    "another mirror has changed, and nothing can be written": (
        {"known": {"old": {"m": "as it is"}}},
        [node("a", "stalled before", MADE)],
        "DiskFull Stalled",
        (1, 0, 0, 1, 0),
        "1 of 1 node: a: no space left",
    ),
    "another mirror has changed, and this one still waits for a restart": (
        {"known": {"old": {"m": "as it is"}}},
        [node("a", "waiting before", MADE_AND_WAITS)],
        "RestartRequired Reconciling",
        (1, 0, 1, 0, 0),
        "a restart of the runtime brings into force: credentials for x",
    ),
    "stalled agent": (
        {},
        [node("a"), node("b", "stalled")],
        "DiskFull Stalled",
        (2, 1, 0, 1, 0),
        "1 of 2 nodes: b: no space left",
    ),
    "failed and pending": (
        {},
        [node("a", "applying"), node("b", "stalled")],
        "DiskFull Stalled",
        (2, 0, 1, 1, 0),
        "1 of 2 nodes: b: no space left",
    ),
    "unsupported on a node": (
        {},
        [node("a"), node("b", plan=PROBLEM)],
        "RewriteUnsupported Stalled",
        (2, 1, 0, 1, 0),
        "1 of 2 nodes: b: exclude the nodes",
    ),
    "waiting for a restart": (
        {},
        [node("a", "waiting", WAITS), node("b")],
        "RestartRequired Reconciling",
        (2, 1, 1, 0, 0),
        "a: a restart of the runtime brings into force: credentials for x",
    ),
    "another mirror waits for a restart": (
        {},
        [node("a", "waiting", NodePlan(BUNDLE, frozenset({"m"}), needs_start={"credentials for x": frozenset()}))],
        "Applied Ready",
        (1, 1, 0, 0, 0),
        "in force on 1 of 1 node",
    ),
    "conflict everywhere": (
        {},
        [node("a", plan=CONFLICT)],
        "Conflicted Stalled Conflicted",
        (0, 0, 0, 0, 0),
        "in force on no node: RegistryMirror winner configures the same registry and takes precedence",
    ),
    "conflict on one node": (
        {},
        [node("a"), node("b", plan=CONFLICT)],
        "Applied Ready Conflicted",
        (1, 1, 0, 0, 0),
        "in force on 1 of 1 node",
    ),
    "a reference that does not exist": (
        {"error": NOT_FOUND},
        [],
        "ReferenceNotFound Reconciling",
        (0, 0, 0, 0, 0),
        "spec.x: found no Secret s; create it",
    ),
    "a reference that vanished": (
        {"error": NOT_FOUND},
        [node("a")],
        "ReferenceNotFound Reconciling",
        (1, 1, 0, 0, 0),
        "create it. The last good configuration stays in force on 1 node",
    ),
    "an invalid object": (
        {"error": INVALID, "spec": None},
        [],
        "InvalidSpec Stalled",
        (0, 0, 0, 0, 0),
        "spec.x: found 'y'; write z",
    ),
    "an object that became invalid": (
        {"error": INVALID},
        [node("a"), node("b", "applying")],
        "InvalidSpec Stalled",
        (2, 1, 1, 0, 0),
        "The last good configuration stays in force on 2 nodes",
    ),
}


@pytest.mark.parametrize(("options", "nodes", "expected", "counts", "message"), CASES.values(), ids=CASES)
def test_the_status_says_what_the_nodes_show(
    options: dict[str, Any], nodes: list[NodeView], expected: str, counts: Counts, message: str
) -> None:
    status = status_of(*nodes, **options)

    assert [item.type for item in status.conditions] == TYPES
    # kstatus reads Reconciling before Stalled: with both, a failure would pass for progress.
    assert sum(is_true(status.conditions, name) for name in ("Ready", "Reconciling", "Stalled")) == 1
    assert brief(status.conditions) == expected
    assert status.nodes is not None
    assert msgspec.structs.astuple(status.nodes) == counts
    assert message in status.conditions[0].message
    assert status.observed_generation == 3
    assert {item.observed_generation for item in status.conditions} == {3}


@pytest.mark.parametrize(("options", "nodes", "expected", "counts", "message"), CASES.values(), ids=CASES)
def test_the_same_facts_give_an_equal_status_later(
    options: dict[str, Any], nodes: list[NodeView], expected: str, counts: Counts, message: str
) -> None:
    first = status_of(*nodes, **options)

    assert status_of(*reversed(nodes), **options, old=first, now=LATER) == first


def test_a_node_that_waits_for_a_restart_and_drifted_is_counted_as_drifted() -> None:
    waiting = config("waiting")
    drifted = replace(waiting, status=replace(waiting.status, conditions=config("drifted").status.conditions))
    counts = status_of(NodeView("a", WAITS, drifted)).nodes

    assert counts is not None
    assert (counts.pending, counts.drifted) == (1, 1)


def test_failures_are_the_first_ten_by_name() -> None:
    names = [f"n{index:02}" for index in range(15)]
    status = status_of(*(node(name, "stalled") for name in reversed(names)))

    assert [item.node for item in status.failures] == names[:10]
    assert {(item.reason, item.message) for item in status.failures} == {("DiskFull", "no space left")}
    assert status.nodes is not None
    assert status.nodes.failed == 15
    assert "15 of 15 nodes: n00, n01, n02 and 12 more: no space left" in status.conditions[0].message


def test_long_messages_are_cut_to_what_the_schema_takes() -> None:
    long = NodePlan(BUNDLE, frozenset(), problems={"m": MirrorProblem("m", "X", "x" * 5000)})
    status = status_of(node("a", plan=long))

    assert all(len(item.message) <= 1024 for item in status.conditions)
    assert len(status.failures[0].message) <= 1024
    assert status.failures[0].message.endswith("x…")


def test_the_most_frequent_cause_comes_first() -> None:
    status = status_of(node("a", "applying"), node("b", "untold"), node("c", "untold"))

    assert status.conditions[0].message == (
        "in force on 0 of 3 nodes; b, c: the node has not been given the revision yet; a: the agent has not applied "
        "the revision yet"
    )


def test_a_conflict_names_winners_nodes_and_the_rule() -> None:
    other = NodePlan(BUNDLE, frozenset(), conflicts={"m": "another"})
    found = find(status_of(node("b", plan=CONFLICT), node("a", plan=other)).conditions, "Conflicted")

    assert found is not None
    assert found.reason == "LowerPrecedence"
    assert found.message.startswith("RegistryMirror another, winner takes precedence on 2 nodes (such as a): ")


def test_the_policy_says_whether_it_is_followed() -> None:
    wrong = (FieldError("spec.rollout.windows[0].schedule", "'x'", "write five cron fields"),)
    good = policy_status(1, (), RegistryMirrorPolicyStatus(), NOW)
    assert brief(good.conditions) == "InForce Ready"
    assert policy_status(1, (), good, LATER) == good
    bad = policy_status(2, wrong, good, LATER)
    assert brief(bad.conditions) == "InvalidSpec Stalled"
    assert bad.conditions[0].message.startswith("spec.rollout.windows[0].schedule: found 'x'; write five cron fields.")
    assert {item.observed_generation for item in bad.conditions} == {bad.observed_generation} == {2}
