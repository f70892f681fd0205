"""The metrics of mirrors and nodes say what a status pass has found, and nothing that is no longer so."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest
from msgspec.structs import replace

from registry_mirror.api.models import EndpointStatus, NodeRegistryConfig, RegistryMirrorStatus
from registry_mirror.controller.metrics import Metrics
from registry_mirror.controller.observe import Observer, State, state
from registry_mirror.core.plan import NodePlan, NodeView
from registry_mirror.core.rollout import Hold
from tests.pure.nodes import IN_FORCE, Progress, node, status_of

A = "https://a.example"


def shown(metrics: Metrics, name: str, *keys: str) -> dict[tuple[str, ...], float]:
    """The samples of one metric by the values of those labels."""
    return {
        tuple(sample.labels[key] for key in keys): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == name
    }


def view(name: str = "a", **status: Any) -> NodeView:
    """A node that has the newest revision, and reports this as well."""
    body = {
        "metadata": {"name": name, "uid": f"uid-{name}"},
        "spec": {"revision": "new"},
        "status": {"runtime": {"name": "k3s"}, "appliedRevision": "new", **status},
    }
    return NodeView(name, IN_FORCE, msgspec.convert(body, NodeRegistryConfig))


def restarted(result: str, started: str = "t1", revision: str = "new", name: str = "a") -> NodeView:
    return view(name, restart={"revision": revision, "startedAt": started, "result": result})


def answers(url: str, latency: str, reachable: bool = True) -> dict[str, Any]:
    return {"url": url, "reachable": reachable, "reason": "Reachable" if reachable else "TimedOut", "latency": latency}


def with_endpoints(*endpoints: EndpointStatus) -> RegistryMirrorStatus:
    return replace(status_of(node("a")), endpoints=endpoints)


def test_a_mirror_is_shown_as_its_status_says() -> None:
    metrics = Metrics()
    Observer(metrics).observe({"m": status_of(node("a"), node("b", "drifted"), node("c", "stalled"))}, [])

    assert shown(metrics, "registry_mirror_ready", "mirror") == {("m",): 0}
    assert shown(metrics, "registry_mirror_nodes", "mirror", "state") == {
        ("m", "selected"): 3,
        ("m", "applied"): 2,
        ("m", "pending"): 0,
        ("m", "failed"): 1,
        ("m", "drifted"): 1,
    }
    assert shown(metrics, "registry_mirror_condition", "type", "status", "reason") == {
        ("Ready", "False", "DiskFull"): 1,
        ("Reconciling", "False", "Idle"): 1,
        ("Stalled", "True", "DiskFull"): 1,
        ("Conflicted", "False", "NoConflict"): 1,
        ("EndpointsReachable", "Unknown", "NotProbed"): 1,
    }


def test_a_reason_an_endpoint_and_a_mirror_that_are_no_more_are_not_shown() -> None:
    metrics = Metrics()
    observer = Observer(metrics)
    here = with_endpoints(EndpointStatus(url=A, reachable=2, unreachable=1))
    observer.observe({"m": here, "other": here}, [])
    assert shown(metrics, "registry_mirror_endpoint_nodes", "mirror", "url", "state") == {
        (name, A, key): count for name in ("m", "other") for key, count in (("reachable", 2), ("unreachable", 1))
    }

    observer.observe({"m": status_of(node("a", "stalled"))}, [])
    assert shown(metrics, "registry_mirror_endpoint_nodes", "mirror", "url") == {}
    assert shown(metrics, "registry_mirror_ready", "mirror") == {("m",): 0}
    assert {key[0] for key in shown(metrics, "registry_mirror_nodes", "mirror", "state")} == {"m"}
    conditions = shown(metrics, "registry_mirror_condition", "mirror", "type", "reason")
    assert [reason for _, type_, reason in conditions if type_ == "Stalled"] == ["DiskFull"]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (node("a", None), "unreported"),
        (node("a", "silent", NodePlan(None, frozenset())), "unreported"),
        (node("a", "silent and stalled", NodePlan(None, frozenset())), "failed"),
        (node("a", plan=NodePlan(None, frozenset())), "failed"),
        (node("a", "untold"), "held"),
        (node("a", "applying"), "applying"),
        (node("a", "waiting"), "waiting"),
        (node("a", "stalled"), "failed"),
        (node("a", "drifted"), "current"),
        (node("a"), "current"),
        (restarted("InProgress"), "restarting"),
        (restarted("Succeeded"), "current"),
    ],
)
def test_a_node_is_in_one_state(found: NodeView, expected: State) -> None:
    assert state(found) == expected


def test_every_node_is_counted_once() -> None:
    metrics = Metrics()
    nodes = [node(progress, progress) for progress in get_args(Progress)]
    Observer(metrics).observe({}, nodes)

    counts = shown(metrics, "registry_mirror_rollout_nodes", "state")
    assert {key for (key,) in counts} == set(get_args(State))
    assert sum(counts.values()) == len(nodes)


def test_it_is_shown_why_nodes_wait() -> None:
    metrics = Metrics()
    observer = Observer(metrics)
    observer.observe({}, [], {"a": Hold("Soaking", ""), "b": Hold("RolloutHalted", ""), "c": Hold("Soaking", "")})
    assert shown(metrics, "registry_mirror_held_nodes", "reason") == {("Soaking",): 2, ("RolloutHalted",): 1}

    observer.observe({}, [], {"c": Hold("Soaking", "")})
    assert shown(metrics, "registry_mirror_held_nodes", "reason") == {("Soaking",): 1}


def restarts(metrics: Metrics) -> dict[tuple[str, ...], float]:
    return shown(metrics, "registry_mirror_restarts_total", "result")


def test_a_restart_is_counted_once_when_it_has_ended() -> None:
    metrics = Metrics()
    observer = Observer(metrics)
    nothing = {("Succeeded",): 0, ("RolledBack",): 0, ("RollbackFailed",): 0}
    for found in (view(), restarted("InProgress")):
        observer.observe({}, [found])
        assert restarts(metrics) == nothing
    for _ in range(3):
        observer.observe({}, [restarted("Succeeded")])
        assert restarts(metrics) == {**nothing, ("Succeeded",): 1}
    observer.observe({}, [restarted("InProgress", "t2")])
    observer.observe({}, [restarted("RolledBack", "t2")])
    assert restarts(metrics) == {**nothing, ("Succeeded",): 1, ("RolledBack",): 1}


def test_what_ended_before_the_controller_came_is_not_counted_again() -> None:
    metrics = Metrics()
    observer = Observer(metrics)
    observer.observe({}, [restarted("Succeeded")])
    assert sum(restarts(metrics).values()) == 0
    # A node that came while it looks on is new, whatever it says first.
    observer.observe({}, [restarted("Succeeded"), restarted("Succeeded", name="b")])
    assert restarts(metrics)["Succeeded",] == 1


def test_a_node_that_was_made_anew_under_its_name_is_another() -> None:
    metrics = Metrics()
    observer = Observer(metrics)
    observer.observe({}, [restarted("Succeeded")])
    again = restarted("Succeeded")
    assert again.config is not None
    other = replace(again.config, metadata=replace(again.config.metadata, uid="another"))
    observer.observe({}, [NodeView("a", IN_FORCE, other)])
    assert restarts(metrics)["Succeeded",] == 1


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (restarted("RolledBack"), (1, 0)),
        (restarted("RollbackFailed"), (0, 1)),
        (restarted("RolledBack", revision="old"), (0, 0)),
        (restarted("Succeeded"), (0, 0)),
        (restarted("InProgress"), (0, 0)),
        (node("a", None), (0, 0)),
    ],
)
def test_a_node_went_back_until_it_is_told_something_else(found: NodeView, expected: tuple[int, int]) -> None:
    metrics = Metrics()
    Observer(metrics).observe({}, [found])

    back, failed = expected
    assert shown(metrics, "registry_mirror_rolled_back_nodes", "result") == {
        ("RolledBack",): back,
        ("RollbackFailed",): failed,
    }


def test_the_latency_is_that_of_the_nodes_that_have_an_answer() -> None:
    metrics = Metrics()
    nodes = [view(str(index), endpoints=[answers(A, text)]) for index, text in enumerate(("10ms", "30ms", "1.5s"))]
    nodes.append(view("late", endpoints=[answers(A, "9s", reachable=False), answers("https://b.example", "soon")]))
    Observer(metrics).observe({}, nodes)

    found = shown(metrics, "registry_mirror_endpoint_latency_seconds", "url", "quantile")
    assert found == {(A, "0.5"): pytest.approx(0.03), (A, "1"): pytest.approx(1.5)}


def test_who_no_longer_leads_shows_no_mirrors_and_no_nodes() -> None:
    metrics = Metrics()
    observer = Observer(metrics)
    here = with_endpoints(EndpointStatus(url=A, reachable=1))
    observer.observe({"m": here}, [view(endpoints=[answers(A, "1ms")])], {"a": Hold("Paused", "")})
    observer.clear()

    gauges = {family.name for family in metrics.registry.collect() if family.type == "gauge" and family.samples}
    own = {"registry_mirror_leader", "registry_mirror_queue_depth", "registry_mirror_queue_lag_seconds"}
    assert gauges == own
    observer.observe({}, [restarted("Succeeded")])
    assert sum(restarts(metrics).values()) == 0
