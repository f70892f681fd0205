"""A whole cluster: control plane, scheduler, controllers of workloads, and nodes with systemd, containerd and kubelet.

Pods reach the API server at the address of the service `kubernetes`, and nodes a registry at localhost:5000, which is
the only address that containerd asks without TLS when nobody has told it anything.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from .binaries import Assets
from .controlplane import ControlPlane
from .kubectl import KubectlError
from .node import Node
from .nodebinaries import ClusterPrograms, NodePrograms
from .nodekubelet import Kubelet, NodeAccess
from .processes import Process
from .workplace import Workplace

REGISTRY = "localhost:5000"
_SERVICE = "10.96.0.1:443"  # the first address of the services: the API server gives it to `kubernetes`
_POLL = 0.2
_T = TypeVar("_T")

# Without config_path: to set it takes the restart that every such node needs once.
CONFIG = f"""\
# kept by the operator of this node
version = 3

[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{REGISTRY}/pause:3.10"

[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
"""


class RealCluster:
    """The control plane from `start` to `stop`, and the nodes that were added to it meanwhile.

    ``registry`` is what the nodes find at localhost:5000 (host:port).
    """

    def __init__(
        self, place: Workplace, programs: NodePrograms, more: ClusterPrograms, assets: Assets, registry: str
    ) -> None:
        self.place = place
        self.nodes: dict[str, Node] = {}
        self._programs = programs
        self._more = more
        self._registry = registry
        self._directory = place.directory / "cluster"
        self._directory.mkdir()
        self._access = NodeAccess(place, self._directory)
        flags = [*self._access.apiserver_flags, *self._access.caller_flags]
        self.plane = ControlPlane(self._directory / "plane", assets, apiserver_flags=flags)
        self._processes: list[Process] = []

    def start(self) -> RealCluster:
        """Start all of it but nodes. Raises ProcessFailed and NotObtainable."""
        self.plane.start()
        self._access.start(self.plane)
        pki = self.plane.work / "pki"
        self._run(
            "kube-controller-manager",
            self._more.controller_manager,
            f"--service-account-private-key-file={pki / 'service-account.key'}",
            f"--root-ca-file={self.plane.ca_file}",
            "--use-service-account-credentials",
            # Nodes that are gone are noticed in seconds, and not in most of a minute.
            "--node-monitor-period=1s",
            "--node-monitor-grace-period=8s",
        )
        self._run("kube-scheduler", self._more.scheduler)
        self.until(lambda: self.get("serviceaccount", "default"), "pods can be made")
        return self

    def stop(self) -> None:
        """End it, nodes first. Calling it again does nothing."""
        while self.nodes:
            self.nodes.popitem()[1].stop()
        while self._processes:
            self._processes.pop().stop()
        self._access.stop()
        self.plane.stop()

    def __enter__(self) -> RealCluster:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self, name: str, program: Path, *flags: str) -> None:
        identity = f"--kubeconfig={self.plane.admin_kubeconfig}"
        argv = [str(program), identity, "--leader-elect=false", "--bind-address=127.0.0.1", "--secure-port=0", *flags]
        env = {"PATH": "/usr/bin:/bin", "HOME": str(self._directory)}
        self._processes.append(Process(name, argv, env, self.plane.work / "log" / f"{name}.log").start())

    # ---- nodes ---------------------------------------------------------------------------------------------------

    def add(self, name: str, *, taints: tuple[str, ...] = (), hosts: Mapping[str, str] | None = None) -> Node:
        """Boot a node, whose containerd has no config_path; it registers by itself. Raises NodeError."""
        kubelet = Kubelet(
            self._more,
            self._access.kubeconfig(name),
            taints,
            {_SERVICE: self._access.address, f"127.0.0.1:{REGISTRY.rpartition(':')[2]}": self._registry},
            self._access.authority.certificate.read_text(),
        )
        node = Node(name, "containerd24", self.place, self._programs, config=CONFIG, hosts=hosts, kubelet=kubelet)
        self.nodes[name] = node
        return node.start()

    def ready(self, *names: str) -> bool:
        """Whether all those nodes are Ready."""
        path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}"
        return all(self.kubectl("get", "node", name, "-o", path, check=False) == "True" for name in names)

    # ---- asking it -----------------------------------------------------------------------------------------------

    def kubectl(self, *args: str, input: str | None = None, check: bool = True) -> str:
        """Run kubectl as the admin. Raises KubectlError."""
        return self.plane.kubectl(*args, input=input, check=check)

    def get(self, *args: str) -> Any:
        """Give an object, or a list; empty if it is not there."""
        try:
            return json.loads(self.kubectl("get", *args, "-o", "json"))
        except KubectlError:
            return {}

    def apply(self, *documents: Mapping[str, Any]) -> str:
        """Apply objects. Raises KubectlError."""
        return self.kubectl("apply", "-f", "-", input="\n---\n".join(json.dumps(item) for item in documents))

    def until(self, check: Callable[[], _T], what: str, timeout: float = 180.0) -> _T:
        """Look again and again until ``check`` gives something true, and give that; fails with the cluster's state."""
        deadline = time.monotonic() + timeout
        while not (found := check()):
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {timeout:g} s: {what}\n{self.describe()}")
            time.sleep(_POLL)
        return found

    def describe(self) -> str:
        """What a failure's message should show."""
        parts = [
            self.kubectl("get", "nodes,pods", "-A", "-o", "wide", check=False),
            self.kubectl("get", "registrymirrors,noderegistryconfigs", "-o", "yaml", check=False)[-6000:],
            self.kubectl("get", "events", "-A", "--sort-by=.lastTimestamp", check=False)[-4000:],
        ]
        for process in self._processes:
            parts.append(process.tail(5))
        return "\n".join(parts)
