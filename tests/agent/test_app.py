"""The agent's loop against a server of HTTP: it follows its object, reports once, and ends when it is told to."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from registry_mirror.agent.app import Agent, Settings
from registry_mirror.core.bundle import Bundle, encode
from registry_mirror.kube.resources import BUNDLE_KEY
from registry_mirror.kube.rest import Connection, Rest
from tests.agent import nodes, trees
from tests.agent.server import Answer, Request, Server

ONE = trees.bundle("one", {trees.REGISTRIES: "one"})
TWO = trees.bundle("two", {trees.REGISTRIES: "two"})


class Cluster:
    """One NodeRegistryConfig and the bundles, behind HTTP."""

    def __init__(self) -> None:
        self.object: dict[str, Any] | None = None
        self.failures = 0
        self.others = 403
        self.lists = 0
        self.patches: list[dict[str, Any]] = []
        self.server = Server(self._answer)

    def set(self, wanted: Bundle | None, generation: int = 1) -> dict[str, Any]:
        """Have the object ask for a bundle; gives it."""
        spec = {"revision": wanted.revision, "bundle": {"name": wanted.name}} if wanted else {}
        metadata = {"name": "n", "uid": "u", "generation": generation, "resourceVersion": str(generation)}
        status = (self.object or {}).get("status", {})
        self.object = {"metadata": metadata, "spec": spec, "status": status}
        return self.object

    def _answer(self, request: Request) -> Answer:
        if request.query.get("limit"):  # whom else the agent might speak for
            return 200, json.dumps({"items": [{"metadata": {"name": name}} for name in ("n", "other")]}).encode()
        if request.query.get("dryRun"):
            return self.others, b"{}"
        if request.method == "PATCH":
            self.patches.append(json.loads(request.body)["status"])
            if self.failures > 0:
                self.failures -= 1
                return 500, b"{}"
            return 200, b"{}"
        if "/secrets/" in request.path:
            found = {item.name: item for item in (ONE, TWO)}[request.path.rpartition("/")[2]]
            data = {BUNDLE_KEY: base64.b64encode(encode(found)).decode()}
            return 200, json.dumps({"data": data}).encode()
        self.lists += 1
        items = [self.object] if self.object else []
        return 200, json.dumps({"metadata": {"resourceVersion": "1"}, "items": items}).encode()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A cluster without a NodeRegistryConfig."""
    found = Cluster()
    yield found
    found.server.close()


