"""What ``registry-mirror diff`` says that an apply would change, as golden text, for clusters of every size."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
from msgspec.structs import replace

from registry_mirror.api.models import EmbeddedRegistry, RuntimeFacts
from registry_mirror.cli.diff import compared, lines
from registry_mirror.cli.documents import Loaded, load
from registry_mirror.cli.unread import stand_in
from registry_mirror.controller.store import Store
from registry_mirror.core.forecast import Forecast
from registry_mirror.core.layout import default_facts
from registry_mirror.core.resolve import references, resolve
from registry_mirror.kube.resources import CONFIGS, MIRRORS, NODES, POLICIES, SECRETS
from tests.harness.cluster import mirror
from tests.pure.builders import parsed

K3S = replace(default_facts("k3s"), version="")
CONTAINERD = default_facts("containerd")
SHARING = replace(K3S, embedded_registry=EmbeddedRegistry(address="127.0.0.1:6443"))
OLD, NEW = "https://old.example.com", "https://new.example.com"
CERTS = "/var/lib/rancher/k3s/agent/etc/containerd/certs.d"


def cluster(nodes: dict[str, RuntimeFacts | None], *mirrors: dict[str, Any], **secrets: str) -> Store:
    """What is read of a cluster; the secrets are passwords by name."""
    store = Store()
    for name, facts in nodes.items():
        info = {"kubeletVersion": "v1.33.4+k3s1", "containerRuntimeVersion": "containerd://2.1.4-k3s1"}
        labels = {"zone": name[0]}
        store.put(NODES, {"metadata": {"name": name, "uid": name, "labels": labels}, "status": {"nodeInfo": info}})
        status = {"runtime": msgspec.to_builtins(facts)} if facts is not None else {}
        metadata = {"name": name, "ownerReferences": [{"kind": "Node", "name": name, "uid": name}]}
        store.put(CONFIGS, {"metadata": metadata, "status": status})
    for body in mirrors:
        created = {"uid": body["metadata"]["name"], "creationTimestamp": "2026-08-01T10:00:00Z", "generation": 1}
        store.put(MIRRORS, {**body, "metadata": {**body["metadata"], **created, "resourceVersion": "7"}})
    for name, password in secrets.items():
        store.put(SECRETS, secret(name, password))
    return store


def secret(name: str, password: str) -> dict[str, Any]:
    data = {
        key: base64.b64encode(value.encode()).decode() for key, value in (("username", "u"), ("password", password))
    }
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "resourceVersion": "7"}, "data": data}


@pytest.fixture
def documents(tmp_path: Path) -> Any:
    def make(*bodies: dict[str, Any]) -> Loaded:
        path = tmp_path / "mirrors.yaml"
        path.write_text("\n---\n".join(msgspec.json.encode(body).decode() for body in bodies))
        return load((str(path),))

    return make


def text(found: Forecast) -> str:
    return click.unstyle("\n".join(lines(found)))


def credentials(name: str, url: str, of: str) -> dict[str, Any]:
    endpoint = {"url": url, "credentialsRef": {"name": of}}
    return {**mirror(name, f"{name}.example.com"), "spec": {"registry": f"{name}.example.com", "endpoints": [endpoint]}}


GOLDEN = f"""\
no restart is needed
  changed  /etc/rancher/k3s/registries.yaml  (for the next start; in force already)
  changed  {CERTS}/docker.io/hosts.toml  (the next pull uses it)
  --- {CERTS}/docker.io/hosts.toml
  +++ {CERTS}/docker.io/hosts.toml
  @@ -4,7 +4,7 @@
     - 'resolve'
     - 'push'
   host:
  -  https://old.example.com/v2:
  +  https://new.example.com/v2:
       capabilities:
         - 'pull'
         - 'resolve'
  --- /etc/rancher/k3s/registries.yaml
  +++ /etc/rancher/k3s/registries.yaml
  @@ -1,7 +1,7 @@
   mirrors:
     docker.io:
       endpoint:
  -      - 'https://old.example.com'
  +      - 'https://new.example.com'
     quay.io:
       endpoint:
         - 'https://old.example.com'

