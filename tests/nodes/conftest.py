"""Real nodes and registries for tests.

    def test_a_mirror_serves(new_node: Node, registries: Registries) -> None:
        mirror = registries.plain("a-mirror")  # names are unique within a test module
        mirror.push("team/app", "1")  # unique content: no pull is served from the node's own disk
        hosts.use(new_node, UPSTREAM, mirror.url)
        CRI(new_node).pull(f"{UPSTREAM}/team/app:1")
        assert mirror.requests("/team/app/manifests/1")

`place` and `programs` are for the session. `new_node` (containerd 2.4), `old_node` (Debian's 1.6.20), `k3s_node` and
`registries` are for a module: a node boots in half a second, a registry in a tenth. A test that changes a node for
good makes its own: `with Node("mine", "containerd24", place, programs) as node`. The nodes of these fixtures know the
name registry.test, and nobody is behind it: a pull that no mirror serves fails at once.

A mirror that hangs: `mirror.hang()`, `mirror.resume()`; one that refuses: `mirror.stop()`, `mirror.start()`. Others are
`registries.basic(name, {user: password})`, `token(name, {user: {passwords}})` and `tls(name, clients=…)`. A node that
loses its power: `node.power_cut()`, then `node.start()` from the same disk. With a kubelet: see test_kubelet.py.

What nodes and registries leave behind when the test process is killed, the next one removes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.harness.cri import CRI
from tests.harness.node import Node
from tests.harness.nodebinaries import NodePrograms
from tests.harness.pytest_support import require_nodes
from tests.harness.registries import Registries
from tests.harness.workplace import Workplace
from tests.nodes.hosts import UPSTREAM

MakeNode = Callable[[str], Node]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name == "nodes":
            item.add_marker(pytest.mark.nodes)


@pytest.fixture(scope="session")
def programs(pytestconfig: pytest.Config) -> NodePrograms:
    return require_nodes(pytestconfig)


@pytest.fixture(scope="session")
def place(programs: NodePrograms) -> Iterator[Workplace]:
    made = Workplace().start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def registries(place: Workplace, programs: NodePrograms) -> Iterator[Registries]:
    with Registries(place, programs) as made:
        yield made


@pytest.fixture(scope="module")
def make_node(place: Workplace, programs: NodePrograms) -> Iterator[MakeNode]:
    """Makes and boots a node of a flavour; it ends with the module."""
    nodes: list[Node] = []

    def make(kind: str) -> Node:
        hosts = {UPSTREAM: place.host}
        nodes.append(Node(f"{kind}-{len(nodes)}", kind, place, programs, hosts=hosts))
        return CRI(nodes[-1].start()).wait().node

    yield make
    for node in nodes:
        node.stop()


@pytest.fixture(scope="module")
def new_node(make_node: MakeNode) -> Node:
    return make_node("containerd24")


@pytest.fixture(scope="module")
def old_node(make_node: MakeNode) -> Node:
    return make_node("containerd16")


@pytest.fixture(scope="module")
def k3s_node(make_node: MakeNode) -> Node:
    return make_node("k3s")
