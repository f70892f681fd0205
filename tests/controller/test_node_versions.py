"""Which version counts: that of the kubelet for a distribution, that of the runtime for a runtime by itself."""

from __future__ import annotations

import pytest

from registry_mirror.api.models import RuntimeFacts, RuntimeName
from registry_mirror.controller.store import NodeInfo, Store
from registry_mirror.kube.resources import NODES


@pytest.mark.parametrize(
    ("name", "runtime", "version", "containerd"),
    [
        ("k3s", "containerd://2.1.4-k3s1", "v1.34.1", "2.1.4-k3s1"),
        ("rke2", "containerd://2.1.4-k3s1", "v1.34.1", "2.1.4-k3s1"),
        ("microk8s", "containerd://1.7.29", "v1.34.1", "1.7.29"),
        ("k0s", "containerd://1.7.29", "v1.34.1", "1.7.29"),
        ("containerd", "containerd://2.1.4", "2.1.4", "2.1.4"),
        ("crio", "cri-o://1.33.1", "1.33.1", ""),
    ],
)
def test_the_node_fills_in_the_versions(name: RuntimeName, runtime: str, version: str, containerd: str) -> None:
    info = NodeInfo(name="n", uid="u", labels={}, kubelet_version="v1.34.1", runtime_version=runtime)
    facts = info.complete(RuntimeFacts(name=name))
    assert (facts.version, facts.containerd_version) == (version, containerd)


@pytest.mark.parametrize(
    ("labels", "spec", "conditions", "expected"),
    [
        ({}, {}, [{"type": "Ready", "status": "True"}], (True, True, False)),
        ({}, {"unschedulable": True}, [{"type": "Ready", "status": "True"}], (True, False, False)),
        ({}, {}, [{"type": "Ready", "status": "Unknown"}], (False, True, False)),
        ({}, {}, [{"type": "MemoryPressure", "status": "True"}], (False, True, False)),
        ({"node-role.kubernetes.io/control-plane": "true"}, {}, [], (False, True, True)),
        ({"node-role.kubernetes.io/etcd": "true"}, {}, [], (False, True, True)),
        ({"node.kubernetes.io/microk8s-controlplane": "microk8s-controlplane"}, {}, [], (False, True, True)),
    ],
)
def test_what_of_a_node_matters_to_the_rollout(
    labels: dict[str, str],
    spec: dict[str, object],
    conditions: list[dict[str, str]],
    expected: tuple[bool, bool, bool],
) -> None:
    store = Store()
    metadata = {"name": "n", "uid": "u", "labels": labels, "creationTimestamp": "2026-08-01T10:00:00Z"}
    store.put(NODES, {"metadata": metadata, "spec": spec, "status": {"conditions": conditions}})
    node = store.nodes["n"]
    assert (node.ready, node.schedulable, node.server) == expected
    assert node.created_at == 1785578400.0
