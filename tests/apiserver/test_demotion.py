"""From a policy and a report of a node to the order of that node's files, and back, on a real API server.

The agents are played, so that a node can be told what it found.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest

from registry_mirror.api.models import EndpointResult
from registry_mirror.core import bundle as bundles
from registry_mirror.core.bundle import Bundle
from registry_mirror.core.layout import default_facts
from registry_mirror.kube.resources import BUNDLE_KEY
from tests.apiserver.players import Players
from tests.harness.cluster import BUNDLES, Cluster, mirror

pytestmark = pytest.mark.apiserver

A, B = "https://a.example", "https://b.example"


@pytest.fixture(scope="module")
def players(bare_cluster: Cluster) -> Iterator[Players]:
    """The agents of two nodes."""
    with Players(bare_cluster, default_facts("containerd", "2.1.4")) as playing:
        yield playing


@pytest.fixture(scope="module")
def cluster(bare_cluster: Cluster, players: Players) -> Cluster:
    """A controller and two nodes that have reported which runtime they have."""
    found = bare_cluster
    found.kubectl("delete", "registrymirrorpolicy", "default")  # nothing is tested: there are no agents
    for name in ("one", "two"):
        found.add_node(name, "containerd")
    found.start_controller()
    found.apply(mirror("hub", "docker.io", A, B))
    found.until(lambda: all(order(found, name) == [A, B] for name in ("one", "two")), "both have the user's order")
    return found


def found(url: str, reachable: bool) -> EndpointResult:
    if reachable:
        return EndpointResult(url=url, reachable=True, reason="Reachable", latency="9ms")
    return EndpointResult(url=url, reachable=False, reason="TimedOut", message="it hangs")


def policy(mode: str) -> dict[str, Any]:
    return {
        "apiVersion": "registrymirror.io/v1alpha1",
        "kind": "RegistryMirrorPolicy",
        "metadata": {"name": "default"},
        "spec": {"probe": {"mode": mode, "interval": "20s"}},
    }


def bundle(cluster: Cluster, node: str) -> Bundle | None:
    spec = cluster.get("nrc", node).get("spec") or {}
    if not spec.get("bundle"):
        return None
    secret = cluster.get("secret", "-n", BUNDLES, spec["bundle"]["name"])
    return bundles.decode(base64.b64decode(secret["data"][BUNDLE_KEY]))


def order(cluster: Cluster, node: str) -> list[str]:
    """The endpoints in the order in which the node's hosts.toml has them."""
    got = bundle(cluster, node)
    text = "".join(item.content for item in got.files) if got is not None else ""
    return sorted((url for url in (A, B) if url in text), key=text.index)


def told(cluster: Cluster, mode: str) -> dict[str, Any]:
    """Set the policy, wait until the nodes are told, and give what they are told."""
    cluster.apply(policy(mode))

    def check() -> Any:
        specs = [cluster.get("nrc", node)["spec"].get("probe", {}) for node in ("one", "two")]
        return specs[0] if all(item.get("mode") == mode for item in specs) else None

    probe: dict[str, Any] = cluster.until(check, f"the nodes are told {mode}")
    return probe


def shown(cluster: Cluster, status: str, reason: str) -> str:
    """Wait for the condition; gives its message."""

    def check() -> bool:
        now = cluster.condition("hub", "EndpointsReachable")
        return (now.get("status"), now.get("reason")) == (status, reason)

    cluster.until(check, f"EndpointsReachable is {status} ({reason})")
    return str(cluster.condition("hub", "EndpointsReachable")["message"])


def test_without_a_policy_nodes_are_told_to_report(cluster: Cluster) -> None:
    probe = cluster.get("nrc", "one")["spec"]["probe"]
    assert probe == {"mode": "Report", "interval": "60s"}
    assert cluster.condition("hub", "EndpointsReachable")["reason"] == "NotProbed"


def test_an_endpoint_that_does_not_answer_a_node_goes_behind_there_and_comes_back(
    cluster: Cluster, players: Players
) -> None:
    players.endpoints["one"] = (
        found(A, False),
        found(B, True),
    )
    players.endpoints["two"] = (
        found(A, True),
        found(B, True),
    )
    message = shown(cluster, "False", "SomeUnreachable")
    assert message == f"{A} does not answer 1 of 2 nodes: TimedOut on one: it hangs"
    assert order(cluster, "one") == [A, B]

    assert told(cluster, "Demote") == {"mode": "Demote", "interval": "20s"}
    cluster.until(lambda: order(cluster, "one") == [B, A], "A is behind on one")
    assert order(cluster, "two") == [A, B]
    cluster.until(
        lambda: "put behind the others on 1 node" in cluster.condition("hub", "EndpointsReachable")["message"],
        "the condition says what was done",
    )
    assert cluster.get("rmir", "hub")["status"]["endpoints"] == [
        {
            "url": A,
            "reachable": 1,
            "unreachable": 1,
            "message": "TimedOut on one: it hangs; it is put behind the others on 1 node",
        },
        {"url": B, "reachable": 2, "unreachable": 0, "message": ""},
    ]
    demoted, usual = bundle(cluster, "one"), bundle(cluster, "two")
    assert demoted is not None
    assert usual is not None
    assert demoted.sources == usual.sources

    players.endpoints["one"] = (
        found(A, True),
        found(B, True),
    )
    cluster.until(lambda: order(cluster, "one") == [A, B], "A is back on one")
    assert bundle(cluster, "one") == usual
    shown(cluster, "True", "AllReachable")


def test_a_controller_that_starts_again_keeps_the_users_order_and_the_nodes(cluster: Cluster, players: Players) -> None:
    told(cluster, "Demote")
    players.endpoints["one"] = (
        found(A, False),
        found(B, True),
    )
    cluster.until(lambda: order(cluster, "one") == [B, A], "A is behind on one")
    revisions = {node: cluster.get("nrc", node)["spec"]["revision"] for node in ("one", "two")}

    assert cluster.controller is not None
    cluster.controller.stop()
    cluster.start_controller()
    cluster.apply(mirror("quay", "quay.io", A))
    cluster.until(lambda: cluster.get("nrc", "two")["spec"]["revision"] != revisions["two"], "two has the new object")
    cluster.kubectl("delete", "rmir", "quay")
    cluster.until(
        lambda: {node: cluster.get("nrc", node)["spec"]["revision"] for node in ("one", "two")} == revisions,
        "both have what they had before",
    )


def test_off_and_report_give_the_users_order(cluster: Cluster, players: Players) -> None:
    told(cluster, "Demote")
    players.endpoints["one"] = (
        found(A, False),
        found(B, True),
    )
    cluster.until(lambda: order(cluster, "one") == [B, A], "A is behind on one")
    for mode, reason in (("Report", "SomeUnreachable"), ("Off", "NotProbed")):
        told(cluster, mode)
        cluster.until(lambda: order(cluster, "one") == [A, B], "the user's order is back")
        shown(cluster, "False" if mode == "Report" else "Unknown", reason)
        told(cluster, "Demote")
        cluster.until(lambda: order(cluster, "one") == [B, A], "A is behind on one again")
