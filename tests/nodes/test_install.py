"""The operator as its owner has it: the image, the manifests, three nodes with systemd, containerd and kubelet, and a
control plane with all its parts. One story, told by tests that follow on each other.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.apiserver.test_cli_cluster import normal, run
from tests.docs.pages import DOCS, Reader, below, environment
from tests.harness.cluster import SYSTEM, mirror
from tests.harness.cri import CRI
from tests.harness.image import operator_image
from tests.harness.images import make_image, sleeper
from tests.harness.node import Node
from tests.harness.nodebinaries import NodePrograms
from tests.harness.pytest_support import require_assets, require_cluster
from tests.harness.realcluster import REGISTRY, RealCluster
from tests.harness.registries import Registries, Registry
from tests.harness.workplace import Workplace

NAMES = ("node-1", "node-2", "node-3")
LATE = "node-4"
TAINT = "registrymirror.io/not-ready:NoSchedule"
_NAME, _TAG = "registry-mirror-operator", "0.1.0"
_ROLLOUT = 240.0
_TREE = "/etc/containerd"
# Followed to the letter, but for names that are its reader's own to choose.
PAGE = DOCS / "getting-started" / "kubeadm.md"
_HERE = (
    *("docker logs mirror", "kubectl .*rollout status ", "kubectl run ", "kubectl wait .*pod/"),
    *("kubectl delete pod ", "kubectl delete -k ", "registry-mirror probe ", "registry-mirror doctor"),
)


@dataclass
class Story:
    """The cluster, the mirror that is to serve Docker Hub's images, and what was there before the operator came."""

    cluster: RealCluster
    mirror: Registry
    reader: Reader
    trees: dict[str, dict[str, str]] = field(default_factory=dict)
    containers: dict[str, set[str]] = field(default_factory=dict)

    def node(self, name: str) -> Node:
        """A node by its name."""
        return self.cluster.nodes[name]

    def tree(self, name: str) -> dict[str, str]:
        """All below containerd's directory of settings, with modes."""
        root = self.node(name).path(_TREE)
        found = {}
        for path in sorted(root.rglob("*")):
            kind = path.read_text() if path.is_file() else ""
            found[str(path.relative_to(root))] = f"{path.stat().st_mode:o} {kind}"
        return found

    def config(self, name: str) -> dict[str, Any]:
        """A node's NodeRegistryConfig, empty if there is none."""
        found: dict[str, Any] = self.cluster.get("nrc", name)
        return found

    def status(self, name: str) -> dict[str, Any]:
        """What a node's agent says."""
        found: dict[str, Any] = self.config(name).get("status") or {}
        return found

    def condition(self, kind: str, name: str, of: str) -> dict[str, str]:
        """A condition of an object; empty if it has none."""
        found = (self.cluster.get(kind, name).get("status") or {}).get("conditions", ())
        return next((item for item in found if item["type"] == of), {})

    def is_ready(self, name: str) -> bool:
        """Whether a RegistryMirror says, of its newest generation, that it is in force."""
        found = self.cluster.get("rmir", name)
        ready = self.condition("rmir", name, "Ready")
        return bool(found) and (ready.get("status"), ready.get("observedGeneration")) == (
            "True",
            found["metadata"]["generation"],
        )

    def policy(self, **spec: Any) -> None:
        """Set the policy. The canary is watched for a second; no endpoint outside of this machine is asked."""
        rollout = {"canary": {"nodes": 1, "soak": "1s"}, "deadline": "90s"}
        body = {"apiVersion": "registrymirror.io/v1alpha1", "kind": "RegistryMirrorPolicy"}
        self.cluster.apply(
            {**body, "metadata": {"name": "default"}, "spec": {"probe": {"mode": "Report"}, "rollout": rollout, **spec}}
        )

    def kubectl(self, command: str) -> str:
        """Run a command as the reader of the page, whose manifests name the image; gives its output."""
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.reader.directory,
            env=self.reader.env,
            capture_output=True,
            text=True,
            timeout=_ROLLOUT,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}\n{self.cluster.describe()}"
        return done.stdout

    def pod(self, name: str, node: str, image: str) -> None:
        """Run a pod on a node, and wait until it does."""
        container = {"name": "main", "image": image, "imagePullPolicy": "Always"}
        spec: dict[str, Any] = {"containers": [container], "automountServiceAccountToken": False}
        spec["nodeSelector"] = {"kubernetes.io/hostname": node}
        self.cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
        phase = ("get", "pod", name, "-o", "jsonpath={.status.phase}")
        self.cluster.until(lambda: self.cluster.kubectl(*phase) == "Running", f"pod {name} runs")


