"""A real kubelet that registers with the startup taint, the controller, and the agent in the node."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from registry_mirror.core.startup import TAINT
from tests.harness.cluster import Cluster, mirror
from tests.harness.controlplane import ControlPlane
from tests.harness.node import Node
from tests.harness.nodebinaries import NodePrograms
from tests.harness.nodekubelet import Kubelet, NodeAccess
from tests.harness.pytest_support import require_assets, require_cluster
from tests.harness.workplace import Workplace
from tests.nodes.hosts import HOSTS, UPSTREAM
from tests.nodes.test_cluster import Member, start_agent

_READY = 90.0
OTHER = {"key": "example.com/kept", "value": "true", "effect": "NoSchedule"}


@dataclass(frozen=True)
class Tainted(Kubelet):
    """A kubelet that is told to register with taints."""

    def files(self, name: str, ip: str, socket: str) -> dict[str, str]:
        found = super().files(name, ip, socket)
        path = "/etc/kubernetes/kubelet.yaml"
        taints = [OTHER, {"key": TAINT, "effect": "NoSchedule"}]
        return {**found, path: json.dumps({**json.loads(found[path]), "registerWithTaints": taints})}


@pytest.fixture
def cluster(
    place: Workplace, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[tuple[Cluster, NodeAccess]]:
    work = tmp_path_factory.mktemp("cluster")
    access = NodeAccess(place, work)
    made = Cluster(work)
    made.plane = ControlPlane(work / "plane", require_assets(pytestconfig), apiserver_flags=access.apiserver_flags)
    with made:
        access.start(made.plane)
        made.install()
        yield made, access
        access.stop()


def test_a_node_that_registers_with_the_taint_loses_it_when_its_files_are_there(
    cluster: tuple[Cluster, NodeAccess], place: Workplace, programs: NodePrograms, pytestconfig: pytest.Config
) -> None:
    made, access = cluster
    name = "tainted"
    spec = {"probe": {"mode": "Off"}, "startupTaint": True}
    policy = {"kind": "RegistryMirrorPolicy", "metadata": {"name": "default"}, "spec": spec}
    made.apply({"apiVersion": "registrymirror.io/v1alpha1", **policy}, mirror("test", UPSTREAM, "http://mirror.test"))
    made.start_controller()

    def taints() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = made.get("node", name)["spec"].get("taints", [])
        return [item for item in found if not item["key"].startswith("node.kubernetes.io/")]

    kubelet = Tainted(require_cluster(pytestconfig), access.kubeconfig(name))
    with Node(name, "containerd24", place, programs, kubelet=kubelet) as node:
        member = Member(made, node)
        node.until(member.ready, "it is Ready", _READY)
        made.until(lambda: made.kubectl("get", "nrc", name, check=False), "the controller knows it", _READY)
        assert [item["key"] for item in taints()] == [OTHER["key"], TAINT]
        start_agent(member)
        member.until(lambda: taints() == [OTHER], "the taint is gone", _READY)
        assert "http://mirror.test" in node.read(HOSTS)
        node.systemctl("restart", "kubelet")
        before = made.get("node", name)["status"]["conditions"][-1]["lastHeartbeatTime"]
        node.until(
            lambda: made.get("node", name)["status"]["conditions"][-1]["lastHeartbeatTime"] > before, "its heart beats"
        )
        assert taints() == [OTHER], "a kubelet taints what it makes, not what is there"
