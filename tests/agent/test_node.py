"""What a pass reports: facts, what is on the node, and why it is not what it should be."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from registry_mirror import __version__
from registry_mirror.api.conditions import Condition, find
from registry_mirror.api.errors import ProblemError
from registry_mirror.api.models import BundleRef, Metadata, NodeRegistryConfig, NodeRegistryConfigSpec
from registry_mirror.core.bundle import Bundle, encode
from registry_mirror.kube.errors import ApiError
from registry_mirror.kube.resources import BUNDLE_KEY, Resource
from tests.agent import nodes, trees
from tests.agent.trees import REGISTRIES, bundle, hosts

ONE = bundle("one", {hosts("docker.io"): "d", REGISTRIES: "password"}, {"credentials for x": "d1"})
SOCKET = "/run/k3s/containerd/containerd.sock"


class Store:
    """Secrets in memory."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, object]] = {}
        self.error: ApiError | None = None
        self.asked = 0

    def put(self, wanted: Bundle) -> None:
        """Store a bundle."""
        self.objects[wanted.name] = {"data": {BUNDLE_KEY: base64.b64encode(encode(wanted)).decode()}}

    def get(self, resource: Resource, name: str, namespace: str = "") -> dict[str, object] | None:
        """Give it."""
        assert (resource.kind, namespace) == ("Secret", "bundles")
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.objects.get(name)