@pytest.fixture(scope="module")
def story(
    place: Workplace,
    programs: NodePrograms,
    registries: Registries,
    pytestconfig: pytest.Config,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Story]:
    """Three nodes that are Ready, each with a pod, and registries with the images."""
    more, assets = require_cluster(pytestconfig), require_assets(pytestconfig)
    local, found = registries.plain("local"), registries.plain("mirror-of-docker-hub")
    image = sleeper(programs.busybox)
    for name, tag in (("pause", "3.10"), ("bystander", "1")):
        local.push(name, tag, image)
    for tag in ("2", "3", "4"):
        found.push("library/app", tag, sleeper(programs.busybox))
    shell = {f"bin/{name}": (programs.busybox.read_bytes(), 0o755) for name in ("busybox", "sleep")}
    found.push("library/busybox", "1.36", make_image(files=shell))
    operator_image().push(local.url, _NAME, _TAG)
    directory = tmp_path_factory.mktemp("install")
    with RealCluster(place, programs, more, assets, local.address) as cluster:
        for name in NAMES:
            cluster.add(name)
        env = environment(cluster.plane.admin_kubeconfig, cluster.plane.assets.kubectl, directory)
        yours = {"mirror.example.com:5000": found.address, "registry.example.com": REGISTRY}
        reader = Reader(directory, env, yours=yours, here=_HERE)
        reader.tool("docker", f'test "$*" = "logs mirror" && cat {found.directory / "log"}')
        told = Story(cluster, found, reader)
        cluster.until(lambda: cluster.ready(*NAMES), "all nodes are Ready")
        for name in NAMES:
            told.pod(f"bystander-{name}", name, f"{REGISTRY}/bystander:1")
            told.trees[name] = told.tree(name)
            told.containers[name] = set(CRI(told.node(name)).running())
        yield told


def test_it_is_installed_as_the_page_says(story: Story) -> None:
    story.reader.follow(below(PAGE, "Before you begin", "Build the image and install the operator"))
    story.cluster.until(
        lambda: all(story.status(name).get("runtime", {}).get("name") == "containerd" for name in NAMES),
        "every agent says what it found",
    )
    assert all(story.tree(name) == story.trees[name] for name in NAMES), "nothing is touched without an object"


def test_what_the_runtime_refuses_is_undone_on_the_first_node_and_goes_no_further(story: Story) -> None:
    pids = {name: story.node(name).runtime_pid for name in NAMES}
    refuse = "if grep -q config_path /etc/containerd/config.toml; then echo this start is refused; exit 1; fi"
    for name in NAMES:
        drop_in = f"[Service]\nExecStartPre=/bin/sh -c '{refuse}'\n"
        story.node(name).write("/etc/systemd/system/containerd.service.d/refuse.conf", drop_in)
        story.node(name).systemctl("daemon-reload")
    story.policy()
    story.cluster.apply(mirror("docker-hub", "docker.io", story.mirror.url))
    story.cluster.until(
        lambda: "halted" in story.condition("rmir", "docker-hub", "Stalled").get("message", ""),
        "the rollout is halted",
        _ROLLOUT,
    )
    went_back = [name for name in NAMES if (story.status(name).get("restart") or {}).get("result") == "RolledBack"]
    assert len(went_back) == 1
    assert "this start is refused" in story.condition("nrc", went_back[0], "Stalled")["message"]
    assert story.node(went_back[0]).runtime_pid != pids[went_back[0]]
    for name in NAMES:
        assert story.tree(name) == story.trees[name]
        assert set(CRI(story.node(name)).wait().running()) >= story.containers[name]
        if name not in went_back:
            assert story.node(name).runtime_pid == pids[name]
    story.cluster.until(lambda: story.cluster.ready(*NAMES), "all nodes are Ready")


