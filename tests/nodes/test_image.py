"""The image that the Dockerfile builds: what is in it, and that a node's containerd pulls and runs it."""

from __future__ import annotations

import shlex
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import registry_mirror
from tests.harness.cluster import REPOSITORY, Cluster
from tests.harness.cri import CRI
from tests.harness.image import import_into
from tests.harness.imagebase import PYTHON, this_architecture
from tests.harness.images import sleeper
from tests.harness.node import Node
from tests.harness.nodebinaries import NodePrograms
from tests.harness.ocilayout import Layout
from tests.harness.processes import Process
from tests.harness.pytest_support import require_assets, require_image
from tests.harness.registries import Registries, Registry
from tests.nodes import hosts
from tests.nodes.conftest import MakeNode
from tests.nodes.hosts import UPSTREAM

NAME = "registry-mirror-operator"
REFERENCE = f"{UPSTREAM}/{NAME}:{registry_mirror.__version__}"
PACKAGES = f"opt/registry-mirror/lib/python{PYTHON}/site-packages"
EXAMPLE = REPOSITORY / "examples" / "dockerhub-through-harbor.yaml"
LOGS = "/var/log/containers-of-tests"
MAX_BYTES = 80_000_000
SETTLED = 60.0
MACHINES = {"amd64": 62, "arm64": 183}  # e_machine of ELF
CONTROLLERS = ("aiohttp", "click", "jinja2", "kopf", "kubernetes", "prometheus_client", "pydantic", "requests")

Members = dict[str, tarfile.TarInfo]


@pytest.fixture(scope="module")
def image(pytestconfig: pytest.Config, programs: NodePrograms) -> Layout:
    return require_image(pytestconfig)


@pytest.fixture(scope="module")
def members(image: Layout) -> Members:
    return _members(image)


@pytest.fixture(scope="module")
def registry(registries: Registries, image: Layout, programs: NodePrograms) -> Registry:
    """A registry that the image was pushed to, as a client pushes."""
    found = registries.plain("ours")
    image.push(found.url, NAME, registry_mirror.__version__)
    found.push("pause", "3.10", sleeper(programs.busybox))
    return found


@pytest.fixture(scope="module")
def node(make_node: MakeNode, registry: Registry) -> Node:
    """A node that pulls through that registry and has pulled the image."""
    made = make_node("containerd24")
    hosts.use(made, UPSTREAM, registry.url)
    CRI(made).pull(REFERENCE)
    return made


def test_it_says_what_it_is(image: Layout) -> None:
    described = image.config
    assert (described["architecture"], described["os"]) == (this_architecture(), "linux")
    runtime = described["config"]
    assert (runtime["User"], runtime["Entrypoint"], runtime["WorkingDir"]) == ("65532:65532", ["registry-mirror"], "/")
    labels = {key.rpartition(".")[2]: value for key, value in runtime["Labels"].items() if "opencontainers" in key}
    assert labels["title"] == NAME
    assert labels["version"] == registry_mirror.__version__
    assert labels["licenses"] == "Apache-2.0"


def test_it_is_small(image: Layout) -> None:
    layers = [round(layer["size"] / 1e6, 1) for layer in image.manifest["layers"]]
    assert image.size <= MAX_BYTES, f"MB by layer: {layers}"


def test_it_holds_nothing_to_build_or_to_break_in_with(members: Members) -> None:
    programs = {Path(name).name for name in members if "bin" in Path(name).parent.parts}
    assert not programs & {"sh", "bash", "dash", "busybox", "pip", "apt-get", "dpkg", "gcc", "curl", "wget"}
    files = {name: item for name, item in members.items() if not item.issym()}
    assert [name for name, item in files.items() if item.mode & (stat.S_ISUID | stat.S_ISGID) and item.isfile()] == []
    writable = {name for name, item in files.items() if item.mode & stat.S_IWOTH}
    assert writable <= {"tmp", "var/tmp", "run/lock", "var/lock"}
    # Nothing of the program can be changed by the user that it runs as.
    assert {item.uid for name, item in members.items() if name.startswith("opt/")} == {0}