class Pass:
    """A node, its object, and the passes over it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = Store()
        self.node = nodes.node(root, self.store)
        self.config = NodeRegistryConfig(metadata=Metadata(name="n", uid="u", generation=1))
        self.problem: ProblemError | None = None
        self.minutes = 0

    def want(self, wanted: Bundle, *, there: bool = True) -> None:
        """Let the controller ask for a bundle."""
        if there:
            self.store.put(wanted)
        metadata = replace(self.config.metadata, generation=self.config.metadata.generation + 1)
        spec = NodeRegistryConfigSpec(revision=wanted.revision, bundle=BundleRef(name=wanted.name))
        self.config = replace(self.config, metadata=metadata, spec=spec)

    def go(self) -> dict[str, Condition]:
        """One pass, reported; gives the conditions by type."""
        self.minutes += 1
        status, self.problem = self.node.reconcile(self.config, f"2024-01-01T00:{self.minutes:02}:00Z")
        self.config = replace(self.config, status=status)
        assert msgspec.convert(msgspec.to_builtins(status), type(status)) == status
        return {item.type: item for item in status.conditions}


@pytest.fixture
def node(tmp_path: Path) -> Pass:
    """A K3s node that has been given nothing yet."""
    (tmp_path / "etc/rancher/k3s").mkdir(parents=True)
    return Pass(tmp_path)


def _said(conditions: Mapping[str, Condition]) -> dict[str, tuple[str, str]]:
    return {name: (item.status, item.reason) for name, item in conditions.items()}


def test_facts_are_reported_before_anything_is_asked_for_and_nothing_is_written(node: Pass) -> None:
    trees.put(node.root, SOCKET)
    before = trees.snapshot(node.root, state=True)
    assert _said(node.go()) == {
        "Applied": ("False", "NoRevision"),
        "RestartRequired": ("False", "NotRequired"),
        "Drifted": ("False", "NoDrift"),
        "Stalled": ("False", "Working"),
    }
    assert node.config.status.runtime == trees.K3S
    assert node.config.status.agent_version == __version__
    assert node.config.status.observed_generation == 1
    assert trees.snapshot(node.root, state=True) == before


def test_success_is_reported_without_content(node: Pass) -> None:
    sealed = replace(ONE, files=tuple(replace(file, digest=f"k-{file.mode}") for file in ONE.files))
    node.want(sealed)
    conditions = node.go()
    status = node.config.status
    assert _said(conditions)["Applied"] == ("True", "Applied")
    assert (status.applied_revision, status.last_good_revision) == ("one", "")
    assert status.file_count == len(sealed.files) > 1
    assert status.waiting_for_restart == ("credentials for x",)
    assert _said(conditions)["RestartRequired"] == ("True", "StartSettings")
    assert "credentials for x" in conditions["RestartRequired"].message
    text = msgspec.json.encode(status).decode()
    assert "password" not in text
    assert "d1" not in text
    assert node.problem is None


def test_the_same_pass_twice_gives_the_same_status_and_asks_once(node: Pass) -> None:
    trees.put(node.root, SOCKET)
    node.want(ONE)
    node.go()
    first, files = node.config.status, trees.inodes(node.root)
    node.go()
    assert node.config.status == first
    assert trees.inodes(node.root) == files
    assert node.store.asked == 1


def test_a_start_of_the_runtime_ends_the_wait(node: Pass) -> None:
    socket = trees.put(node.root, SOCKET)
    node.want(ONE)
    assert node.go()["RestartRequired"].status == "True"
    later = socket.stat().st_mtime_ns + 3_600_000_000_000
    os.utime(socket, ns=(later, later))
    assert node.go()["RestartRequired"].status == "False"
    assert node.config.status.last_good_revision == "one"
    other = Pass(node.root)
    other.store, other.config = node.store, node.config
    other.node = nodes.node(node.root, other.store)
    other.minutes = node.minutes
    other.go()
    assert other.config.status == node.config.status


def test_a_bundle_that_is_not_there_yet_is_waited_for(node: Pass) -> None:
    node.want(ONE, there=False)
    said = _said(node.go())
    assert said["Applied"] == ("False", "BundleNotFound")
    assert said["Stalled"] == ("False", "Working")
    node.store.put(ONE)
    assert _said(node.go())["Applied"] == ("True", "Applied")


@pytest.mark.parametrize(
    "secret",
    [
        {},
        {"data": None},
        {"data": {}},
        {"data": {BUNDLE_KEY: None}},
        {"data": {BUNDLE_KEY: 5}},
        {"data": {BUNDLE_KEY: "é"}},
        {"data": {BUNDLE_KEY: "!"}},
        {"data": {BUNDLE_KEY: "AAAA"}},
        {"data": {BUNDLE_KEY: base64.b64encode(encode(bundle("other", {}))).decode()}},
    ],
)
def test_a_bundle_that_is_none_is_refused_and_said(node: Pass, secret: dict[str, object]) -> None:
    node.want(ONE, there=False)
    node.store.objects[ONE.name] = secret
    said = _said(node.go())
    assert said["Applied"] == ("False", "BundleInvalid")
    assert said["Stalled"] == ("True", "BundleInvalid")


def test_a_bundle_that_writes_elsewhere_is_refused_and_what_is_there_stays_reported(node: Pass) -> None:
    node.want(ONE)
    node.go()
    good = node.config.status
    node.want(bundle("evil", {"/etc/shadow": "x"}))
    said = _said(node.go())
    assert said["Stalled"] == ("True", "BundleRefused")
    assert node.config.status.applied_revision == "one"
    assert node.config.status.file_count == good.file_count == len(ONE.files)
    assert node.config.status.waiting_for_restart == good.waiting_for_restart


def test_a_host_error_is_said_and_mended_by_itself_once_its_cause_is(node: Pass) -> None:
    node.want(ONE)
    link = node.root / REGISTRIES[1:]
    link.symlink_to("/etc/shadow")
    for _ in range(2):
        said = _said(node.go())
        assert said["Applied"] == ("False", "UnsafePath")
        assert said["Stalled"] == ("True", "UnsafePath")
    link.unlink()
    assert _said(node.go())["Applied"] == ("True", "Applied")
    assert find(node.config.status.conditions, "Stalled") is not None
    assert node.config.status.conditions[-1].status == "False"


def test_an_api_server_that_fails_is_no_stall(node: Pass) -> None:
    node.want(ONE)
    node.store.error = ApiError(500, "InternalError", "get Secret: the API server answered 500")
    said = _said(node.go())
    assert said["Applied"] == ("False", "InternalError")
    assert said["Stalled"] == ("False", "Working")


def test_drift_is_repaired_without_the_api_server_and_stays_visible_until_the_next_revision(node: Pass) -> None:
    node.want(ONE)
    node.go()
    node.store.error = ApiError(0, "ApiUnreachable", "")
    (node.root / REGISTRIES[1:]).write_text("drift")
    assert REGISTRIES in node.go()["Drifted"].message
    assert (node.root / REGISTRIES[1:]).read_text() == "password"
    assert _said(node.go())["Drifted"] == ("False", "Repaired")
    node.store.error = None
    node.want(bundle("two", {REGISTRIES: "x"}))
    assert _said(node.go())["Drifted"] == ("False", "NoDrift")


def test_a_runtime_that_is_gone_leaves_facts_and_files(node: Pass) -> None:
    node.want(ONE)
    node.go()
    before = trees.snapshot(node.root)
    trees.put(node.root, "/etc/rancher/k3s/config.yaml", "docker: true")
    assert _said(node.go())["Stalled"] == ("True", "RuntimeConfigInvalid")
    assert node.config.status.runtime == trees.K3S
    assert node.config.status.applied_revision == "one"
    assert {path: trees.snapshot(node.root)[path] for path in before} == before


def test_times_of_conditions_move_only_with_their_status(node: Pass) -> None:
    node.go()
    node.want(ONE)
    conditions = node.go()
    assert conditions["Applied"].last_transition_time == "2024-01-01T00:02:00Z"
    assert conditions["Stalled"].last_transition_time == "2024-01-01T00:01:00Z"
    assert conditions["Stalled"].observed_generation == 2
