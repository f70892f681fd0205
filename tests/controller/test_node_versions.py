"""Which version counts: that of the kubelet for a distribution, that of the runtime for a runtime by itself."""

from __future__ import annotations

import pytest

from registry_mirror.api.models import RuntimeFacts, RuntimeName
from registry_mirror.controller.store import NodeInfo


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
