"""The startup taint and the Events on Nodes, on a real API server: the controller is real, the agents are played.

What takes a restart here is a registry that is newly shared by the embedded registry of K3s.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes.aio import config
from kubernetes.aio.client import Configuration
from msgspec.structs import replace

from registry_mirror.api.models import EmbeddedRegistry
from registry_mirror.controller.plans import Plans
from registry_mirror.controller.startup import Startup
from registry_mirror.controller.store import Store
from registry_mirror.core.bundle import Bundle
from registry_mirror.core.layout import default_facts
from registry_mirror.core.startup import TAINT
from registry_mirror.kube.client import Api, Json
from registry_mirror.kube.clock import now
from registry_mirror.kube.resources import NODES, POLICIES, Resource
from tests.apiserver.players import Players, set_ready
from tests.harness.cluster import SYSTEM, Cluster, mirror
from tests.harness.kubectl import KubectlError
from tests.pure.nodes import node as view

pytestmark = pytest.mark.apiserver

FACTS = replace(default_facts("k3s", "v1.33.4+k3s1"), embedded_registry=EmbeddedRegistry(address="127.0.0.1:6443"))
OURS = {"key": TAINT, "effect": "NoSchedule"}
OTHER = {"key": "example.com/gpu", "value": "true", "effect": "NoSchedule"}
SERVER = {"node-role.kubernetes.io/control-plane": "true"}
_LONG = 60.0

BASE = mirror("base", "base.example.com", "https://one.example.com")
SHARED = mirror("shared", "shared.example.com")


def works(_node: str, bundle: Bundle) -> bool:
    return not any("bad." in name for name in bundle.start_settings)


@pytest.fixture(scope="module")
def played(bare_cluster: Cluster) -> Iterator[tuple[Cluster, Players]]:
    """A cluster with three nodes that have just registered, and agents for all that come."""
    policy(bare_cluster)
    bare_cluster.apply(BASE, SHARED)
    join(bare_cluster, "a", OTHER, OURS)
    join(bare_cluster, "b", {**OURS, "effect": "NoExecute", "value": "yes"}, OURS)
    join(bare_cluster, "c-server", OURS, OTHER, labels=SERVER)
    bare_cluster.start_controller()
    with Players(bare_cluster, FACTS, works) as players:
        yield bare_cluster, players


def policy(cluster: Cluster, taint: bool = True, **rollout: Any) -> None:
    """The policy: canaries are watched for an hour, so that whoever does not wait for that does not wait at all."""
    rules = {"canary": {"nodes": 1, "soak": "1h"}, **rollout}
    spec = {"probe": {"mode": "Off"}, "startupTaint": taint, "rollout": rules}
    body = {"kind": "RegistryMirrorPolicy", "metadata": {"name": "default"}, "spec": spec}
    cluster.apply({"apiVersion": "registrymirror.io/v1alpha1", **body})


def join(cluster: Cluster, name: str, *taints: dict[str, str], labels: dict[str, str] | None = None) -> None:
    """Register a Node as a kubelet would that was told to do so with taints."""
    metadata = {"name": name, "labels": labels or {}}
    body = {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": {"taints": taints}}
    cluster.kubectl("create", "-f", "-", input=json.dumps(body))
    set_ready(cluster, name)


def taints(cluster: Cluster, name: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = cluster.get("node", name)["spec"].get("taints", [])
    return [item for item in found if not item["key"].startswith("node.kubernetes.io/")]


def free(cluster: Cluster, *names: str) -> None:
    """Wait until nodes have no startup taint any more."""
    cluster.until(
        lambda: all(TAINT not in [item["key"] for item in taints(cluster, name)] for name in names),
        f"{', '.join(names)}: the taint is gone",
        _LONG,
    )


def events(cluster: Cluster, name: str) -> list[str]:
    """The reasons of our Events on a Node, oldest first."""
    found = cluster.get(
        "events", "-n", "default", f"--field-selector=involvedObject.kind=Node,involvedObject.name={name}"
    )
    items = sorted(found["items"], key=lambda item: int(item["metadata"]["resourceVersion"]))
    return [item["reason"] for item in items]


def told(cluster: Cluster, name: str, reason: str) -> str:
    """Wait for an Event; gives what ``kubectl describe node`` says of the last one with that reason."""
    cluster.until(lambda: reason in events(cluster, name), f"{name}: {reason}", _LONG)
    said = cluster.kubectl("describe", "node", name).partition("\nEvents:")[2]
    line = [line for line in said.splitlines() if f" {reason} " in line][-1]
    assert "registry-mirror-controller" in line
    return line


def test_in_a_new_cluster_all_nodes_of_which_are_tainted_nothing_waits_for_itself(
    played: tuple[Cluster, Players],
) -> None:
    cluster, players = played
    free(cluster, "a", "b")
    assert taints(cluster, "a") == [OTHER]
    assert taints(cluster, "b") == []
    assert sorted(players.restarted) == ["a", "b"], "what is shared takes a restart"
    # A server is not restarted like a node that nobody needs: it waits for its turn, and keeps the taint meanwhile.
    assert "Soaking" in cluster.condition("shared")["reason"]
    assert OURS in taints(cluster, "c-server")
    policy(cluster, canary={"nodes": 1, "soak": "0s"})
    free(cluster, "c-server")
    assert taints(cluster, "c-server") == [OTHER]
    assert players.restarted[-1] == "c-server"
    assert "mirrors are in place" in told(cluster, "a", "StartupTaintRemoved")
    policy(cluster)


def test_a_node_that_comes_late_waits_for_no_slot_no_window_and_no_soak(played: tuple[Cluster, Players]) -> None:
    cluster, players = played
    closed = {"schedule": "0 3 29 2 *", "duration": "1m"}
    policy(cluster, windows=[closed])
    set_ready(cluster, "a", False)
    try:
        join(cluster, "late", OURS, OTHER)
        free(cluster, "late")
    finally:
        set_ready(cluster, "a")
        policy(cluster)
    assert players.restarted[-1] == "late"
    assert taints(cluster, "late") == [OTHER]


def test_where_it_cannot_be_in_place_the_taint_stays_and_an_event_says_why(played: tuple[Cluster, Players]) -> None:
    cluster, players = played
    policy(cluster, maxUnavailable=5)  # with 1, the one that is stuck would halt the rollout for those that come later
    players.stalled["stuck"] = "UnsafePath"
    join(cluster, "stuck", OURS)
    assert f"the taint {TAINT} stays: UnsafePath: played" in told(cluster, "stuck", "StartupTaintKept")
    assert "Warning" in told(cluster, "stuck", "UnsafePath")
    # Whoever takes over says nothing again.
    assert cluster.controller is not None
    cluster.controller.stop(grace=0.0)
    cluster.start_controller()
    join(cluster, "after", OURS)
    free(cluster, "after")
    assert taints(cluster, "stuck") == [OURS]
    assert sorted(events(cluster, "stuck")) == ["StartupTaintKept", "UnsafePath"]
    policy(cluster, canary={"nodes": 1, "soak": "0s"})
    players.stalled.clear()
    free(cluster, "stuck")
    assert "UnsafePath" in told(cluster, "stuck", "Recovered")
    policy(cluster)


def test_a_mirror_whose_secret_is_not_there_yet_keeps_the_taint(played: tuple[Cluster, Players]) -> None:
    cluster, _ = played
    endpoint = {"url": "https://one.example.com", "credentialsRef": {"name": "later"}}
    only = {"matchLabels": {"pool": "new"}}
    cluster.apply(mirror("private", "private.example.com", endpoints=[endpoint], nodeSelector=only))
    cluster.until(lambda: cluster.condition("private").get("reason") == "ReferenceNotFound", "it is broken")
    join(cluster, "elsewhere", OURS)
    join(cluster, "pool-1", OURS, labels={"pool": "new"})
    free(cluster, "elsewhere")
    assert "RegistryMirror private" in told(cluster, "pool-1", "StartupTaintKept")
    assert taints(cluster, "pool-1") == [OURS]
    data = ("--type=kubernetes.io/basic-auth", "--from-literal=username=u", "--from-literal=password=p")
    cluster.kubectl("create", "secret", "generic", "later", f"--namespace={SYSTEM}", *data)
    free(cluster, "pool-1")
    cluster.kubectl("delete", "rmir", "private")


def test_without_the_policy_the_taint_is_left_alone_and_its_owner_is_told(played: tuple[Cluster, Players]) -> None:
    cluster, _ = played
    policy(cluster, taint=False)
    join(cluster, "left", OURS)
    line = told(cluster, "left", "StartupTaintIgnored")
    assert f"kubectl taint node left {TAINT}-" in line
    assert taints(cluster, "left") == [OURS]
    policy(cluster)
    free(cluster, "left")
    told(cluster, "left", "StartupTaintRemoved")
    assert [events(cluster, "left").count(f"StartupTaint{what}") for what in ("Ignored", "Removed", "Kept")] == [
        1,
        1,
        0,
    ]


def test_a_node_is_told_of_restarts_and_rollbacks_and_not_of_live_changes(played: tuple[Cluster, Players]) -> None:
    cluster, players = played
    names = ("a", "b", "c-server", "late")
    policy(cluster, canary={"nodes": 1, "soak": "0s"})
    before = {name: events(cluster, name) for name in names}
    players.forget()
    cluster.apply(mirror("base", "base.example.com", "https://two.example.com"))
    cluster.until(lambda: {*names} <= {name for name, _ in players.touched}, "all have it", _LONG)
    cluster.wait_settled("base")
    assert {name: events(cluster, name) for name in names} == before

    cluster.apply(mirror("bad", "bad.example.com"))
    cluster.until(lambda: cluster.condition("bad").get("reason") == "RolledBack", "it went back", _LONG)
    (canary,) = {*players.restarted}
    line = told(cluster, canary, "RolledBack")
    assert "Warning" in line
    assert "did not come back" in line
    assert events(cluster, canary).count("RolledBack") == 1
    cluster.kubectl("delete", "rmir", "bad")
    told(cluster, canary, "Recovered")

    cluster.apply(mirror("good", "good.example.com"))
    cluster.wait_settled("good")
    assert "works with" in told(cluster, "b", "RuntimeRestarted")
    cluster.kubectl("delete", "rmir", "good")


class Racing(Api):
    """Somebody else writes the taints each time between our reading them and our change, so many times."""

    times = 0

    def __init__(self, configuration: Any, cluster: Cluster) -> None:
        super().__init__(configuration)
        self._cluster = cluster

    async def get(self, resource: Resource, name: str, namespace: str = "") -> Json | None:
        found = await super().get(resource, name, namespace)
        if self.times:
            self.times -= 1
            new = [{"key": f"example.com/{self.times}", "effect": "NoSchedule"}, *taints(self._cluster, name)]
            self._cluster.kubectl("patch", "node", name, "-p", json.dumps({"spec": {"taints": new}}), "--type=merge")
        return found


def test_the_taints_of_others_outlive_every_race(
    bare_cluster: Cluster,
) -> None:
    kubeconfig = bare_cluster.plane.service_account_kubeconfig(SYSTEM, "registry-mirror-controller")
    # Not in the controller's picture of Nodes: the one that is tested here is ours alone.
    join(bare_cluster, "raced", OTHER, OURS, labels={"kubernetes.io/os": "windows"})
    store = Store()
    writes: list[Resource] = []
    body = bare_cluster.get("node", "raced")
    store.put(NODES, {**body, "metadata": {**body["metadata"], "labels": {}}})
    store.put(POLICIES, {"metadata": {"name": "default"}, "spec": {"startupTaint": True}})

    async def run() -> None:
        configuration = Configuration()
        await config.load_kube_config(str(kubeconfig), client_configuration=configuration)
        api = Racing(configuration, bare_cluster)
        async with api:
            api.times = 3
            startup = Startup(store, api, Plans(store, bytes(32)), writes.append, now)
            startup.note("raced")
            assert startup.look([view("raced")], {}) == ["raced"]
            await startup.act("raced")

    asyncio.run(run())
    assert writes == [NODES]
    assert taints(bare_cluster, "raced") == [
        *({"key": f"example.com/{n}", "effect": "NoSchedule"} for n in (0, 1, 2)),
        OTHER,
    ]


REMOVE = {"op": "remove", "path": "/spec/taints/0"}
LABEL = {"op": "add", "path": "/metadata/labels", "value": {"pool": "gold"}}


@pytest.mark.parametrize(
    ("patch", "said"),
    [
        ([REMOVE], ""),
        ([LABEL], "and no other"),
        ([REMOVE, LABEL], "changes no metadata"),
        ([REMOVE, {"op": "remove", "path": "/metadata/annotations"}], "changes no metadata"),
        ([REMOVE, {"op": "add", "path": "/metadata/finalizers", "value": ["example.com/f"]}], "changes no metadata"),
        ([{"op": "remove", "path": "/spec/taints/1"}], "and no other"),
        ([{"op": "remove", "path": "/spec/taints"}], "and no other"),
        ([REMOVE, {"op": "add", "path": "/spec/taints/-", "value": {**OTHER, "key": "x"}}], "and no other"),
        ([REMOVE, {"op": "replace", "path": "/spec/taints/0/value", "value": "x"}], "and no other"),
        ([REMOVE, {"op": "remove", "path": "/spec/unschedulable"}], "nothing but taints"),
        ([REMOVE, {"op": "add", "path": "/spec/providerID", "value": "x://y"}], "nothing but taints"),
    ],
)
def test_the_controller_may_remove_that_taint_and_change_nothing_else(
    bare_cluster: Cluster, patch: list[dict[str, Any]], said: str
) -> None:
    _confined(bare_cluster)
    kubeconfig = bare_cluster.plane.service_account_kubeconfig(SYSTEM, "registry-mirror-controller")
    argv = ("patch", "node", "confined", "--type=json", "-p", json.dumps(patch), "--dry-run=server")
    # What is refused is what the administrator may do: it is none of these changes as such.
    bare_cluster.kubectl(*argv)
    if not said:
        bare_cluster.kubectl(*argv, f"--kubeconfig={kubeconfig}")
        return
    with pytest.raises(KubectlError, match=said) as refused:
        bare_cluster.kubectl(*argv, f"--kubeconfig={kubeconfig}")
    assert "registry-mirror-controller-nodes" in str(refused.value)


@pytest.mark.parametrize("effect", ["NoSchedule", "NoExecute"])
def test_the_controller_may_not_add_it(bare_cluster: Cluster, effect: str) -> None:
    _confined(bare_cluster)
    kubeconfig = bare_cluster.plane.service_account_kubeconfig(SYSTEM, "registry-mirror-controller")
    new = {"key": TAINT, "value": "x", "effect": effect}
    patch: list[dict[str, Any]] = [{"op": "add", "path": "/spec/taints/-", "value": new}]
    if effect == "NoSchedule":
        patch.insert(0, REMOVE)
    argv = ("patch", "node", "confined", "--type=json", "-p", json.dumps(patch), "--dry-run=server")
    with pytest.raises(KubectlError, match="and no other"):
        bare_cluster.kubectl(*argv, f"--kubeconfig={kubeconfig}")


def _confined(cluster: Cluster) -> None:
    """A Node that has all that there is to change, and no agent."""
    if "confined" in cluster.kubectl("get", "nodes", "-o", "name"):
        return
    spec = {"taints": [OURS, OTHER], "unschedulable": True}
    metadata = {"name": "confined", "labels": {"kubernetes.io/os": "windows"}, "annotations": {"example.com/a": "b"}}
    body = {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": spec}
    cluster.kubectl("create", "-f", "-", input=json.dumps(body))


def test_the_api_server_has_no_doubt_about_the_policy(bare_cluster: Cluster) -> None:
    found = bare_cluster.get("validatingadmissionpolicy", "registry-mirror-controller-nodes")
    assert not found.get("status", {}).get("typeChecking", {}).get("expressionWarnings")
