"""A node with a kubelet, in a cluster with the real control plane."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.controlplane import ControlPlane
from tests.harness.cri import CRI
from tests.harness.images import sleeper
from tests.harness.kubectl import KubectlError
from tests.harness.node import Node
from tests.harness.nodebinaries import ClusterPrograms, NodePrograms
from tests.harness.nodekubelet import Kubelet, NodeAccess
from tests.harness.pytest_support import require_assets, require_cluster
from tests.harness.registries import Registries
from tests.harness.workplace import Workplace
from tests.nodes import hosts
from tests.nodes.hosts import UPSTREAM

READY = 90.0


@pytest.fixture(scope="module")
def cluster_programs(pytestconfig: pytest.Config) -> ClusterPrograms:
    return require_cluster(pytestconfig)


@pytest.fixture(scope="module")
def access(place: Workplace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeAccess]:
    made = NodeAccess(place, tmp_path_factory.mktemp("access"))
    yield made
    made.stop()


@pytest.fixture(scope="module")
def plane(access: NodeAccess, pytestconfig: pytest.Config) -> Iterator[ControlPlane]:
    with ControlPlane(assets=require_assets(pytestconfig), apiserver_flags=access.apiserver_flags) as made:
        access.start(made)
        yield made


@pytest.fixture(scope="module", params=["containerd24", "k3s"])
def node(
    request: pytest.FixtureRequest,
    place: Workplace,
    programs: NodePrograms,
    cluster_programs: ClusterPrograms,
    plane: ControlPlane,
    access: NodeAccess,
) -> Iterator[Node]:
    name = f"kubelet-{request.param}"
    kubelet = Kubelet(cluster_programs, access.kubeconfig(name))
    known = {UPSTREAM: place.host}
    with Node(name, request.param, place, programs, hosts=known, kubelet=kubelet) as made:
        yield made


def seen(plane: ControlPlane, node: Node) -> dict[str, Any]:
    """The node's conditions by type, empty while it has not registered."""
    try:
        found = json.loads(plane.kubectl("get", "node", node.name, "-o", "json"))
    except KubectlError:
        return {}
    return {item["type"]: item for item in found["status"].get("conditions", ())}


def ready(plane: ControlPlane, node: Node) -> bool:
    return bool(seen(plane, node).get("Ready", {}).get("status") == "True")


def test_a_node_becomes_ready_and_its_heart_beats(plane: ControlPlane, node: Node) -> None:
    node.until(lambda: ready(plane, node), "it is Ready", READY)
    before = seen(plane, node)["Ready"]["lastHeartbeatTime"]
    node.until(lambda: seen(plane, node)["Ready"]["lastHeartbeatTime"] > before, "its heart beats")
    version = "{.status.nodeInfo.containerRuntimeVersion}"
    assert plane.kubectl("get", "node", node.name, "-o", f"jsonpath={version}") == "containerd://2.4.2"


def test_a_pod_runs_on_it_and_outlives_a_restart(
    plane: ControlPlane, node: Node, registries: Registries, programs: NodePrograms, tmp_path: Path
) -> None:
    mirror = registries.plain(f"for-{node.name}")
    image = sleeper(programs.busybox)
    mirror.push("pause", "3.10", image)
    mirror.push("sleeper", "1", image)
    hosts.use(node, UPSTREAM, mirror.url)
    node.until(lambda: ready(plane, node), "it is Ready", READY)
    container = {"name": "main", "image": f"{UPSTREAM}/sleeper:1"}
    spec = {"nodeName": node.name, "containers": [container], "automountServiceAccountToken": False}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": node.name}, "spec": spec}
    plane.kubectl("create", "serviceaccount", "default", check=False)
    plane.kubectl("create", "-f", "-", input=json.dumps(pod))
    phase = ("get", "pod", node.name, "-o", "jsonpath={.status.phase}")
    node.until(lambda: plane.kubectl(*phase) == "Running", "the pod runs", READY)
    running = CRI(node).running()
    node.systemctl("restart", node.flavour.unit)
    assert CRI(node).wait().running() == running