def test_what_was_mended_is_rolled_out_node_by_node_with_all_pods_alive(story: Story) -> None:
    for name in NAMES:
        story.node(name).path("/etc/systemd/system/containerd.service.d/refuse.conf").unlink()
        story.node(name).systemctl("daemon-reload")
    story.kubectl("kubectl delete registrymirror docker-hub")
    story.cluster.until(
        lambda: all(story.condition("nrc", name, "Stalled").get("status") == "False" for name in NAMES),
        "nobody remembers it",
    )
    story.reader.follow(below(PAGE, "Start a mirror", "Send Docker Hub through it"))
    restarts = [story.status(name)["restart"] for name in NAMES]
    assert [item["result"] for item in restarts] == ["Succeeded"] * 3
    times = sorted((item["startedAt"], item["finishedAt"]) for item in restarts)
    assert all(ended <= began for (_, ended), (began, _) in itertools.pairwise(times)), times
    for name in NAMES:
        assert set(CRI(story.node(name)).wait().running()) >= story.containers[name]


def test_an_image_comes_through_the_mirror_and_a_change_takes_no_restart(story: Story) -> None:
    pids = {name: story.node(name).runtime_pid for name in NAMES}
    story.mirror.forget()
    story.reader.follow(below(PAGE, "See it work"))
    assert story.mirror.requests("/library/busybox/manifests/1.36")
    nobody = "http://127.0.0.1:9"
    story.cluster.apply(mirror("docker-hub", "docker.io", nobody, story.mirror.url))
    story.cluster.until(lambda: story.is_ready("docker-hub"), "the change is in force")
    story.pod("two", NAMES[1], "app:2")
    assert story.mirror.requests("/library/app/manifests/2")
    assert {name: story.node(name).runtime_pid for name in NAMES} == pids
    story.cluster.apply(mirror("docker-hub", "docker.io", story.mirror.url))
    story.cluster.until(lambda: story.is_ready("docker-hub"), "the change is taken back")


def test_doctor_looks_at_the_cluster_and_through_the_agents_at_each_node(story: Story) -> None:
    def doctor(*args: str) -> tuple[int, str]:
        done = run(story.cluster, "doctor", *args)
        assert done.stderr == ""
        return done.returncode, done.stdout

    version = story.cluster.get("node", NAMES[0])["status"]["nodeInfo"]["containerRuntimeVersion"].rpartition("/")[2]
    runtime = f"containerd {version}"
    well = f"node-1, node-2, node-3: {runtime} on 3 nodes; 1 endpoint asked\nnothing is wrong\n"
    story.cluster.until(lambda: doctor() == (0, well), f"nothing is wrong, but {doctor()}")
    code, text = doctor("--node", NAMES[0])
    assert code == 0
    assert re.fullmatch(rf"node-1: {runtime}; \d+ files read, 1 endpoint asked\nnothing is wrong\n", text), text
    planted = story.node(NAMES[1]).path(f"{_TREE}/certs.d/ghcr.io")
    planted.mkdir()
    (planted / "hosts.toml").write_text("server = \n")
    try:
        code, text = doctor("--node", NAMES[1])
        assert code == 4
        assert "error HostsFileInvalid node-2: /etc/containerd/certs.d/ghcr.io/hosts.toml\n  line 1: it is not" in text
        assert doctor("--node", NAMES[0])[0] == 0
    finally:
        shutil.rmtree(planted)
    assert doctor("--node", NAMES[1])[0] == 0


def test_status_and_diff_tell_what_is_and_what_would_be(story: Story) -> None:
    done = run(story.cluster, "status")
    leader = story.cluster.get("lease", "registry-mirror-controller", "-n", SYSTEM)["spec"]["holderIdentity"]
    version = story.cluster.get("node", NAMES[0])["status"]["nodeInfo"]["containerRuntimeVersion"].rpartition("/")[2]
    assert done.returncode == 0
    assert normal(done.stdout) == (
        f"""\
1 mirror (1 Ready), 3 nodes, {leader.partition("_")[0]} leads

MIRROR      REGISTRY   STATE  REASON   NODES  FAILED  ENDPOINTS  SINCE
docker-hub  docker.io  Ready  Applied  3/3    0       1/1 AGE

RUNTIME     VERSION  STATE     REASON  COUNT  SINCE  NODES
containerd  {version}    in force  -       3 AGE    node-1, node-2, node-3
"""
    )
    done = run(story.cluster, "diff", "-f", "-", stdin=json.dumps(mirror("quay", "quay.io", story.mirror.url)))
    assert done.returncode == 3
    assert done.stdout.splitlines()[:2] == [
        "3 nodes with containerd (node-1, node-2, node-3): no restart is needed",
        f"  added    {_TREE}/certs.d/quay.io/hosts.toml  (the next pull uses it)",
    ]
    assert f"  +  {story.mirror.url}/v2:" in done.stdout.splitlines()


