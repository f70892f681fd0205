"""What the runtimes do with mirrors, certificates and credentials, which docs/runtimes.md tells."""

from __future__ import annotations

import pytest

from tests.harness.cri import CRI, CRIError
from tests.harness.node import Node
from tests.harness.registries import Registries, Registry
from tests.nodes import hosts
from tests.nodes.conftest import MakeNode
from tests.nodes.hosts import UPSTREAM


@pytest.fixture(scope="module", params=["containerd16", "containerd24", "k3s"])
def node(request: pytest.FixtureRequest, make_node: MakeNode) -> Node:
    return make_node(request.param)


@pytest.fixture(scope="module")
def plain(registries: Registries) -> Registry:
    return registries.plain("plain")


def pull(node: Node, registry: Registry, tag: str) -> str:
    """Have the registry offer a new image of that tag and the node pull it."""
    registry.push("team/app", tag)
    return CRI(node).pull(f"{UPSTREAM}/team/app:{tag}")


def test_a_mirror_serves_and_its_log_tells(node: Node, plain: Registry) -> None:
    hosts.use(node, UPSTREAM, plain.url)
    pull(node, plain, f"before-{node.name}")
    plain.forget()
    pull(node, plain, f"by-{node.name}")
    asked = plain.requests()
    assert [request.method for request in asked[:2]] == ["HEAD", "GET"]
    assert asked[0].path == f"/v2/team/app/manifests/by-{node.name}?ns={UPSTREAM}"
    assert {request.status for request in asked} == {200}
    assert len([request for request in asked if "/blobs/" in request.path]) == 2
    assert {request.peer for request in asked} == {node.ip}
    assert asked[0].agent.startswith("containerd/")
    assert f"{UPSTREAM}/team/app:by-{node.name}" in CRI(node).images()
    CRI(node).remove(f"{UPSTREAM}/team/app:by-{node.name}")
    assert f"{UPSTREAM}/team/app:by-{node.name}" not in CRI(node).images()


def test_no_pull_without_a_mirror(node: Node) -> None:
    hosts.use(node, UPSTREAM)
    with pytest.raises(CRIError, match="connection refused"):
        CRI(node).pull(f"{UPSTREAM}/team/app:nobody-has-it")


def test_the_next_mirror_serves_when_one_refuses(node: Node, plain: Registry) -> None:
    hosts.use(node, UPSTREAM, f"http://{plain.host}:1", plain.url)
    pull(node, plain, f"second-{node.name}")


def test_a_private_authority_has_to_be_named(node: Node, registries: Registries) -> None:
    registry = registries.tls(f"tls-{node.name}")
    hosts.use(node, UPSTREAM, registry.url)
    with pytest.raises(CRIError, match="certificate signed by unknown authority"):
        pull(node, registry, "distrusted")
    node.write("/etc/test-ca.crt", registries.authority.certificate.read_text())
    hosts.use(node, UPSTREAM, registry.url, ca="/etc/test-ca.crt")
    pull(node, registry, "trusted")
    assert registry.requests("/team/app/manifests/trusted")


def test_a_client_certificate_is_demanded(node: Node, registries: Registries) -> None:
    registry = registries.tls(f"mutual-{node.name}", clients=True)
    node.write("/etc/test-ca.crt", registries.authority.certificate.read_text())
    hosts.use(node, UPSTREAM, registry.url, ca="/etc/test-ca.crt")
    with pytest.raises(CRIError, match=r"certificate required|bad certificate"):
        pull(node, registry, "nobody")
    pair = registries.authority.issue(f"client-of-{node.name}")
    node.write("/etc/test-client.crt", pair.certificate.read_text())
    node.write("/etc/test-client.key", pair.key.read_text(), mode=0o600)
    client = ("/etc/test-client.crt", "/etc/test-client.key")
    hosts.use(node, UPSTREAM, registry.url, ca="/etc/test-ca.crt", client=client)
    pull(node, registry, "somebody")


def test_a_basic_registry_takes_the_header_on_all_versions(node: Node, registries: Registries) -> None:
    registry = registries.basic(f"basic-{node.name}", {"robot": "old"})
    hosts.use(node, UPSTREAM, registry.url, header=hosts.basic("robot", "old"))
    before = node.runtime_pid
    pull(node, registry, "1")
    registries.set_passwords(registry, {"robot": "new"})
    with pytest.raises(CRIError, match=r"401|authorization failed"):
        pull(node, registry, "2")
    hosts.use(node, UPSTREAM, registry.url, header=hosts.basic("robot", "new"))
    pull(node, registry, "2")
    assert node.runtime_pid == before


@pytest.mark.parametrize("kind", ["containerd24", "k3s"])
def test_a_token_registry_takes_the_header_from_2_1(kind: str, make_node: MakeNode, registries: Registries) -> None:
    node = make_node(kind)
    registry, service = registries.token(f"token-{kind}", {"robot": {"right"}})
    hosts.use(node, UPSTREAM, registry.url, header=hosts.basic("robot", "wrong"))
    with pytest.raises(CRIError, match="401 Unauthorized"):
        pull(node, registry, "1")
    hosts.use(node, UPSTREAM, registry.url, header=hosts.basic("robot", "right"))
    pull(node, registry, "1")
    assert {(asked.user, asked.status) for asked in service.requests} == {("robot", 401), ("robot", 200)}
    assert service.requests[-1].scopes == ("repository:team/app:pull",)


def test_a_token_registry_never_sees_the_header_of_1_6(old_node: Node, registries: Registries) -> None:
    registry, service = registries.token("token-old", {"robot": {"right"}})
    hosts.use(old_node, UPSTREAM, registry.url, header=hosts.basic("robot", "right"))
    with pytest.raises(CRIError, match="failed to fetch anonymous token"):
        pull(old_node, registry, "1")
    assert {asked.user for asked in service.requests} == {""}
    assert CRI(old_node).pull(f"{UPSTREAM}/team/app:1", auth=("robot", "right"))


def test_a_pod_s_secret_replaces_the_header(node: Node, registries: Registries) -> None:
    registry = registries.basic(f"secret-{node.name}", {"robot": "right"})
    registry.push("team/app", "1")
    hosts.use(node, UPSTREAM, registry.url)
    CRI(node).pull(f"{UPSTREAM}/team/app:1", auth=("robot", "right"))
    assert [request.status for request in registry.requests("/manifests/1")] == [401, 200]


def test_a_hanging_mirror_holds_a_pull_up_and_goes_on_after(node: Node, registries: Registries) -> None:
    registry = registries.plain(f"hanging-{node.name}")
    registry.push("team/app", "1")
    hosts.use(node, UPSTREAM, registry.url)
    registry.hang()
    with pytest.raises(CRIError) as refused:
        CRI(node).pull(f"{UPSTREAM}/team/app:1", timeout=3)
    assert refused.value.code == "DeadlineExceeded"
    registry.resume()
    CRI(node).pull(f"{UPSTREAM}/team/app:1")
