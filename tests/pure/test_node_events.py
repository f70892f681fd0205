"""Which steps of a node are worth an Event, and which are not."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st
from msgspec.structs import replace

from registry_mirror.api.models import NodeRegistryConfigStatus
from registry_mirror.core.node_events import transitions

BEGUN = {"revision": "two", "startedAt": "2026-08-01T10:00:00Z", "result": "InProgress"}
ENDED = {**BEGUN, "finishedAt": "2026-08-01T10:00:09Z"}
NOBODY = NodeRegistryConfigStatus()


def status(restart: dict[str, Any] | None = None, **conditions: str) -> NodeRegistryConfigStatus:
    """A status that was reported; a condition is given as its status and reason: ``Stalled="True UnsafePath"``."""
    found = []
    for name, text in conditions.items():
        value, _, reason = text.partition(" ")
        found.append({"type": name, "status": value, "reason": reason, "message": f"about {reason}"})
    body = {"observedGeneration": 1, "conditions": found, **({"restart": restart} if restart else {})}
    return msgspec.convert(body, NodeRegistryConfigStatus)


FINE = status(Stalled="False Working", Drifted="False NoDrift")
BAD = status(Stalled="True UnsafePath", Drifted="False NoDrift")


def told(old: NodeRegistryConfigStatus, new: NodeRegistryConfigStatus) -> list[tuple[str, str]]:
    return [(item.type, item.reason) for item in transitions(old, new)]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (FINE, BAD, [("Warning", "UnsafePath")]),
        (NOBODY, BAD, [("Warning", "UnsafePath")]),
        (BAD, status(Stalled="True WriteFailed"), [("Warning", "WriteFailed")]),
        (BAD, FINE, [("Normal", "Recovered")]),
        (FINE, status(BEGUN), [("Normal", "RuntimeRestarting")]),
        (status(BEGUN), status({**ENDED, "result": "Succeeded"}), [("Normal", "RuntimeRestarted")]),
        (FINE, status({**ENDED, "result": "Succeeded"}), [("Normal", "RuntimeRestarted")]),
        (status(BEGUN), status({**ENDED, "result": "RolledBack"}), [("Warning", "RolledBack")]),
        (status(BEGUN), status({**ENDED, "result": "RollbackFailed"}), [("Warning", "RollbackFailed")]),
        (FINE, status(Drifted="False Repaired"), [("Warning", "Repaired")]),
        (FINE, status(Drifted="True CoOwned"), [("Warning", "CoOwned")]),
        (FINE, status(Drifted="True Reported"), [("Warning", "Reported")]),
    ],
)
def test_a_step_is_told(
    old: NodeRegistryConfigStatus, new: NodeRegistryConfigStatus, expected: list[tuple[str, str]]
) -> None:
    assert told(old, new) == expected


def test_a_rollback_is_told_once_though_it_is_in_two_places() -> None:
    back = {**ENDED, "result": "RolledBack", "message": "containerd: refused"}
    both = status(back, Stalled="True RolledBack")
    (event,) = transitions(status(BEGUN), both)
    assert event.reason == "RolledBack"
    assert event.message.endswith("it works with its last good files. containerd: refused")
    assert told(status(back), both) == []


@pytest.mark.parametrize(
    "new",
    [
        FINE,
        replace(FINE, applied_revision="two", observed_generation=2, last_good_revision="two"),
        replace(FINE, waiting_for_restart=("credentials for x",)),
        status(Stalled="False Working", Applied="False BundleNotFound", RestartRequired="True StartSettings"),
        status(Drifted="False NoDrift"),
    ],
)
def test_a_live_change_and_progress_are_no_news(new: NodeRegistryConfigStatus) -> None:
    assert told(FINE, new) == []
    assert told(NOBODY, new) == []


def test_what_an_agent_says_first_of_restarts_and_files_is_older_than_what_is_known() -> None:
    assert told(NOBODY, status({**ENDED, "result": "Succeeded"}, Drifted="False Repaired")) == []


STATUSES = st.builds(
    status,
    st.sampled_from([None, BEGUN, {**ENDED, "result": "Succeeded"}, {**ENDED, "result": "RolledBack"}]),
    Stalled=st.sampled_from(["True UnsafePath", "True RolledBack", "False Working"]),
    Drifted=st.sampled_from(["True CoOwned", "False Repaired", "False NoDrift"]),
)


@given(STATUSES, STATUSES)
def test_what_stays_as_it_is_is_told_once(old: NodeRegistryConfigStatus, new: NodeRegistryConfigStatus) -> None:
    assert told(new, msgspec.convert(msgspec.to_builtins(new), NodeRegistryConfigStatus)) == []
    assert len(told(old, new)) <= 3