def test_all_that_python_imports_is_compiled(members: Members) -> None:
    # The file system is read-only: what is not compiled here is compiled at every start.
    for directory in (f"usr/lib/python{PYTHON}", f"{PACKAGES}/registry_mirror/agent", f"{PACKAGES}/msgspec"):
        sources = [name for name in members if name.startswith(f"{directory}/")]
        direct = {Path(name).stem for name in sources if name.endswith(".py") and str(Path(name).parent) == directory}
        compiled = {name.rpartition("/")[2].split(".")[0] for name in sources if f"{directory}/__pycache__/" in name}
        assert direct
        assert direct <= compiled, directory


def test_it_is_built_for_another_platform_without_emulation(pytestconfig: pytest.Config, image: Layout) -> None:
    (other,) = MACHINES.keys() - {this_architecture()}
    found = require_image(pytestconfig, other)
    assert found.config["architecture"] == other
    assert found.size <= MAX_BYTES
    assert _machines(found) == {MACHINES[other]}
    assert _machines(image) == {MACHINES[this_architecture()]}
    # Beside those, the two have the same files of ours.
    assert _ours(_members(found)) == _ours(_members(image))


def test_a_node_pulls_it(node: Node, registry: Registry, image: Layout) -> None:
    assert REFERENCE in CRI(node).images()
    known = [item for found in CRI(node).call("ListImages")["images"] for item in found.get("repoDigests", ())]
    assert f"{UPSTREAM}/{NAME}@{image.digest}" in known
    assert [item.status for item in registry.requests(f"/{NAME}/manifests/{image.digest}")][-1] == 200


def test_it_is_imported_without_a_registry(make_node: MakeNode, image: Layout) -> None:
    node = make_node("containerd16")
    import_into(node, image, REFERENCE)
    assert REFERENCE in CRI(node).images()


def test_the_program_runs_as_a_pod_has_it(node: Node) -> None:
    said = _run(node, "help", ["registry-mirror", "--help"])
    assert said.splitlines()[0] == "Usage: registry-mirror [OPTIONS] COMMAND [ARGS]..."


def test_it_renders_what_the_sources_render(node: Node) -> None:
    node.write("/srv/objects/mirrors.yaml", EXAMPLE.read_text())
    arguments = ["render", "--runtime", "k3s", "-f"]
    command = ["registry-mirror", *arguments, "/objects/mirrors.yaml"]
    said = _run(node, "render", command, {"/objects": "/srv/objects"})
    here = [sys.executable, "-m", "registry_mirror", *arguments, str(EXAMPLE)]
    expected = subprocess.run(here, capture_output=True, text=True, check=True)
    assert said == expected.stdout + expected.stderr


def test_every_module_is_there(node: Node) -> None:
    # With what is left of the dependencies, whose unused parts are cut out.
    script = (
        "import importlib, pkgutil, registry_mirror as package\n"
        "names = [item.name for item in pkgutil.walk_packages(package.__path__, 'registry_mirror.')]\n"
        "print(len([importlib.import_module(name) for name in names if not name.endswith('__main__')]))\n"
    )
    said = _run(node, "modules", ["python3", "-c", script])
    sources = len(list(Path(registry_mirror.__file__).parent.rglob("*.py")))
    assert said == f"{sources - 2}\n"  # without the package itself and its __main__


def test_the_agent_loads_nothing_that_only_the_controller_needs(node: Node) -> None:
    script = "import sys, registry_mirror.agent.app; print(*{name.split('.')[0] for name in sys.modules})"
    said = _run(node, "agent", ["python3", "-c", script])
    assert "registry_mirror" in said.split()
    assert not set(said.split()) & set(CONTROLLERS)


def test_the_agent_asks_the_runtime_from_within(node: Node) -> None:
    # As root: the socket is root's. The child is started by the interpreter that the agent runs in.
    socket = Path(node.flavour.socket)
    script = (
        "from pathlib import Path; from registry_mirror.agent.cri import Runtime\n"
        f"print(Runtime(Path('/host{socket}')).health())\n"
    )
    said = _run(node, "cri", ["python3", "-c", script], {f"/host{socket.parent}": str(socket.parent)}, user=0)
    assert "ready=True" in said


def test_controller_and_agent_work_from_the_image(
    image: Layout, pytestconfig: pytest.Config, tmp_path: Path, programs: NodePrograms
) -> None:
    require_assets(pytestconfig)
    root = tmp_path / "root"
    root.mkdir()
    image.unpack(root)
    with _FromImage(tmp_path / "cluster", root) as cluster:
        cluster.install()
        cluster.start_controller()
        node = cluster.add_node("one", "k3s")
        cluster.start_agent("one")
        cluster.kubectl("apply", "-f", str(EXAMPLE))
        cluster.until(lambda: cluster.condition("docker-hub").get("status") == "True", "it is Ready", SETTLED)
        assert "harbor.example.com" in str(node.text("/etc/rancher/k3s/registries.yaml"))


