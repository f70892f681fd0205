"""The questions that the kubelet asks a container runtime, for tests: one process each, so that nothing of gRPC is in
the test's own process, which forks."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from typing import Any

from .node import Node

PULL_TIMEOUT = 60.0
_TIMEOUT = 10.0
_GRACE = 5.0


class CRIError(RuntimeError):
    """The runtime refuses, or does not answer: ``code`` is gRPC's, such as NotFound; the message is the runtime's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class CRI:
    """The CRI of a node's runtime, asked through its socket."""

    def __init__(self, node: Node) -> None:
        self.node = node

    def call(self, method: str, request: Mapping[str, Any] | None = None, timeout: float = _TIMEOUT) -> dict[str, Any]:
        """Ask and give the answer, both as protobuf's JSON. Raises CRIError."""
        socket = self.node.path(self.node.flavour.socket)
        argv = [str(self.node.programs.cri), str(socket), f"{timeout:g}s", method]
        question = json.dumps(dict(request or {}))
        answer = subprocess.run(argv, input=question, capture_output=True, text=True, timeout=timeout + _GRACE, env={})
        if answer.returncode != 0:
            code, _, message = answer.stderr.strip().partition(": ")
            raise CRIError(code, message)
        found: dict[str, Any] = json.loads(answer.stdout)
        return found

    def version(self) -> str:
        """The runtime's version, such as 2.4.2."""
        return str(self.call("Version")["runtimeVersion"])

    def ready(self) -> bool:
        """Whether it says RuntimeReady."""
        conditions = self.call("Status")["status"]["conditions"]
        return any(item["type"] == "RuntimeReady" and item.get("status") for item in conditions)

    def answers(self) -> bool:
        """Whether it answers, with its images and containers too: containerd 1.6 does so only some time after systemd
        has its READY=1 (`server is not initialized yet`)."""
        try:
            return bool(self.version()) and self.ready() and self.images() is not None and self.containers() is not None
        except CRIError:
            return False

    def wait(self, timeout: float = 60.0) -> CRI:
        """Wait until it answers, give this object. Raises NodeError."""
        self.node.until(self.answers, "its runtime answers", timeout)
        return self

    def images(self) -> list[str]:
        """The names of the images it has."""
        return [tag for image in self.call("ListImages").get("images", ()) for tag in image.get("repoTags", ())]

    def containers(self) -> list[dict[str, Any]]:
        """The containers it has."""
        return list(self.call("ListContainers").get("containers", ()))

    def pull(self, image: str, auth: tuple[str, str] | None = None, timeout: float = PULL_TIMEOUT) -> str:
        """Pull, with user and password of a pod's secret where given; gives the image's id. Raises CRIError."""
        request: dict[str, Any] = {"image": {"image": image}}
        if auth is not None:
            request["auth"] = {"username": auth[0], "password": auth[1]}
        return str(self.call("PullImage", request, timeout)["imageRef"])

    def remove(self, image: str) -> None:
        """Remove an image; nothing happens if there is none."""
        self.call("RemoveImage", {"image": {"image": image}})

    def run_pod(self, name: str, image: str) -> str:
        """Run a pod in the node's network with one container of an image that is there; gives the container's id.

        The sandbox's own image is pulled if it has to be. Raises CRIError.
        """
        namespaces = {"network": "NODE", "pid": "CONTAINER", "ipc": "POD"}
        pod = {
            "metadata": {"name": name, "namespace": "default", "uid": name, "attempt": 0},
            "linux": {"securityContext": {"namespaceOptions": namespaces}},
        }
        sandbox = self.call("RunPodSandbox", {"config": pod}, PULL_TIMEOUT)["podSandboxId"]
        container = {"metadata": {"name": "main", "attempt": 0}, "image": {"image": image}, "linux": {}}
        request = {"podSandboxId": sandbox, "config": container, "sandboxConfig": pod}
        made = str(self.call("CreateContainer", request, PULL_TIMEOUT)["containerId"])
        self.call("StartContainer", {"containerId": made}, PULL_TIMEOUT)
        return made

    def running(self) -> list[str]:
        """The ids of the containers that run."""
        return [item["id"] for item in self.containers() if item["state"] == "CONTAINER_RUNNING"]
