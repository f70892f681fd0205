"""The agent in a cluster, on real nodes: a real control plane, the controller, and in each node real systemd,
containerd, kubelet and the agent with the rights of its manifest.

The controller is ended before a restart is granted by hand: what it would grant, and when, is not what is tested here.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.harness.cluster import REPOSITORY, SYSTEM, Cluster, mirror
from tests.harness.controlplane import ControlPlane
from tests.harness.cri import CRI
from tests.harness.images import sleeper
from tests.harness.kubectl import KubectlError
from tests.harness.node import Node
from tests.harness.nodebinaries import ClusterPrograms, NodePrograms
from tests.harness.nodekubelet import Kubelet, NodeAccess
from tests.harness.pytest_support import require_assets, require_cluster
from tests.harness.registries import Registries
from tests.harness.workplace import Workplace
from tests.nodes.hosts import CONFIG, HOSTS, UPSTREAM, WITHOUT_PATH

KUBECONFIG = "/root/agent.kubeconfig"
_READY = 90.0
_RESTART = 150.0
_PROBED = 90.0
_QUICK = 20.0  # a pull behind an endpoint that hangs takes 120 s (docs/benchmarks.md)


@dataclass(frozen=True)
class Member:
    """A node in the cluster, with its agent."""

    cluster: Cluster
    node: Node

    @property
    def status(self) -> dict[str, Any]:
        """Of its NodeRegistryConfig, empty while there is none."""
        try:
            found: dict[str, Any] = self.cluster.get("nrc", self.node.name).get("status") or {}
        except KubectlError:
            return {}
        return found

    def condition(self, kind: str) -> tuple[str, str]:
        """Status and reason of one of its conditions."""
        found: dict[str, str] = next((item for item in self.status.get("conditions", ()) if item["type"] == kind), {})
        return found.get("status", ""), found.get("reason", "")

    def message(self, kind: str) -> str:
        """The message of one of its conditions."""
        return str(next(item for item in self.status["conditions"] if item["type"] == kind)["message"])

    def ready(self) -> bool:
        """Whether the Node is Ready."""
        path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}"
        return self.cluster.kubectl("get", "node", self.node.name, "-o", path, check=False) == "True"

    def until(self, check: Callable[[], object], what: str, timeout: float) -> None:
        """Wait; fails with what the node reports and the agent says."""
        try:
            self.cluster.until(check, what, timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{json.dumps(self.status, indent=1)}") from None

    def grant(self) -> None:
        """Allow the restart, as the controller would."""
        self.cluster.kubectl("patch", "nrc", self.node.name, "--type=merge", '-p={"spec":{"restartAllowed":true}}')

    def attempt(self) -> dict[str, Any]:
        """What its status says of the last restart."""
        return self.status.get("restart") or {}

    def order(self, *urls: str) -> list[str]:
        """Those URLs in the order in which the node's hosts.toml has them."""
        try:
            text = self.node.read(HOSTS)
        except FileNotFoundError:
            return []
        return sorted((url for url in urls if url in text), key=text.index)

    def tree(self) -> dict[str, str]:
        """What lies below containerd's directory of settings."""
        root = self.node.path("/etc/containerd")
        return {
            str(path.relative_to(root)): path.read_text() if path.is_file() else "" for path in sorted(root.rglob("*"))
        }


Join = Callable[..., AbstractContextManager[Member]]


@pytest.fixture(scope="module")
def access(place: Workplace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeAccess]:
    made = NodeAccess(place, tmp_path_factory.mktemp("access"))
    yield made
    made.stop()