class _FromImage(Cluster):
    """The operator's processes have the image as their file system, and see the cluster's directory beside it."""

    def __init__(self, work: Path, image: Path) -> None:
        super().__init__(work)
        self._image = image

    def _start(self, name: str, argv: list[str], kubeconfig: Path) -> Process:
        work = self.work.resolve()
        inside = self._image / str(work).lstrip("/")
        inside.mkdir(parents=True, exist_ok=True)
        script = (
            f"mount --bind {shlex.quote(str(work))} {shlex.quote(str(inside))}\n"
            f"mount -t proc proc {self._image}/proc\n"
            f"exec chroot {self._image} registry-mirror {shlex.join(argv)}"
        )
        paths = "/opt/registry-mirror/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        env = {"PATH": paths, "KUBECONFIG": str(kubeconfig.resolve()), "PYTHONDONTWRITEBYTECODE": "1"}
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script]
        return Process(name, command, env, self.work / f"{name}.log", cwd=self.work).start()


def _run(node: Node, name: str, command: list[str], mounts: dict[str, str] | None = None, user: int = 65532) -> str:
    """Run a container as the manifests have it: nothing to write on, no rights; give its output, errors included."""
    cri = CRI(node)
    node.path(LOGS).mkdir(parents=True, exist_ok=True)
    pod: dict[str, Any] = {
        "metadata": {"name": name, "namespace": "default", "uid": name, "attempt": 0},
        "logDirectory": LOGS,
        "linux": {"securityContext": {"namespaceOptions": {"network": "NODE", "pid": "CONTAINER", "ipc": "POD"}}},
    }
    sandbox = cri.call("RunPodSandbox", {"config": pod}, SETTLED)["podSandboxId"]
    confined = {
        "runAsUser": {"value": str(user)},
        "runAsGroup": {"value": str(user)},
        "readonlyRootfs": True,
        "noNewPrivs": True,
        "capabilities": {"dropCapabilities": ["ALL"]},
        "namespaceOptions": {"network": "NODE", "pid": "CONTAINER", "ipc": "POD"},
    }
    container = {
        "metadata": {"name": "main", "attempt": 0},
        "image": {"image": REFERENCE},
        "command": command,
        "logPath": f"{name}.log",
        "mounts": [
            {"containerPath": there, "hostPath": here, "readonly": True} for there, here in (mounts or {}).items()
        ],
        "linux": {"securityContext": confined},
    }
    request = {"podSandboxId": sandbox, "config": container, "sandboxConfig": pod}
    made = cri.call("CreateContainer", request, SETTLED)["containerId"]
    cri.call("StartContainer", {"containerId": made}, SETTLED)

    def ended() -> bool:
        return any(item["id"] == made and item["state"] == "CONTAINER_EXITED" for item in cri.containers())

    node.until(ended, f"{name} has ended", SETTLED)
    # A line of the log is: time, stream, whether it is whole (F) or part of a line (P), text.
    lines = [line.split(" ", 3) for line in node.read(f"{LOGS}/{name}.log").splitlines()]
    said = "".join(text + ("\n" if part == "F" else "") for _, _, part, text in lines)
    return said


def _members(image: Layout) -> Members:
    found: Members = {}
    for layer in image.manifest["layers"]:
        with tarfile.open(image.blob(layer["digest"])) as archive:
            found |= {item.name.removeprefix("./").strip("/"): item for item in archive.getmembers()}
    return found


def _ours(members: Members) -> set[str]:
    return {name for name in members if name.startswith(f"{PACKAGES}/registry_mirror/")}


def _machines(image: Layout) -> set[int]:
    """The machines that the image's libraries and programs are for."""
    return set(_heads(image))


def _heads(image: Layout) -> Iterator[int]:
    for layer in image.manifest["layers"]:
        with tarfile.open(image.blob(layer["digest"])) as archive:
            for item in archive:
                source = archive.extractfile(item) if item.isfile() else None
                head = source.read(20) if source is not None else b""
                if head[:4] == b"\x7fELF":
                    yield int.from_bytes(head[18:20], "little")
