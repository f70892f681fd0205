"""A kubelet on a node, with the identity that a node has, and the way from the nodes to the API server."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .authority import Authority
from .controlplane import ControlPlane
from .nodebinaries import ClusterPrograms
from .processes import Process
from .workplace import Workplace

KUBELET = "/usr/local/bin/kubelet"
CNI = "/opt/cni/bin"
_PLUGINS = ("bridge", "host-local", "loopback", "portmap")
_CALLERS = "/etc/kubernetes/callers.crt"
_READY = 10.0

_UNIT = f"""\
[Unit]
Description=kubelet
After=containerd.service
Requires={{sockets}}

[Service]
Environment=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
ExecStart={KUBELET} --config=/etc/kubernetes/kubelet.yaml --kubeconfig=/etc/kubernetes/kubelet.conf \
  --hostname-override={{name}} --node-ip={{ip}} --v=1
KillMode=process
Restart=always
RestartSec=1
"""

# A way from an address of the node to another one, such as that of the service `kubernetes` to the API server: what
# kube-proxy would do. The address need not be the node's yet.
_SOCKET = """\
[Socket]
ExecStartPre=-ip address add {address}/32 dev lo
ListenStream={address}:{port}
FreeBind=yes
"""
_FORWARD = """\
[Service]
ExecStart=/lib/systemd/systemd-socket-proxyd {target}
"""

_NETWORK = {
    "cniVersion": "1.0.0",
    "name": "pods",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "ipMasq": False,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": "10.88.0.0/24"}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        },
    ],
}


@dataclass(frozen=True)
class Kubelet:
    """What a node's kubelet needs: the programs, and the kubeconfig's text, which `NodeAccess.kubeconfig` gives.

    ``taints`` are those that it registers with (key=value:effect or key:effect). ``forwards`` are addresses that
    connections to the node's own addresses go to. ``authority`` is whose certificates it knows its callers by (PEM),
    the API server among them, which comes for logs and exec; without, nobody is let in.
    """

    programs: ClusterPrograms
    kubeconfig: str
    taints: tuple[str, ...] = ()
    forwards: Mapping[str, str] = field(default_factory=dict)
    authority: str = ""

    def files(self, name: str, ip: str, socket: str) -> dict[str, str]:
        """The node's files: path and text."""
        sockets = " ".join(f"forward-{number}.socket" for number in range(len(self.forwards)))
        forwards = {}
        for number, (own, target) in enumerate(self.forwards.items()):
            address, _, port = own.rpartition(":")
            unit = f"/etc/systemd/system/forward-{number}"
            forwards[f"{unit}.socket"] = _SOCKET.format(address=address, port=port)
            forwards[f"{unit}.service"] = _FORWARD.format(target=target)
        return {
            **forwards,
            "/etc/systemd/system/kubelet.service": _UNIT.format(name=name, ip=ip, sockets=sockets),
            **({_CALLERS: self.authority} if self.authority else {}),
            "/etc/kubernetes/kubelet.yaml": json.dumps(_configuration(socket, self.taints, bool(self.authority))),
            "/etc/kubernetes/kubelet.conf": self.kubeconfig,
            "/etc/cni/net.d/10-pods.conflist": json.dumps(_NETWORK),
        }

    def binaries(self) -> dict[str, Path]:
        """Programs to be seen in the node: path there and here."""
        plugins = {f"{CNI}/{plugin}": self.programs.cni / plugin for plugin in _PLUGINS}
        return {KUBELET: self.programs.kubelet, **plugins}


class NodeAccess:
    """A door in the bridge to an API server on loopback, and identities for nodes. Ends with `stop`.

    The API server has to be started with ``apiserver_flags``, by which it knows the nodes' certificates. ``address`` is
    where the nodes find it (host:port).
    """

    def __init__(self, place: Workplace, directory: Path) -> None:
        self.place = place
        self.authority = Authority(directory / "nodes")
        self._log = directory / "door.log"
        self.address = ""
        self._process: Process | None = None
        self._url = ""
        self._ca = ""

    @property
    def apiserver_flags(self) -> list[str]:
        """For the ControlPlane."""
        return [f"--client-ca-file={self.authority.certificate}"]

    @property
    def caller_flags(self) -> list[str]:
        """For the ControlPlane, so that kubelets with the same authority let it in: for logs and exec."""
        pair = self.authority.issue("kube-apiserver-kubelet-client", group="system:masters")
        names = f"--kubelet-client-certificate={pair.certificate}", f"--kubelet-client-key={pair.key}"
        return [*names, "--kubelet-preferred-address-types=InternalIP"]

    def start(self, plane: ControlPlane) -> NodeAccess:
        """Open the door. Raises ProcessFailed."""
        port = plane.url.rsplit(":", 1)[1]
        proxy = ["/lib/systemd/systemd-socket-proxyd", f"127.0.0.1:{port}"]
        argv = ["systemd-socket-activate", f"--listen={self.place.host}:{port}", *proxy]
        self._process = Process("door to the API server", argv, {"PATH": "/usr/bin:/bin"}, self._log).start()
        deadline = time.monotonic() + _READY
        while "Listening on" not in self._process.tail():
            if not self._process.alive() or time.monotonic() > deadline:
                raise self._process.failure("does not listen")
            time.sleep(0.02)
        self.address = f"{self.place.host}:{port}"
        self._url = f"https://{self.address}"
        self._ca = plane.ca_file.read_text()
        return self

    def stop(self) -> None:
        """Close it; calling it again does nothing."""
        if self._process is not None:
            self._process.stop()

    def kubeconfig(self, node: str) -> str:
        """A kubeconfig (JSON, which is YAML) for the node of that name, in the group system:nodes as kubeadm has it."""
        pair = self.authority.issue(f"system:node:{node}", group="system:nodes")
        # What the API server's certificate of its own making names; not the bridge.
        cluster = {
            "server": self._url,
            "certificate-authority-data": _encode(self._ca),
            "tls-server-name": "kubernetes",
        }
        user = {
            "client-certificate-data": _encode(pair.certificate.read_text()),
            "client-key-data": _encode(pair.key.read_text()),
        }
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "tests", "cluster": cluster}],
            "users": [{"name": node, "user": user}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": node}}],
            "current-context": "tests",
        }
        return json.dumps(content)


def _configuration(socket: str, taints: tuple[str, ...], callers: bool) -> dict[str, Any]:
    known = {"x509": {"clientCAFile": _CALLERS}} if callers else {}
    return {
        "registerWithTaints": [_taint(text) for text in taints],
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": f"unix://{socket}",
        "clusterDNS": ["10.96.0.10"],
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "failSwapOn": False,
        "evictionHard": {},
        "enforceNodeAllocatable": [],
        "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True}, **known},
        "authorization": {"mode": "Webhook"},
        # Heartbeats faster than kubeadm's, so that tests need not wait: the Lease every second, the status every two.
        "nodeLeaseDurationSeconds": 4,
        "nodeStatusUpdateFrequency": "1s",
        "nodeStatusReportFrequency": "2s",
    }


def _taint(text: str) -> dict[str, str]:
    key, _, effect = text.rpartition(":")
    key, _, value = key.partition("=")
    return {"key": key, "value": value, "effect": effect}


def _encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
