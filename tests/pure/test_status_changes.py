"""What changes in a status and what does not: times move only with a transition, events tell only what matters."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from registry_mirror.api.conditions import Condition, condition, merge
from registry_mirror.core.status import transitions
from tests.pure.nodes import CONFLICT, LATER, NOW, PROBLEM, node, status_of


def test_only_the_condition_that_changes_has_a_new_time() -> None:
    first = status_of(node("a", "applying"))
    then = status_of(node("a"), old=first, now=LATER)

    assert {item.type: item.last_transition_time for item in then.conditions} == {
        "Ready": LATER,
        "Reconciling": LATER,
        "Stalled": NOW,
        "Conflicted": NOW,
        "EndpointsReachable": NOW,
    }


def test_another_reason_alone_is_no_transition() -> None:
    first = status_of(node("a", "applying"))
    then = status_of(node("a", "untold"), old=first, now=LATER)

    assert {item.last_transition_time for item in then.conditions} == {NOW}
    assert then.conditions[0].reason == "RolloutPending"


def test_merging_drops_conditions_that_are_no_more_and_keeps_the_order_of_the_new() -> None:
    old = merge((), [condition("A", True, "X", ""), condition("B", True, "X", "")], generation=1, now=NOW)
    new = merge(old, [condition("C", True, "X", ""), condition("A", True, "Y", "")], generation=2, now=LATER)

    assert [(item.type, item.last_transition_time) for item in new] == [("C", LATER), ("A", NOW)]


READY = status_of(node("a")).conditions
PENDING = status_of(node("a", "applying")).conditions
STALLED = status_of(node("a", "stalled")).conditions
STALLED_OTHERWISE = status_of(node("a", plan=PROBLEM)).conditions
LOST = status_of(node("a", plan=CONFLICT)).conditions


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ((), READY, ["Normal Applied"]),
        (PENDING, READY, ["Normal Applied"]),
        (READY, READY, []),
        (READY, PENDING, []),
        ((), PENDING, []),
        (READY, STALLED, ["Warning DiskFull"]),
        (STALLED, STALLED, []),
        (STALLED, STALLED_OTHERWISE, ["Warning RewriteUnsupported"]),
        (STALLED, READY, ["Normal Applied"]),
        (READY, LOST, ["Warning Conflicted", "Warning LowerPrecedence"]),
        (LOST, LOST, []),
        (LOST, READY, ["Normal Applied"]),
    ],
)
def test_an_event_tells_of_each_change_that_a_person_wants_to_hear_of(
    old: Sequence[Condition], new: Sequence[Condition], expected: list[str]
) -> None:
    assert [f"{item.type} {item.reason}" for item in transitions(old, new)] == expected