not known on 4 nodes, whose agents have not reported yet: x1, x2, x3 and 1 more"""


@pytest.mark.parametrize("count", [3, 3000])
def test_a_live_change_on_few_and_on_many_nodes(documents: Any, count: int) -> None:
    nodes: dict[str, RuntimeFacts | None] = {f"n{number:04}": K3S for number in range(count)}
    nodes |= {"x1": None, "x2": None, "x3": None, "x4": None}
    store = cluster(nodes, mirror("hub", "docker.io", OLD), mirror("quay", "quay.io", OLD))
    found = compared(store, documents(mirror("hub", "docker.io", NEW)), [])
    names = "n0000, n0001, n0002" + (f" and {count - 3} more" if count > 3 else "")
    assert text(found) == f"{count} nodes with k3s ({names}): {GOLDEN}"


def test_each_kind_of_node_is_shown_once(documents: Any) -> None:
    store = cluster({"a1": K3S, "b1": SHARING, "c1": CONTAINERD, "c2": CONTAINERD})
    found = compared(store, documents(mirror("quay", "quay.io", NEW)), [])
    assert [(change.runtime, change.nodes) for change in found.changes] == [
        ("containerd", ("c1", "c2")),
        ("k3s", ("a1",)),
        ("k3s", ("b1",)),
    ]
    assert [bool(change.waiting) for change in found.changes] == [False, False, True]
    assert found.restarts
    assert found.notes == ()


def test_who_forbids_restarts_is_told_that_they_are_theirs(documents: Any) -> None:
    store = cluster({"a1": K3S, "b1": SHARING})
    store.put(POLICIES, {"metadata": {"name": "default"}, "spec": {"rollout": {"restart": "Never"}}})
    (note,) = compared(store, documents(mirror("quay", "quay.io", NEW)), []).notes
    assert "the restarts are yours" in note
    assert compared(cluster({"a1": K3S}), documents(mirror("quay", "quay.io", NEW)), []).notes == ()


def test_only_the_nodes_that_an_object_selects_change(documents: Any) -> None:
    store = cluster({"a1": K3S, "b1": K3S, "c1": K3S}, mirror("hub", "docker.io", OLD))
    found = compared(store, documents(mirror("quay", "quay.io", NEW, nodeSelector={"matchLabels": {"zone": "b"}})), [])
    assert ([change.nodes for change in found.changes], found.same) == ([("b1",)], 2)


def test_the_same_objects_change_nothing(documents: Any) -> None:
    store = cluster({"a1": K3S}, credentials("quay", OLD, "robot"), robot="swordfish")
    found = compared(store, documents(credentials("quay", OLD, "robot"), secret("robot", "swordfish")), [])
    assert text(found) == "nothing changes on 1 node"
    assert not found.notes


def test_a_changed_password_is_seen_and_never_shown(documents: Any) -> None:
    store = cluster({"a1": K3S}, credentials("quay", OLD, "robot"), robot="swordfish")
    found = compared(store, documents(credentials("quay", OLD, "robot"), secret("robot", "trout-and-salmon")), [])
    everything = msgspec.json.encode(found).decode() + text(found)
    assert "hosts.toml  (the next pull uses it)" in everything
    assert "only format, comments or credentials" in everything
    for password in ("swordfish", "trout-and-salmon"):
        assert password not in everything
        assert base64.b64encode(f"u:{password}".encode()).decode() not in everything


def test_a_present_object_keeps_its_precedence_and_a_new_one_stands_back(documents: Any) -> None:
    store = cluster({"a1": K3S}, mirror("hub", "docker.io", OLD))
    found = compared(store, documents(mirror("a-new-one", "docker.io", NEW)), [])
    assert "RegistryMirror a-new-one would not be in force (LowerPrecedence): RegistryMirror hub" in text(found)
    assert found.changes[0].differences == ()
    store = cluster({"a1": K3S}, mirror("z", "docker.io", OLD))
    found = compared(store, documents(mirror("z", "docker.io", NEW), mirror("y", "docker.io", OLD)), [])
    assert [left.mirror for left in found.changes[0].left] == ["y"]


def test_what_a_runtime_cannot_do_is_told(documents: Any) -> None:
    rewrite = mirror("hub", "docker.io", NEW, rewrites=[{"pattern": "^library/(.*)", "replacement": "$1"}])
    found = compared(cluster({"c1": CONTAINERD}), documents(rewrite), [])
    assert "RegistryMirror hub would not be in force (RewriteUnsupported)" in text(found)


def test_an_object_that_breaks_stays_in_force_as_it_was(documents: Any) -> None:
    store = cluster({"a1": K3S}, credentials("quay", OLD, "robot"), robot="swordfish")
    found = compared(store, documents(credentials("quay", NEW, "nobody")), [])
    assert found.changes == ()
    assert "RegistryMirror quay would not be in force (ReferenceNotFound)" in found.notes[0]


def test_what_mends_an_object_is_compared_with_nothing(documents: Any) -> None:
    store = cluster({"a1": K3S}, credentials("quay", OLD, "robot"))
    found = compared(store, documents(credentials("quay", OLD, "robot"), secret("robot", "swordfish")), [])
    assert {item.change for item in found.changes[0].differences} == {"added"}
    assert "compared with nothing" in found.notes[0]


def test_all_that_may_not_be_read_has_something_to_stand_in_for_it() -> None:
    ref = {"kind": "ConfigMap", "name": "ca", "key": "bundle.pem"}
    tls = {"caRef": ref, "clientCertificateRef": {"name": "pair"}}
    found = parsed("quay.io", endpoints=[{"url": OLD, "tls": tls, "credentialsRef": {"name": "robot"}}])
    sources = {key: stand_in(*key, [found]) for key in references(found)}
    resolved = resolve(found, sources).endpoints[0]
    assert resolved.credentials is not None
    assert resolved.tls is not None
    assert resolved.tls.ca
    assert resolved.tls.key
