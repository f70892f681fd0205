"""Every page of docs/getting-started and docs/how-to is followed, command by command, on a real API server.

The controller and the agents are real; the nodes are directories, so nothing pulls here (tests/nodes/test_install.py
does, by the page of kubeadm). What a page leaves behind shows on its nodes, which must end as they began.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.apiserver.test_readme import commands as of_readme, section
from tests.docs.pages import DOCS, ELSEWHERE, ROOT, Reader, blocks, commands, environment, run_elsewhere
from tests.harness.cluster import SYSTEM, Cluster, Node
from tests.pure.builders import pem

pytestmark = pytest.mark.apiserver

# The nodes of a page by their names: the runtime and labels of each, or no labels where it has not joined yet.
Nodes = Mapping[str, tuple[str, Mapping[str, str] | None]]
_ZONE = "topology.kubernetes.io/zone"
_USUAL: Nodes = {"pi-1": ("k3s", {}), "worker-1": ("containerd", {})}
_K3S: Nodes = {"server-1": ("k3s", {"node-role.kubernetes.io/control-plane": "true"}), "pi-1": ("k3s", {})}
_ONE: Nodes = {"pi-1": ("k3s", {})}
_JOINING: Nodes = {"pi-1": ("k3s", {}), "new-1": ("k3s", None)}
# In this order: pages with the same nodes follow each other, and share them.
PAGES: dict[str, Nodes] = {
    "getting-started/k3s.md": _K3S,
    "how-to/embedded-registry.md": _K3S,
    "getting-started/air-gap.md": _JOINING,
    "how-to/migrate-by-hand-files.md": _ONE,
    "how-to/migrate-from-ansible.md": _ONE,
    "how-to/from-the-k3s-docs.md": _ONE,
    "how-to/from-the-microk8s-docs.md": _ONE,
    "getting-started/rke2.md": {"server-1": ("rke2", {}), "agent-1": ("rke2", {})},
    "getting-started/microk8s.md": {"node-1": ("microk8s", {}), "node-2": ("microk8s", {})},
    "how-to/harbor-proxy-cache.md": _USUAL,
    "how-to/private-ca.md": _USUAL,
    "how-to/credentials.md": _USUAL,
    "how-to/zone-local-mirrors.md": {
        "worker-a": ("containerd", {_ZONE: "eu-1a"}),
        "worker-b": ("containerd", {_ZONE: "eu-1b"}),
    },
    "how-to/autoscaled-nodes.md": {"worker-1": ("containerd", {}), "new-1": ("containerd", None)},
}
# Below that heading of the page, that node joins.
JOINS = {"how-to/autoscaled-nodes.md": ("When it joins", "new-1")}
# What a reader has: certificates, and the key of one.
OWN = {"ca.crt": "ca-one.crt", "new-ca.crt": "ca-two.crt", "client.crt": "client.crt", "client.key": "client.key"}
# Followed by others.
OTHERS = {
    "getting-started/kubeadm.md": "tests/nodes/test_install.py",
    "how-to/startup-taint.md": "tests/apiserver/test_startup_taint.py",
    "how-to/air-gap.md": "tests/nodes/test_seed.py",
    "how-to/helm.md": "tests/apiserver/test_helm.py",
    "how-to/kubectl-plugin.md": "tests/cli/test_completion.py",
}


class World:
    """A cluster whose nodes are those of the page that is followed."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._nodes: Nodes = {}

    def nodes(self, wanted: Nodes) -> None:
        """Have these nodes and no others, each with its agent."""
        if wanted == self._nodes:
            return
        for name in self._nodes:
            if name in self.cluster.agents:
                self.cluster.agents.pop(name).stop()
                self.cluster.kubectl("delete", "pod", f"agent-{name}", "-n", SYSTEM, "--grace-period=0", "--force")
            self.cluster.kubectl("delete", "node", name, "--ignore-not-found")
            shutil.rmtree(self.cluster.nodes.pop(name).root)
        for name, (runtime, labels) in wanted.items():
            self.cluster.add_node(name, runtime, labels)
            if labels is None:
                self.cluster.kubectl("delete", "node", name)
            else:
                self.cluster.start_agent(name, "--resync", "1")
        self._nodes = wanted

    def join(self, name: str) -> None:
        """Have a node join, whose agent finds all as it is to be and writes nothing."""
        node = self.cluster.nodes[name]
        before = node.files()
        self.cluster.add_node(name, node.runtime)
        times = {path: node.path(path).stat().st_mtime_ns for path in before}
        self.cluster.start_agent(name, "--resync", "1")
        applied = ("Applied", "noderegistryconfig")
        exists = ("get", "noderegistryconfigs", "-o", "name")
        self.cluster.until(lambda: f"/{name}\n" in self.cluster.kubectl(*exists), f"{name} is known")
        self.cluster.until(
            lambda: self.cluster.condition(name, *applied).get("status") == "True", f"{name} is in place"
        )
        assert node.files() == before
        assert {path: node.path(path).stat().st_mtime_ns for path in before} == times


