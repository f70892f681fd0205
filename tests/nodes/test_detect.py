"""What the agent finds on real nodes: real systemd, real containerd, seen as from a Pod with hostPID."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import msgspec
import pytest

from registry_mirror.agent.live import RANCHER, SOCKETS, Live
from registry_mirror.api.models import RuntimeFacts
from tests.harness.node import Node
from tests.harness.nodebinaries import NodePrograms
from tests.harness.nodefiles import CONFIG_2, K3S_DATA
from tests.harness.workplace import Workplace

_CERTS = "/etc/containerd/certs.d"
_CODE = """
import sys, msgspec
from pathlib import Path
from registry_mirror.agent.detect import find
from registry_mirror.agent.host import Host
from registry_mirror.agent.live import inspect
from registry_mirror.agent.service import manager
from registry_mirror.api.errors import ProblemError

root, wanted = Path(sys.argv[1]), sys.argv[2] or None
try:
    live = inspect(root, Path("/proc"), wanted)
    found = find(Host(root), live, wanted, service=manager(root).unit)
except ProblemError as error:
    found = f"{error.reason} {error.message}"
print(msgspec.json.encode(found).decode())
"""


class Found(msgspec.Struct, array_like=True):
    facts: RuntimeFacts
    live: Live | None


def _ask(node: Node, wanted: str = "", prefix: tuple[str, ...] = ()) -> str:
    return node.run(*prefix, sys.executable, "-c", _CODE, "/", wanted, check=True).stdout


def _find(node: Node, wanted: str = "", prefix: tuple[str, ...] = ()) -> tuple[RuntimeFacts, Live | None]:
    answer = _ask(node, wanted, prefix)
    assert answer.startswith("["), answer
    found = msgspec.json.decode(answer, type=Found)
    return found.facts, found.live


@pytest.mark.parametrize("kind", ["new_node", "old_node"])
def test_containerd(kind: str, request: pytest.FixtureRequest) -> None:
    node: Node = request.getfixturevalue(kind)
    facts, live = _find(node)
    schema = 3 if kind == "new_node" else 2
    assert (facts.name, facts.config_path, facts.config_schema) == ("containerd", _CERTS, schema)
    assert live is not None
    assert (live.socket, live.state, live.unit) == (SOCKETS["containerd"], "Listening", "containerd.service")
    assert (live.pid, live.config_file) == (node.runtime_pid, "/etc/containerd/config.toml")
    assert live.executable == node.flavour.command


def test_k3s_is_the_service_that_its_containerd_belongs_to(k3s_node: Node) -> None:
    facts, live = _find(k3s_node)
    assert (facts.name, facts.config_path) == ("k3s", k3s_node.flavour.certs)
    assert live is not None
    assert (live.socket, live.unit, live.data_dir) == (RANCHER, "k3s.service", K3S_DATA)
    assert live.pid != k3s_node.runtime_pid  # that is K3s itself


def test_the_flags_of_k3s_are_those_of_its_service(k3s_node: Node) -> None:
    flags = "--private-registry /etc/mirrors.yaml --disable-default-registry-endpoint --token secret"
    path = "/run/systemd/system/k3s.service.d/flags.conf"
    k3s_node.write("/etc/k3s.env", "K3S_CONFIG_FILE='/etc/k3s.yaml'\n")
    k3s_node.write("/etc/k3s.yaml.d/10.yaml", "private-registry: /not/this.yaml\n")
    k3s_node.write(
        path,
        f"[Service]\nEnvironmentFile=-/etc/k3s.env\nExecStart=\nExecStart=/usr/local/bin/k3s server {flags}\n",
    )
    k3s_node.systemctl("daemon-reload")
    facts, _ = _find(k3s_node)
    assert (facts.registries_file, facts.disable_default_endpoint) == ("/etc/mirrors.yaml", True)
    assert facts.config_file == "/etc/k3s.yaml"
    k3s_node.path(path).unlink()
    k3s_node.systemctl("daemon-reload")


def test_a_second_containerd_does_not_confuse_it(k3s_node: Node) -> None:
    k3s_node.write("/etc/containerd/config.toml", "version = 3\nroot = '/run/second'\n")
    program = f"{K3S_DATA}/data/current/bin/containerd"
    k3s_node.systemctl("reset-failed")
    k3s_node.run("systemd-run", "--unit=containerd", program, check=True)
    k3s_node.until(lambda: k3s_node.path(SOCKETS["containerd"]).exists(), "the second containerd listens")
    facts, live = _find(k3s_node)
    assert live is not None
    assert (facts.name, live.unit) == ("k3s", "k3s.service")
    assert "RuntimeMismatch" in _ask(k3s_node, "containerd")
    k3s_node.systemctl("stop", "containerd")


def test_without_hostpid_the_process_is_not_seen_and_the_runtime_still_found(k3s_node: Node) -> None:
    facts, live = _find(k3s_node, "k3s", ("unshare", "--pid", "--fork", "--mount-proc"))
    assert facts.name == "k3s"
    assert live is not None
    assert (live.state, live.pid, live.unit) == ("Hidden", 0, "")


@pytest.fixture(scope="module")
def own_node(place: Workplace, programs: NodePrograms) -> Iterator[Node]:
    """One whose containerd was told another file, and has nothing in the usual one."""
    drop_in = (
        "[Service]\nExecStart=\nExecStart=/usr/local/bin/containerd --log-level info -c /etc/containerd/own.toml\n"
    )
    both = CONFIG_2.replace(f'"{_CERTS}"', f"'{_CERTS}:/etc/docker/certs.d'")
    files = {"/etc/systemd/system/containerd.service.d/own.conf": drop_in, "/etc/containerd/own.toml": both}
    with Node("own", "containerd24", place, programs, config="version = 2\n", files=files) as node:
        yield node


def test_a_file_of_its_own_with_two_directories(own_node: Node) -> None:
    facts, live = _find(own_node)
    assert (facts.config_file, facts.config_path, facts.config_schema) == ("/etc/containerd/own.toml", "", 3)
    assert live is not None
    assert live.config_file == facts.config_file


def test_containerd_that_was_stopped_and_killed(own_node: Node) -> None:
    own_node.write("/run/systemd/system/containerd.service.d/no.conf", "[Service]\nRestart=no\n")
    own_node.systemctl("daemon-reload")
    own_node.systemctl("kill", "--signal=KILL", "--kill-who=main", "containerd")
    own_node.until(lambda: own_node.show("containerd", "ActiveState") == "failed", "containerd is dead")
    facts, live = _find(own_node)
    assert facts.name == "containerd"
    assert live is not None
    assert (live.state, live.pid, live.unit) == ("Dead", 0, "")
    own_node.path(SOCKETS["containerd"]).unlink()  # as it does itself when it is stopped
    assert _find(own_node)[1] == live


def test_a_kubelet_in_a_service_of_the_node_says_which(own_node: Node) -> None:
    """A program of that name: what the agent asks of the kubelet is its name, its service and its file."""
    own_node.write("/etc/kubelet.yaml", "containerRuntimeEndpoint: unix:///var/run/cri-dockerd.sock\n")
    program = "import time; open('/proc/self/comm', 'w').write('kubelet'); time.sleep(600)"
    own_node.run(
        "systemd-run", "--unit=kubelet", sys.executable, "-c", program, "--config=/etc/kubelet.yaml", check=True
    )
    pid = own_node.show("kubelet", "MainPID")
    own_node.until(lambda: own_node.read(f"/proc/{pid}/comm") == "kubelet\n", "it has its name")
    assert "RuntimeNotSupported node: found the kubelet uses Docker through cri-dockerd" in _ask(own_node)
    own_node.systemctl("stop", "kubelet")
