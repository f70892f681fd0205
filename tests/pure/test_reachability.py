"""From how many nodes each endpoint answers, as the status of its mirror says it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from registry_mirror.api.conditions import Condition, find
from registry_mirror.api.models import NodeRegistryConfig, Probe, RegistryMirrorSpec, RegistryMirrorStatus
from registry_mirror.core.bundle import Bundle
from registry_mirror.core.plan import NodePlan, NodeView
from registry_mirror.core.status import mirror_status, transitions
from registry_mirror.core.tally import Tally, tally
from tests.pure.builders import mirror, parsed

A, B = "https://a.example", "https://b.example"
SPEC = parsed("docker.io", endpoints=[{"url": A}, {"url": B}]).spec
SOURCE = mirror("docker.io", A, B, name="m")
PLAN = NodePlan(Bundle(revision="r", runtime="k3s", files=(), sources=(SOURCE,)), frozenset({"m"}))
NOW, LATER = "2026-08-01T10:00:00Z", "2026-08-01T10:05:00Z"


def node(name: str, behind: bool = False, **results: bool) -> NodeView:
    """A node that reports ``a`` and ``b``, as far as they are given."""
    reports = [
        {
            "url": f"https://{key}.example",
            "reachable": good,
            "reason": "Reachable" if good else "TimedOut",
            "message": "" if good else "it hangs",
        }
        for key, good in results.items()
    ]
    body = {"metadata": {"name": name}, "spec": {"revision": "r"}, "status": {"endpoints": reports}}
    moved = {"m": frozenset({A})} if behind else {}
    plan = NodePlan(PLAN.bundle, PLAN.in_force, behind=moved)
    return NodeView(name, plan, msgspec.convert(body, NodeRegistryConfig))


def status_of(
    *nodes: NodeView,
    spec: RegistryMirrorSpec | None = SPEC,
    mode: Any = "Report",
    old: RegistryMirrorStatus | None = None,
    now: str = NOW,
) -> RegistryMirrorStatus:
    found = tally(nodes, {}).get("m", Tally())
    old = old or RegistryMirrorStatus()
    return mirror_status(generation=1, spec=spec, error=None, tally=found, old=old, now=now, probe=Probe(mode=mode))


def shown(status: RegistryMirrorStatus) -> Condition:
    found = find(status.conditions, "EndpointsReachable")
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("nodes", "expected", "counts"),
    [
        ([], "Unknown NotProbed", []),
        (
            [node("n"), NodeView("silent", PLAN), NodeView("no facts", NodePlan(None, frozenset({"m"})))],
            "Unknown NotProbed",
            [],
        ),
        ([node("n", a=True, b=True)], "True AllReachable", [(A, 1, 0), (B, 1, 0)]),
        ([node("n", b=True), node("o")], "True AllReachable", [(B, 1, 0)]),
        ([node("n", a=True, b=True), node("o", a=False, b=True)], "False SomeUnreachable", [(A, 1, 1), (B, 2, 0)]),
        ([node("n", a=False, b=True)], "False SomeUnreachable", [(A, 0, 1), (B, 1, 0)]),
        ([node("n", a=False, b=False)], "False NoneReachable", [(A, 0, 1), (B, 0, 1)]),
        ([node("n", a=True, c=False)], "True AllReachable", [(A, 1, 0)]),
    ],
)
def test_the_condition_and_the_counts(nodes: list[NodeView], expected: str, counts: list[tuple[str, int, int]]) -> None:
    status = status_of(*nodes)
    found = shown(status)

    assert f"{found.status} {found.reason}" == expected
    assert [(item.url, item.reachable, item.unreachable) for item in status.endpoints] == counts
    assert status_of(*reversed(nodes), old=status, now=LATER) == status


def test_the_message_names_endpoint_nodes_cause_and_what_was_done() -> None:
    status = status_of(node("z", behind=True, a=False), node("y", behind=True, a=False), node("x", a=True))

    assert status.endpoints[0].message == "TimedOut on y: it hangs; it is put behind the others on 2 nodes"
    assert shown(status).message == f"{A} does not answer 2 of 3 nodes: {status.endpoints[0].message}"


def test_an_endpoint_that_answers_has_no_message() -> None:
    assert status_of(node("n", a=True)).endpoints[0].message == ""


def test_off_means_that_old_reports_are_not_shown() -> None:
    status = status_of(node("n", a=False), mode="Off")

    assert status.endpoints == ()
    assert (shown(status).status, shown(status).reason) == ("Unknown", "NotProbed")
    assert "probe.mode" in shown(status).message


def test_only_endpoints_of_the_spec_are_shown_while_it_can_be_read() -> None:
    one = parsed("docker.io", endpoints=[{"url": B}]).spec

    assert [item.url for item in status_of(node("n", a=True, b=True), spec=one).endpoints] == [B]
    assert [item.url for item in status_of(node("n", a=True, b=True), spec=None).endpoints] == [A, B]


def test_without_endpoints_there_is_nothing_to_say() -> None:
    found = shown(status_of(node("n"), spec=parsed("docker.io").spec))

    assert (found.reason, found.message) == ("NotProbed", "")


def test_long_messages_are_cut_to_what_the_schema_takes() -> None:
    urls = [f"https://{'x' * 63}.{'y' * 63}.example/{index}{'z' * 500}" for index in range(16)]
    source = mirror("docker.io", *urls, name="m")
    plan = NodePlan(Bundle(revision="r", runtime="k3s", files=(), sources=(source,)), frozenset({"m"}))
    reports = [{"url": url, "reachable": False, "reason": "TimedOut", "message": "m" * 256} for url in urls]
    body = {"metadata": {"name": "n" * 253}, "status": {"endpoints": reports}}
    view = NodeView("n" * 253, plan, msgspec.convert(body, NodeRegistryConfig))
    status = status_of(view, spec=parsed("docker.io", endpoints=[{"url": url} for url in urls]).spec)

    assert len(status.endpoints) == 16
    assert len(shown(status).message) <= 1024
    assert all(len(item.message) <= 1024 for item in status.endpoints)
    msgspec.convert(msgspec.to_builtins(status), RegistryMirrorStatus)


GOOD = status_of(node("n", a=True, b=True)).conditions
SOME = status_of(node("n", a=False, b=True)).conditions
NONE = status_of(node("n", a=False, b=False)).conditions
UNKNOWN = status_of(node("n")).conditions


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (UNKNOWN, GOOD, []),
        (UNKNOWN, SOME, ["Warning SomeUnreachable"]),
        (GOOD, SOME, ["Warning SomeUnreachable"]),
        (SOME, SOME, []),
        (SOME, NONE, ["Warning NoneReachable"]),
        (NONE, GOOD, ["Normal AllReachable"]),
        (SOME, UNKNOWN, []),
    ],
)
def test_events(old: tuple[Condition, ...], new: tuple[Condition, ...], expected: list[str]) -> None:
    assert [f"{item.type} {item.reason}" for item in transitions(old, new)] == expected
