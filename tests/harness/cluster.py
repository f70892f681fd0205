"""The operator on real components: a control plane, the controller and agents as processes, and nodes that are host
roots in temporary directories. Shared by the end-to-end tests and the demo."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from .controlplane import ControlPlane
from .processes import Process

_T = TypeVar("_T")

REPOSITORY = Path(__file__).resolve().parents[2]
SYSTEM = "registry-mirror-system"
BUNDLES = "registry-mirror-bundles"

# What a node of each runtime has on its disk before the operator comes, and what its kubelet reports.
_HOST_FILES: Mapping[str, Mapping[str, str]] = {
    "k3s": {"/etc/rancher/k3s/config.yaml": "node-name: demo\n"},
    "rke2": {"/etc/rancher/rke2/config.yaml": "node-name: demo\n"},
    "containerd": {
        "/etc/containerd/config.toml": (
            'version = 3\n\n[plugins."io.containerd.cri.v1.images".registry]\n'
            '  config_path = "/etc/containerd/certs.d"\n'
        )
    },
    # Of the revision 7 of the snap, to which the link `current` leads.
    "microk8s": {
        "/var/snap/microk8s/7/args/containerd-template.toml": (
            'version = 2\n\n[plugins."io.containerd.grpc.v1.cri".registry]\n'
            '  config_path = "${SNAP_DATA}/args/certs.d"\n'
        ),
        "/var/snap/microk8s/7/args/certs.d/docker.io/hosts.toml": (
            'server = "https://docker.io"\n\n[host."https://registry-1.docker.io"]\n'
            '  capabilities = ["pull", "resolve"]\n'
        ),
    },
}
_LINKS: Mapping[str, tuple[str, str]] = {"microk8s": ("/var/snap/microk8s/current", "7")}
_VERSIONS: Mapping[str, tuple[str, str]] = {
    "k3s": ("v1.33.4+k3s1", "containerd://2.1.4-k3s1"),
    "rke2": ("v1.33.4+rke2r1", "containerd://2.1.4-k3s1"),
    "containerd": ("v1.33.4", "containerd://2.1.4"),
    "microk8s": ("v1.33.4", "containerd://1.7.29"),
}


@dataclass(frozen=True, slots=True)
class Node:
    """A node: its name, its runtime, and the directory that is its file system."""

    name: str
    runtime: str
    root: Path

    def path(self, path: str) -> Path:
        """Where a path of the node is on this machine."""
        return self.root / path.lstrip("/")

    def text(self, path: str) -> str | None:
        """A file of the node, or None."""
        found = self.path(path)
        return found.read_text() if found.is_file() else None

    def files(self) -> dict[str, str]:
        """All files of the node by path, without what the agent keeps for itself."""
        found = {}
        for item in sorted(self.root.rglob("*")):
            path = f"/{item.relative_to(self.root)}"
            if path.startswith("/var/lib/registry-mirror") or item.name.endswith(".registry-mirror.tmp"):
                continue
            with contextlib.suppress(FileNotFoundError):  # the agent is at work meanwhile
                if item.is_file():
                    found[path] = item.read_text()
        return found


class Cluster:
    """A control plane with the operator on it. Use as a context manager; everything ends with it."""

    def __init__(self, work: Path, *, detached: bool = False, apiserver_flags: Sequence[str] = ()) -> None:
        """Keep everything below ``work``; ``detached`` processes survive us, and ``apiserver_flags`` are added to those
        of kube-apiserver (see ControlPlane).
        """
        self.work = work
        self.detached = detached
        self.plane = ControlPlane(work / "plane", detached=detached, apiserver_flags=apiserver_flags)
        self.nodes: dict[str, Node] = {}
        self.controller: Process | None = None  # the one that was started last
        self.controllers: dict[str, Process] = {}
        self.agents: dict[str, Process] = {}
        self.http = ""
        self._addresses: dict[str, str] = {}

    def __enter__(self) -> Cluster:
        self.plane.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End every process, agents and controller before the API server."""
        for process in (*self.agents.values(), *self.controllers.values()):
            process.stop()
        self.plane.stop()

    def kubectl(self, *args: str, input: str | None = None, check: bool = True) -> str:
        """Run kubectl as the administrator."""
        return self.plane.kubectl(*args, input=input, check=check)

    def get(self, *args: str) -> Any:
        """``kubectl get … -o json``, decoded."""
        return json.loads(self.kubectl("get", *args, "-o", "json"))

    def install(self) -> None:
        """Apply crds/ and manifests/base: what a user installs, short of the pods that nothing here would run."""
        self.kubectl("apply", "-k", str(REPOSITORY / "manifests" / "base"))
        self.kubectl(
            "wait",
            "--for=condition=Established",
            "--timeout=30s",
            *(f"crd/{name}.registrymirror.io" for name in _CRDS),
        )
        self.policy()

    def policy(self, **rollout: object) -> None:
        """Apply the policy, with those rules of a rollout; nobody is probed: the registries of the tests' objects are
        only names, and nothing is to leave this machine.
        """
        spec = {"probe": {"mode": "Off"}, "rollout": rollout}
        body = {"kind": "RegistryMirrorPolicy", "metadata": {"name": "default"}, "spec": spec}
        self.apply({"apiVersion": "registrymirror.io/v1alpha1", **body})

    def start_controller(self, name: str = "controller", *extra: str) -> Process:
        """Start a controller with the permissions of its service account, and wait until it is ready.

        Under another name it stands beside the first; under the same it takes over at once, as a container that is
        restarted in its Pod does.
        """
        kubeconfig = self.plane.service_account_kubeconfig(SYSTEM, "registry-mirror-controller")
        self.http = self._addresses[name] = f"http://127.0.0.1:{_free_port()}"
        argv = ["controller", "--http-address", self.http.removeprefix("http://"), "--identity", name, *extra]
        self.controller = self.controllers[name] = self._start(name, argv, kubeconfig)
        self.until(lambda: self.http_get("/readyz", name) == "ok\n", f"{name} is ready")
        return self.controller

    def leader(self) -> str:
        """Which of the controllers says that it leads; empty if none does. Raises ValueError if several do."""
        found = [
            name for name in self._addresses if "\nregistry_mirror_leader 1.0\n" in self.http_get("/metrics", name)
        ]
        (name,) = found or [""]
        return name

    def http_get(self, path: str, name: str = "") -> str:
        """What a controller answers, by default the one that was started last, or nothing if it does not."""
        try:
            with urllib.request.urlopen(self._addresses.get(name, self.http) + path, timeout=5) as response:
                return str(response.read().decode())
        except OSError:
            return ""

    def add_node(self, name: str, runtime: str, labels: Mapping[str, str] | None = None) -> Node:
        """Make a Node object as a kubelet would, and the file system that goes with it."""
        node = Node(name, runtime, self.work / "hosts" / name)
        for path, content in _HOST_FILES[runtime].items():
            node.path(path).parent.mkdir(parents=True, exist_ok=True)
            node.path(path).write_text(content)
        if runtime in _LINKS:
            link, target = _LINKS[runtime]
            node.path(link).symlink_to(target)
        body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": dict(labels or {})}}
        self.kubectl("create", "-f", "-", input=json.dumps(body))
        kubelet, containerd = _VERSIONS[runtime]
        info = {"kubeletVersion": kubelet, "containerRuntimeVersion": containerd}
        patch = json.dumps({"status": {"nodeInfo": info}})
        self.kubectl("patch", "node", name, "--subresource=status", "--type=merge", "-p", patch)
        self.nodes[name] = node
        return node

    def start_agent(self, name: str, *extra: str) -> Process:
        """Start the agent of a node with the permissions that the kubelet would give to its Pod."""
        kubeconfig = self.agent_kubeconfig(name)
        node = self.nodes[name]
        argv = ["agent", "--node-name", name, "--host-root", str(node.root), *extra]
        self.agents[name] = self._start(f"agent-{name}", argv, kubeconfig)
        return self.agents[name]

    def agent_kubeconfig(self, node: str) -> Path:
        """Give a kubeconfig with the token of a Pod of the agents' that is on a node; there is no kubelet to run it."""
        spec = {
            "serviceAccountName": "registry-mirror-agent",
            "nodeName": node,
            "containers": [{"name": "agent", "image": "agent"}],
        }
        metadata = {"name": f"agent-{node}", "namespace": SYSTEM}
        self.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        return self.plane.service_account_kubeconfig(SYSTEM, "registry-mirror-agent", ("Pod", f"agent-{node}"))

    def _start(self, name: str, argv: list[str], kubeconfig: Path) -> Process:
        env = {**os.environ, "KUBECONFIG": str(kubeconfig), "PYTHONPATH": str(REPOSITORY / "operator")}
        command = [sys.executable, "-m", "registry_mirror", *argv]
        process = Process(name, command, env, self.work / f"{name}.log", cwd=self.work, detached=self.detached)
        return process.start()

    def until(self, check: Callable[[], _T], what: str, timeout: float = 60.0) -> _T:
        """Look again and again until ``check`` gives something true; fails with the logs' ends after ``timeout`` s."""
        deadline = time.monotonic() + timeout
        while True:
            found = check()
            if found:
                return found
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {timeout:.0f} s: {what}\n{self._logs()}")
            time.sleep(0.05)

    def _logs(self) -> str:
        processes = [*self.controllers.values(), *self.agents.values()]
        return "\n".join(f"--- {process.name}\n{process.tail(15)}" for process in processes)

    # ---- what tests and demo ask for -----------------------------------------------------------------------------

    def apply(self, *documents: Mapping[str, Any]) -> str:
        """``kubectl apply`` of those objects."""
        return self.kubectl("apply", "-f", "-", input="\n---\n".join(json.dumps(item) for item in documents))

    def condition(self, name: str, type_: str = "Ready", kind: str = "registrymirror") -> dict[str, Any]:
        """A condition of an object, empty while it is not there."""
        status = self.get(kind, name).get("status") or {}
        return next((item for item in status.get("conditions") or () if item["type"] == type_), {})

    def settled(self, name: str) -> bool:
        """Whether the controller has seen the newest spec of a RegistryMirror and has nothing left to do for it."""
        found = self.get("registrymirror", name)
        status = found.get("status") or {}
        conditions = {item["type"]: item["status"] for item in status.get("conditions") or ()}
        seen = status.get("observedGeneration") == found["metadata"]["generation"]
        return seen and conditions.get("Reconciling") == "False"

    def wait_settled(self, name: str) -> dict[str, Any]:
        """Wait for ``settled``; gives the status."""
        self.until(lambda: self.settled(name), f"{name} is settled")
        status: dict[str, Any] = self.get("registrymirror", name)["status"]
        return status


_CRDS = ("registrymirrors", "registrymirrorpolicies", "noderegistryconfigs")


def mirror(name: str, registry: str, *urls: str, **spec: Any) -> dict[str, Any]:
    """A RegistryMirror document."""
    return {
        "apiVersion": "registrymirror.io/v1alpha1",
        "kind": "RegistryMirror",
        "metadata": {"name": name},
        "spec": {"registry": registry, "endpoints": [{"url": url} for url in urls], **spec},
    }


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