@pytest.fixture(scope="module")
def cluster(
    access: NodeAccess, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[Cluster]:
    work = tmp_path_factory.mktemp("cluster")
    made = Cluster(work)
    made.plane = ControlPlane(work / "plane", require_assets(pytestconfig), apiserver_flags=access.apiserver_flags)
    with made:
        access.start(made.plane)
        made.install()
        made.kubectl("create", "serviceaccount", "default")
        yield made


@pytest.fixture
def controller(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster with its controller running, and no object left afterwards."""
    cluster.start_controller()
    yield cluster
    stop_controller(cluster)
    cluster.kubectl("delete", "rmir", "--all")
    cluster.kubectl("delete", "nrc", "--all")


@pytest.fixture
def join(
    place: Workplace,
    programs: NodePrograms,
    pytestconfig: pytest.Config,
    controller: Cluster,
    access: NodeAccess,
) -> Join:
    kubelets = require_cluster(pytestconfig)
    return lambda name, config=None: _join(name, config, place, programs, kubelets, controller, access)


@contextlib.contextmanager
def _join(
    name: str,
    config: str | None,
    place: Workplace,
    programs: NodePrograms,
    kubelets: ClusterPrograms,
    cluster: Cluster,
    access: NodeAccess,
) -> Iterator[Member]:
    """A node that is Ready, before its agent is there."""
    kubelet = Kubelet(kubelets, access.kubeconfig(name))
    known = {UPSTREAM: place.host}
    with Node(name, "containerd24", place, programs, config=config, hosts=known, kubelet=kubelet) as node:
        member = Member(cluster, node)
        node.until(member.ready, "it is Ready", _READY)
        yield member
    cluster.kubectl("delete", "node", name)


def start_agent(member: Member) -> None:
    """Start the agent in the node, with a token of its service account."""
    node, plane = member.node, member.cluster.plane
    port = plane.url.rsplit(":", 1)[1]
    # The API server's certificate is for loopback: so that is where the node has it.
    door = ["/lib/systemd/systemd-socket-proxyd", f"{node.place.host}:{port}"]
    listening = node.process("door", ["systemd-socket-activate", f"--listen=127.0.0.1:{port}", *door])
    node.until(lambda: "Listening on" in listening.tail(), "the way to the API server is open")
    kubeconfig: Path = plane.service_account_kubeconfig(SYSTEM, "registry-mirror-agent", ("Node", node.name))
    node.write(KUBECONFIG, kubeconfig.read_text(), 0o600)
    argv = ["-m", "registry_mirror.cli.main", "agent", f"--node-name={node.name}", "--host-root=/"]
    process = node.process("agent", [sys.executable, *argv], {"KUBECONFIG": KUBECONFIG})
    member.cluster.agents[node.name] = process


def stop_controller(cluster: Cluster) -> None:
    if cluster.controller is not None:
        cluster.controller.stop()


def policy(cluster: Cluster, mode: str = "Off") -> None:
    """No restart is granted by the controller, and nobody waits for a canary."""
    rollout = {"restart": "Never", "canary": {"nodes": 0}}
    body = {"kind": "RegistryMirrorPolicy", "metadata": {"name": "default"}}
    spec = {"probe": {"mode": mode, "interval": "5s"}, "rollout": rollout}
    cluster.apply({"apiVersion": "registrymirror.io/v1alpha1", **body, "spec": spec})


def run_a_pod(member: Member, registries: Registries, programs: NodePrograms) -> list[str]:
    """Run a pod on the node, whose images come from nowhere near a mirror; gives the containers."""
    node = member.node
    source = registries.plain(f"images-of-{node.name}")
    image = sleeper(programs.busybox)
    for name, tag in (("pause", "3.10"), ("sleeper", "1")):
        source.push(name, tag, image)
        there, here = f"{source.address}/{name}:{tag}", f"{UPSTREAM}/{name}:{tag}"
        node.run("ctr", "-n", "k8s.io", "images", "pull", "--plain-http", there, check=True)
        node.run("ctr", "-n", "k8s.io", "images", "tag", there, here, check=True)
    container = {"name": "main", "image": f"{UPSTREAM}/sleeper:1"}
    spec = {"nodeName": node.name, "containers": [container], "automountServiceAccountToken": False}
    member.cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": node.name}, "spec": spec})
    phase = ("get", "pod", node.name, "-o", "jsonpath={.status.phase}")
    node.until(lambda: member.cluster.kubectl(*phase) == "Running", "the pod runs", _READY)
    return CRI(node).running()


def test_a_restart_is_asked_for_granted_and_seen_through_and_all_of_it_goes_again(
    join: Join, controller: Cluster, registries: Registries, programs: NodePrograms
) -> None:
    policy(controller)
    with join("restarted", WITHOUT_PATH) as member:
        node, found = member.node, registries.plain("granted")
        found.push("team/app", "1")
        containers = run_a_pod(member, registries, programs)
        assert containers
        before, pid = member.tree(), node.runtime_pid
        start_agent(member)
        controller.apply(mirror("test", UPSTREAM, found.url))
        member.until(lambda: member.condition("RestartRequired") == ("True", "StartSettings"), "it asks", _READY)
        assert member.status["waitingForRestart"] == ["config_path of containerd"]
        assert member.order(found.url) == [found.url]
        assert node.runtime_pid == pid
        stop_controller(controller)
        member.grant()
        member.until(lambda: member.attempt().get("result") == "Succeeded", "the restart went well", _RESTART)
        member.until(lambda: member.condition("RuntimeHealthy")[0] == "True", "it says that it is healthy", _READY)
        assert member.condition("RestartRequired") == ("False", "NotRequired")
        assert member.condition("Applied")[0] == "True"
        assert node.runtime_pid != pid
        assert CRI(node).wait().running() == containers
        assert member.ready()
        CRI(node).pull(f"{UPSTREAM}/team/app:1")
        assert found.requests("/team/app/manifests/1")
        assert "registry-mirror-rollback" not in node.systemctl("list-timers", "--all")

        controller.start_controller()
        controller.kubectl("delete", "rmir", "test")
        member.until(lambda: member.tree() == before, "all is as it was", _READY)
        stop_controller(controller)
        member.until(lambda: member.condition("RestartRequired")[0] == "True", "the runtime still has it", _READY)
        member.grant()
        member.until(lambda: member.condition("RestartRequired")[0] == "False", "nothing waits", _RESTART)
        assert member.tree() == before
        assert CRI(node).wait().running() == containers


def test_what_keeps_the_runtime_from_starting_is_undone_and_the_next_revision_recovers(
    join: Join, controller: Cluster, registries: Registries
) -> None:
    policy(controller)
    with join("poisoned", WITHOUT_PATH) as member:
        node, found = member.node, registries.plain("cure")
        found.push("team/app", "1")
        # What no parse-back can foresee: this start is refused with that one mirror.
        script = f"if grep -q poison.test {HOSTS} 2>/dev/null; then echo this start is refused; exit 1; fi"
        node.write(
            f"/etc/systemd/system/{node.flavour.unit}.d/refuse.conf", f"[Service]\nExecStartPre=/bin/sh -c '{script}'\n"
        )
        node.systemctl("daemon-reload")
        start_agent(member)
        controller.apply(mirror("test", UPSTREAM, "http://poison.test"))
        member.until(lambda: member.condition("RestartRequired")[0] == "True", "it asks", _READY)
        stop_controller(controller)
        member.grant()
        member.until(lambda: member.attempt().get("result") == "RolledBack", "it went back", _RESTART)
        member.until(lambda: member.condition("Stalled") == ("True", "RolledBack"), "somebody is told", _READY)
        assert "this start is refused" in member.message("Stalled")
        assert any("this start is refused" in line for line in member.attempt()["log"])
        assert node.read(CONFIG) == WITHOUT_PATH
        assert not node.path(HOSTS).exists()
        CRI(node).wait()
        member.until(member.ready, "the Node is Ready", _READY)

        controller.start_controller()
        controller.apply(mirror("test", UPSTREAM, found.url))
        member.until(lambda: member.order(found.url), "the next revision is on the node", _READY)
        member.until(lambda: member.condition("RestartRequired")[0] == "True", "it asks again", _READY)
        stop_controller(controller)
        member.grant()
        member.until(lambda: member.attempt().get("result") == "Succeeded", "it is over", _RESTART)
        member.until(lambda: member.condition("Stalled")[0] == "False", "nobody has to do anything", _READY)
        CRI(node).wait().pull(f"{UPSTREAM}/team/app:1")
        assert found.requests("/team/app/manifests/1")


def test_an_endpoint_that_hangs_goes_behind_and_comes_back(
    join: Join, controller: Cluster, registries: Registries
) -> None:
    policy(controller, "Demote")
    with join("demoted") as member:
        node, first, second = member.node, registries.plain("hanging"), registries.plain("healthy")
        for tag in ("1", "2", "3"):
            first.push("team/app", tag)
            second.push("team/app", tag)
        usual, demoted = [first.url, second.url], [second.url, first.url]
        before, wanted = member.tree(), mirror("test", UPSTREAM, *usual)
        # As at its first boot: the agent takes over what it finds.
        node.write("/root/mirror.yaml", json.dumps(wanted))
        apply = [sys.executable, "-m", "registry_mirror.cli.main", "apply", "--local", "-f", "/root/mirror.yaml"]
        node.run(*apply, check=True)
        assert member.order(*usual) == usual
        found = member.tree()
        controller.apply(wanted)
        start_agent(member)
        member.until(lambda: member.condition("Applied")[0] == "True", "the agent has taken over", _READY)
        assert member.tree() == found
        CRI(node).wait().pull(f"{UPSTREAM}/team/app:1", timeout=_QUICK)
        pid = node.runtime_pid

        first.hang()
        try:
            member.until(lambda: member.order(*usual) == demoted, "it is behind", _PROBED)
            CRI(node).pull(f"{UPSTREAM}/team/app:2", timeout=_QUICK)
            results = {item["url"]: item for item in member.status["endpoints"]}
            assert results[second.url]["reachable"]
            assert not results[first.url]["reachable"]
            assert results[first.url]["reason"] == "TimedOut"
            told = controller.condition("test", "EndpointsReachable")
            assert (told["status"], told["reason"]) == ("False", "SomeUnreachable")
            assert first.url in told["message"]
        finally:
            first.resume()
        assert second.requests("/team/app/manifests/2")
        member.until(lambda: member.order(*usual) == usual, "it is in front again", _PROBED)
        first.forget()
        CRI(node).pull(f"{UPSTREAM}/team/app:3", timeout=_QUICK)
        assert first.requests("/team/app/manifests/3")
        assert node.runtime_pid == pid
        controller.until(
            lambda: controller.condition("test", "EndpointsReachable").get("reason") == "AllReachable",
            "the object says so",
            _PROBED,
        )
        controller.kubectl("delete", "rmir", "test")
        member.until(lambda: member.tree() == before, "all is as it was before the first boot", _READY)


def in_a_pod(node: Node, pod: dict[str, Any]) -> list[str]:
    """The command line that runs the init container of a pod in the node as its kubelet would, but for the image: with
    its directories of the host at their places and its capabilities.
    """
    (container,) = pod["initContainers"]
    volumes = {item["name"]: item["hostPath"]["path"] for item in pod["volumes"] if "hostPath" in item}
    script = ["mkdir -p /host", "mount -t tmpfs tmpfs /host"]
    for mount in (item for item in container["volumeMounts"] if item["name"] in volumes):
        source, target = volumes[mount["name"]], mount["mountPath"]
        script += [f"mkdir -p {source} {target}", f"mount --bind {source} {target}"]
        script += [f"mount -o remount,bind,ro {target}"] if mount.get("readOnly") else []
    rights = ",".join(("-all", *(f"+{name.lower()}" for name in container["securityContext"]["capabilities"]["add"])))
    command, *words = container["command"]
    assert command == "registry-mirror"
    program = [sys.executable, "-m", "registry_mirror.cli.main", *words, *container["args"]]
    script.append(f"exec setpriv --no-new-privs --bounding-set={rights} -- {shlex.join(program)}")
    return ["unshare", "--mount", "sh", "-ec", "\n".join(script)]


def test_what_cleans_up_after_an_uninstall_leaves_the_node_as_it_was(
    cluster: Cluster, place: Workplace, programs: NodePrograms
) -> None:
    objects = yaml.safe_load_all(cluster.kubectl("kustomize", str(REPOSITORY / "manifests" / "cleanup" / "containerd")))
    (pod,) = [item["spec"]["template"]["spec"] for item in objects if item["kind"] == "DaemonSet"]
    with Node("cleaned", "containerd24", place, programs, config=WITHOUT_PATH, hosts={UPSTREAM: place.host}) as node:
        CRI(node).wait()
        member = Member(cluster, node)
        before = member.tree()
        cleanup = in_a_pod(node, pod)
        assert node.run(*cleanup, check=True).stdout == "nothing to put back\n"
        node.write("/root/mirror.yaml", json.dumps(mirror("test", UPSTREAM, "http://mirror.test")))
        apply = [sys.executable, "-m", "registry_mirror.cli.main", "apply", "--local", "-f", "/root/mirror.yaml"]
        node.run(*apply, check=True)
        assert member.tree() != before
        pid = node.runtime_pid

        said = node.run(*cleanup, check=True).stdout
        assert f"put back {CONFIG}" in said
        assert "a restart of the runtime is needed for: config_path of containerd" in said
        assert member.tree() == before
        assert node.runtime_pid == pid
        # Whoever looks after the node restarts it, and then nothing is kept any more.
        node.systemctl("restart", node.flavour.unit)
        CRI(node).wait()
        assert "needed" not in node.run(*cleanup, check=True).stdout
        assert member.tree() == before
        assert list(node.path("/var/lib/registry-mirror").iterdir()) == []
        assert "registry-mirror-rollback" not in node.systemctl("list-timers", "--all")
        assert CRI(node).answers()
