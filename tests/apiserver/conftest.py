"""One cluster with controller, three nodes and their agents, shared by the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.harness.cluster import Cluster
from tests.harness.pytest_support import require_assets

NODES = {"pi-1": "k3s", "worker-1": "containerd", "server-1": "rke2"}


@pytest.fixture(scope="module")
def bare_cluster(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Cluster]:
    """A control plane with the operator's objects installed; nothing of the operator runs yet."""
    require_assets(pytestconfig)
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        cluster.install()
        yield cluster


@pytest.fixture(scope="module")
def cluster(bare_cluster: Cluster) -> Cluster:
    """The same with the controller and three nodes with their agents."""
    for name, runtime in NODES.items():
        bare_cluster.add_node(name, runtime)
    bare_cluster.start_controller()
    for name in NODES:
        bare_cluster.start_agent(name, "--resync", "1")
    return bare_cluster