@pytest.fixture(scope="module")
def world(bare_cluster: Cluster) -> World:
    bare_cluster.start_controller()
    return World(bare_cluster)


@pytest.fixture
def cluster(request: pytest.FixtureRequest, world: World) -> Iterator[Cluster]:
    """The cluster with the page's nodes, and without its objects in the end."""
    world.nodes(PAGES[request.getfixturevalue("name")])
    yield world.cluster
    for kinds in ("registrymirrors", "secrets,configmaps"):
        world.cluster.kubectl("delete", kinds, "-n", SYSTEM, "--all")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_followed_and_its_nodes_end_as_they_began(
    name: str, world: World, cluster: Cluster, tmp_path: Path
) -> None:
    before = {node.name: node.files() for node in cluster.nodes.values()}
    env = environment(cluster.plane.admin_kubeconfig, cluster.plane.assets.kubectl, tmp_path)
    reader = Reader(tmp_path, env, nodes={node.name: node.root for node in cluster.nodes.values()})
    for own, source in OWN.items():
        (tmp_path / own).write_text(pem(source))
    heading, joining = JOINS.get(name, ("", ""))
    for block in blocks(DOCS / name):
        if heading in block.headings:
            world.join(joining)
            heading = ""
        reader.follow([block])
    cluster.kubectl("delete", "registrymirrors", "--all")
    for node in cluster.nodes.values():
        if node.name in cluster.agents:
            as_it_was(cluster, node, before[node.name] | reader.written[node.name])
        for path in reader.written[node.name]:
            node.path(path).unlink()


def as_it_was(cluster: Cluster, node: Node, files: Mapping[str, str]) -> None:
    """Wait until a node has these files, and no others but what its administrator has laid there."""

    def now() -> dict[str, str]:
        return {path: text for path, text in node.files().items() if not path.startswith("/etc/registry-mirror/")}

    cluster.until(lambda: now() == files, f"{node.name} is as it was found")


def test_every_page_is_followed_by_some_test() -> None:
    found = {
        str(path.relative_to(DOCS)) for kind in ("getting-started", "how-to") for path in (DOCS / kind).glob("*.md")
    }
    assert found == set(PAGES) | {page for page in OTHERS if (DOCS / page).exists()}


def test_what_is_run_elsewhere_is_named_and_used() -> None:
    for target in (*ELSEWHERE.values(), *OTHERS.values()):
        path, _, name = target.partition("::")
        assert (ROOT / path).exists(), target
        assert not name or f"def {name}(" in (ROOT / path).read_text(), target
    pages = [DOCS / page for page in (*PAGES, *OTHERS) if (DOCS / page).exists()]
    lines = [command for page in pages for block in blocks(page) for command in commands(block)]
    unused = [how for how in ELSEWHERE if not any(re.match(how, line) for line in lines)]
    assert not unused
    assert sum(bool(run_elsewhere(line)) for line in lines) < len(lines) / 2


@pytest.mark.parametrize("page", ["k3s", "rke2", "microk8s", "kubeadm"])
def test_the_readme_installs_as_the_pages_do(page: str) -> None:
    overlay = page.replace("kubeadm", "containerd")
    found = [command for block in blocks(DOCS / "getting-started" / f"{page}.md") for command in commands(block)]
    short = [
        line.replace("overlays/k3s", f"overlays/{overlay}") for line in of_readme(section("Install it in a cluster"))
    ]
    assert short
    assert [line for line in found if line in short] == short
