"""The controller's picture of the cluster must stay right when watches and lists overtake each other."""

from __future__ import annotations

from typing import Any

from registry_mirror.controller.store import Store
from registry_mirror.kube.resources import CONFIG_MAPS, CONFIGS, MIRRORS, NODES, SECRETS

Body = dict[str, Any]


def node(name: str, version: int, **labels: str) -> Body:
    """A Node as the API server gives it."""
    metadata = {"name": name, "uid": f"uid-{name}", "resourceVersion": str(version), "labels": labels}
    return {"metadata": metadata, "status": {"nodeInfo": {"kubeletVersion": "v1.33.4+k3s1"}}}


def mirror(name: str, version: int, registry: str = "docker.io", **status: Any) -> Body:
    """A RegistryMirror as the API server gives it."""
    metadata = {"name": name, "uid": f"uid-{name}", "generation": 1, "resourceVersion": str(version)}
    return {"metadata": metadata, "spec": {"registry": registry}, "status": status}


def test_a_heartbeat_of_a_node_is_no_change() -> None:
    store = Store()
    assert store.put(NODES, node("a", 1, zone="x"))
    heartbeat = node("a", 2, zone="x")
    heartbeat["status"]["conditions"] = [{"type": "Ready", "lastHeartbeatTime": "now"}]
    assert not store.put(NODES, heartbeat)
    assert store.put(NODES, node("a", 3, zone="y"))
    assert store.nodes["a"].labels == {"zone": "y"}


def test_what_is_older_than_what_is_known_is_ignored() -> None:
    store = Store()
    store.put(NODES, node("a", 10, zone="new"))
    assert not store.put(NODES, node("a", 9, zone="old"))
    assert store.nodes["a"].labels == {"zone": "new"}
    assert store.put(NODES, node("a", 11, zone="newer"))


def test_a_deletion_that_no_watch_told_is_found_by_the_next_list() -> None:
    store = Store()
    store.put(NODES, node("stays", 1))
    store.put(NODES, node("went", 2))
    assert store.replace(NODES, [node("stays", 1)], "5") == ["went"]
    assert list(store.nodes) == ["stays"]


def test_a_list_does_not_drop_what_was_created_after_it_was_read() -> None:
    store = Store()
    store.put(NODES, node("young", 7))
    assert store.replace(NODES, [], "5") == []
    assert list(store.nodes) == ["young"]


def test_a_list_does_not_bring_back_what_was_deleted_after_it_was_read() -> None:
    store = Store()
    store.put(NODES, node("a", 3))
    assert store.drop(NODES, node("a", 8))
    assert store.replace(NODES, [node("a", 3)], "5") == []
    assert not store.nodes
    # The grave stone goes with the first list that is newer, and a new object of the name is welcome at once.
    assert store.replace(NODES, [], "9") == []
    assert store.put(NODES, node("a", 10))


def test_a_deletion_of_an_earlier_object_of_the_name_is_ignored() -> None:
    store = Store()
    store.put(NODES, node("a", 10))
    assert not store.drop(NODES, node("a", 4))
    assert "a" in store.nodes


def test_the_status_of_a_mirror_is_no_change_but_is_remembered() -> None:
    store = Store()
    assert store.put(MIRRORS, mirror("a", 1))
    assert not store.put(MIRRORS, mirror("a", 2, observedGeneration=1))
    assert store.mirrors["a"].status.observed_generation == 1
    assert store.put(MIRRORS, mirror("a", 3, registry="quay.io"))


def test_a_mirror_that_cannot_be_read_is_kept_with_what_is_wrong() -> None:
    store = Store()
    assert store.put(MIRRORS, mirror("a", 1, registry="../x"))
    assert store.mirrors["a"].mirror is None
    assert "spec.registry" in str(store.mirrors["a"].error)
    assert not store.put(MIRRORS, mirror("a", 2, registry="../x", observedGeneration=7)), "the same error is no change"
    assert store.mirrors["a"].status.observed_generation == 7, "its status is known all the same"
    assert store.put(MIRRORS, mirror("a", 3, registry="../y"))


def test_secrets_and_config_maps_are_sources() -> None:
    store = Store()
    store.put(SECRETS, {"metadata": {"name": "s", "resourceVersion": "1"}, "data": {"username": "bWU="}})
    store.put(CONFIG_MAPS, {"metadata": {"name": "c", "resourceVersion": "2"}, "data": {"ca.crt": "PEM"}})
    sources = store.sources()
    assert sources["Secret", "s"].data == {"username": b"me"}
    assert sources["ConfigMap", "c"].data == {"ca.crt": b"PEM"}


def test_versions_come_from_the_node_where_the_agent_saw_none() -> None:
    store = Store()
    body = node("a", 1)
    body["status"]["nodeInfo"]["containerRuntimeVersion"] = "containerd://2.1.4-k3s1"
    store.put(NODES, body)
    config = {"metadata": {"name": "a", "resourceVersion": "2"}, "status": {"runtime": {"name": "k3s"}}}
    store.put(CONFIGS, config)
    facts = store.configs["a"].status.runtime
    assert facts is not None
    complete = store.nodes["a"].complete(facts)
    assert (complete.version, complete.containerd_version) == ("v1.33.4+k3s1", "2.1.4-k3s1")


def test_an_object_that_cannot_be_read_does_not_keep_the_others_of_a_list_out() -> None:
    store = Store()
    odd = {"metadata": {"name": "odd", "resourceVersion": "1"}, "status": {"runtime": {"name": "of-the-future"}}}
    good = {"metadata": {"name": "good", "resourceVersion": "2"}, "status": {"runtime": {"name": "k3s"}}}
    assert store.replace(CONFIGS, [odd, good], "3") == ["good"]
    assert list(store.configs) == ["good"]
    assert store.replace(CONFIGS, [odd, good], "4") == [], "nor is it taken for deleted and created again"