def _until(done: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def _applied(cluster: Cluster, revision: str) -> bool:
    return bool(cluster.patches) and cluster.patches[-1].get("appliedRevision") == revision


@pytest.fixture
def agent(cluster: Cluster, tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Starts an agent on a K3s node below tmp_path."""
    (tmp_path / "etc/rancher/k3s").mkdir(parents=True)
    rest = Rest(Connection(server=cluster.server.url, token="t"))
    agent = Agent(rest, nodes.node(tmp_path, rest), Settings("n", resync=0.05))
    thread = threading.Thread(target=agent.run)
    yield thread.start
    agent.stop()
    thread.join(30)
    assert not thread.is_alive()


def test_it_follows_its_own_object_and_reports_once(
    cluster: Cluster, agent: Callable[[], None], tmp_path: Path
) -> None:
    agent()
    _until(lambda: cluster.lists)
    cluster.server.event("ADDED", cluster.set(None))
    _until(lambda: cluster.patches)
    assert cluster.patches[-1]["runtime"]["name"] == "k3s"
    cluster.server.event("MODIFIED", cluster.set(ONE, 2))
    _until(lambda: _applied(cluster, "one"))
    cluster.server.event("BOOKMARK", {"metadata": {"resourceVersion": "9"}})
    time.sleep(0.5)  # ten passes that find nothing to do
    assert len(cluster.patches) == 2
    lists = [item for item in cluster.server.requests if item.path.endswith("/noderegistryconfigs")]
    asked = [item for item in lists if "limit" not in item.query]
    assert len(asked) == len(lists) - 1, "it asks only once whether it is confined to its node"
    assert {item.query.get("fieldSelector") for item in asked} == {"metadata.name=n"}
    (tmp_path / trees.REGISTRIES[1:]).write_text("drift")
    _until(lambda: (tmp_path / trees.REGISTRIES[1:]).read_text() == "one")


def test_an_object_that_is_deleted_leaves_the_files(
    cluster: Cluster, agent: Callable[[], None], tmp_path: Path
) -> None:
    cluster.set(ONE)
    agent()
    _until(lambda: _applied(cluster, "one"))
    cluster.server.event("DELETED", cluster.set(ONE))
    time.sleep(0.3)
    count = len(cluster.patches)
    (tmp_path / trees.REGISTRIES[1:]).write_text("nobody asks for anything now")
    time.sleep(0.3)
    assert len(cluster.patches) == count
    assert (tmp_path / trees.REGISTRIES[1:]).exists()
    cluster.object = None
    cluster.server.event("ADDED", cluster.set(TWO))
    _until(lambda: _applied(cluster, "two"))


@pytest.mark.parametrize(
    "chunk",
    [
        b"<html>\n",
        b'{"type": "MODIFIED"}\n',
        b'{"type": "MODIFIED", "object": {"metadata": {"name": "n", "resourceVersion": "2"}, "spec": 5}}\n',
        b'{"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "old"}}\n',
        False,
    ],
)
def test_nothing_that_a_watch_says_ends_the_following(
    cluster: Cluster, agent: Callable[[], None], caplog: pytest.LogCaptureFixture, chunk: bytes | bool
) -> None:
    cluster.set(ONE)
    agent()
    _until(lambda: _applied(cluster, "one"))
    cluster.server.chunks.put(chunk)
    cluster.server.chunks.put(None)
    cluster.set(TWO, 2)
    _until(lambda: _applied(cluster, "two"))
    assert cluster.lists == 2
    assert ("Expired: watch: old" in caplog.text) == (isinstance(chunk, bytes) and b"Expired" in chunk)


def test_a_watch_that_ends_at_once_is_not_repeated_in_a_loop(cluster: Cluster, agent: Callable[[], None]) -> None:
    for _ in range(50):
        cluster.server.chunks.put(None)
    agent()
    time.sleep(1)
    assert len(cluster.server.requests) < 5


def test_a_report_that_is_refused_is_repeated(cluster: Cluster, agent: Callable[[], None]) -> None:
    cluster.failures = 1
    cluster.set(ONE)
    agent()
    _until(lambda: len(cluster.patches) == 2)
    time.sleep(0.2)
    assert len(cluster.patches) == 2
    assert _applied(cluster, "one")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process_within_a_second_while_the_watch_hangs(
    cluster: Cluster, tmp_path: Path, number: signal.Signals
) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        json.dumps(
            {
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
                "clusters": [{"name": "c", "cluster": {"server": cluster.server.url}}],
                "users": [{"name": "c", "user": {"token": "t"}}],
            }
        )
    )
    root = tmp_path / "host"
    (root / "etc/rancher/k3s").mkdir(parents=True)
    cluster.set(ONE)
    program = "from registry_mirror.cli.main import main; main()"
    command = [sys.executable, "-c", program, "agent", "--node-name", "n", "--host-root", str(root)]
    paths = os.pathsep.join(path for path in sys.path if path)
    environ = {**os.environ, "KUBECONFIG": str(kubeconfig), "PYTHONPATH": paths}
    environ.pop("KUBERNETES_SERVICE_HOST", None)
    child = subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True)
    try:
        _until(lambda: _applied(cluster, "one"), 20)
        began = time.monotonic()
        child.send_signal(number)
        _, said = child.communicate(timeout=30)
        assert time.monotonic() - began < 1
        assert child.returncode == 0, said
        assert "Traceback" not in said
    finally:
        child.kill()
        child.wait()