def test_probe_follows_an_image_through_the_agent_of_a_node(story: Story) -> None:
    def probe(image: str, *args: str) -> tuple[int, str]:
        done = run(story.cluster, "probe", image, "--node", NAMES[0], *args)
        return done.returncode, done.stdout + done.stderr

    digest = story.mirror.push("library/probed", "1").digest
    story.mirror.forget()
    code, text = probe("probed:1")
    lines = text.splitlines()
    assert code == 0, text
    assert re.fullmatch(r"docker.io/library/probed:1 on node-1 \(containerd [0-9.]+\)", lines[0]), text
    assert lines[1] == f"  read {_TREE}/certs.d/docker.io/hosts.toml"
    assert lines[-1] == f"served by {story.mirror.url}/v2"
    assert any("200 Served" in line and digest[:19] in line for line in lines), text
    (asked,) = story.mirror.requests("/library/probed/")
    assert (asked.method, asked.peer) == ("HEAD", story.node(NAMES[0]).ip)
    code, text = probe("probed:1", "--pull")
    assert code == 0, text
    assert re.fullmatch(rf"pulled in [0-9.]+s from {re.escape(story.mirror.url)}/v2", text.splitlines()[-2]), text
    assert "docker.io/library/probed:1" in CRI(story.node(NAMES[0])).images()
    assert probe("nobody-has-it:1", "--timeout", "5s")[0] == 4
    nobody = run(story.cluster, "probe", "probed:1", "--node", "node-9")
    assert nobody.returncode == 1
    assert "no node node-9: there are node-1, node-2, node-3" in nobody.stderr


def test_nothing_that_it_writes_shows_as_drift(story: Story) -> None:
    story.kubectl("kubectl diff -k manifests/overlays/containerd")


def test_a_change_goes_on_when_the_node_of_the_controller_dies(story: Story) -> None:
    holder = story.cluster.get("lease", "registry-mirror-controller", "-n", SYSTEM)["spec"]["holderIdentity"]
    pod = story.cluster.get("pod", holder.partition("_")[0], "-n", SYSTEM)
    dead = pod["spec"]["nodeName"]
    alive = [name for name in NAMES if name != dead]
    story.node(dead).power_cut()
    story.cluster.apply(mirror("quay", "quay.io", story.mirror.url))
    story.cluster.until(
        lambda: all((story.node(name).path(_TREE) / "certs.d/quay.io/hosts.toml").exists() for name in alive),
        "the other nodes have it",
        _ROLLOUT,
    )
    taken = story.cluster.get("lease", "registry-mirror-controller", "-n", SYSTEM)["spec"]["holderIdentity"]
    assert taken != holder
    story.node(dead).start()
    story.cluster.until(lambda: story.is_ready("quay"), "it has come back, and has it too", _ROLLOUT)


def test_a_node_that_comes_late_is_used_when_its_mirrors_are_in_place(story: Story) -> None:
    story.policy(startupTaint=True)
    node = story.cluster.add(LATE, taints=(TAINT,))
    story.cluster.until(lambda: story.cluster.ready(LATE), "it is Ready")

    def tainted() -> bool:
        taints = story.cluster.get("node", LATE)["spec"].get("taints", ())
        return any(item["key"] == TAINT.partition(":")[0] for item in taints)

    story.cluster.until(lambda: not tainted(), "the taint is gone", _ROLLOUT)
    assert node.path(f"{_TREE}/certs.d/docker.io/hosts.toml").exists()
    assert story.status(LATE)["restart"]["result"] == "Succeeded"
    story.mirror.forget()
    story.pod("four", LATE, "app:4")
    assert story.mirror.requests("/library/app/manifests/4")


def test_uninstalled_in_a_hurry_every_node_is_as_it_was_found_and_nothing_is_restarted(story: Story) -> None:
    names = (*NAMES, LATE)
    story.trees[LATE] = story.trees[NAMES[0]]
    pids = {name: story.node(name).runtime_pid for name in names}
    story.reader.follow(below(PAGE, "Uninstall"))
    for name in names:
        assert story.tree(name) == story.trees[name]
        assert story.node(name).runtime_pid == pids[name]
    left = story.kubectl("kubectl get crds,namespaces,clusterroles,clusterrolebindings -o name")
    assert "registry" not in left
