"""What the agent sees of the runtimes that run: real processes that listen on real sockets."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from registry_mirror.agent import arguments, processes
from registry_mirror.agent.live import RANCHER, SOCKETS, Live, inspect

CONTAINERD, CRIO = SOCKETS["containerd"], SOCKETS["crio"]
PROC = Path("/proc")
# Listens where it is told to, and hands its own title to a child that does so, as K3s does.
_PROGRAM = """
import os, signal, socket, subprocess, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
what, path, *rest = sys.argv[1:]
if what == "kubelet":
    with open("/proc/self/comm", "w") as comm:
        comm.write("kubelet")
elif what == "starter":
    child = subprocess.Popen([rest[0], __file__, "listener", path, *rest[1:]], executable=os.readlink("/proc/self/exe"))
else:
    os.chdir(os.path.dirname(path))
    server = socket.socket(socket.AF_UNIX)
    server.bind(os.path.basename(path))
    server.listen(1)
if what != "starter":
    print("ready", flush=True)
try:
    time.sleep(60)
finally:
    if what == "starter":
        child.kill()
"""
# What /proc/PID/cgroup has: under systemd with the hierarchy of version 2, the same seen from a Pod's cgroup namespace,
# with both versions, in a slice, in a group below; under OpenRC in each of its modes; and for what is in no service of
# the host: containers of kubelet and of Docker, with a systemd inside (kind), and a person's session.
SERVICE = "0::/system.slice/{unit}\n"
CGROUPS = [
    ("0::/system.slice/k3s.service\n", "k3s.service"),
    (
        "0::/../../../../system.slice/snap.microk8s.daemon-containerd.service\n",
        "snap.microk8s.daemon-containerd.service",
    ),
    (
        "12:pids:/a.service\n2:cpu:/b.service\n1:name=systemd:/system.slice/rke2-server.service\n0::/x\n",
        "rke2-server.service",
    ),
    ("0::/runtime.slice/runtime-a.slice/containerd.service\n", "containerd.service"),
    ("0::/system.slice/system-k3s.slice/k3s@one.service\n", "k3s@one.service"),
    ("0::/system.slice/k0sworker.service/init\n", "k0sworker.service"),
    ("2:cpu:/openrc_k3s\n1:name=openrc:/k3s\n", "k3s"),
    ("0::/openrc.k3s\n", "k3s"),
    ("0::/rc/k3s-agent\n", "k3s-agent"),
    ("0::/kubepods.slice/kubepods-burstable.slice/kubepods-pod1.slice/cri-containerd-2.scope\n", ""),
    ("0::/kubepods/burstable/pod1/2/system.slice/containerd.service\n", ""),
    ("0::/system.slice/docker-1a.scope/system.slice/containerd.service\n", ""),
    ("0::/docker/1a/system.slice/containerd.service\n", ""),
    ("0::/user.slice/user-0.slice/session-1.scope\n", ""),
    ("0::/../../init.scope\n", ""),
    ("0::/\n", ""),
    ("", ""),
    ("nonsense\n1\n", ""),
    ("2:cpu:/rc/k3s\n1:name=systemd:/openrc.k3s\n", ""),
    # Names that no service manager gives.
    ("1:name=openrc:/k3s\x1b\n0::/rc/k 3\n", ""),
    ("0::/system.slice/k3s\x07.service\n", ""),
]


class Processes:
    """Starts programs, and makes a /proc in which they belong to the services that the test says."""

    def __init__(self, directory: Path) -> None:
        self.root, self.proc = directory / "host", directory / "proc"
        self._script = directory / "program.py"
        self._script.write_text(_PROGRAM)
        self._started: list[subprocess.Popen[str]] = []
        self.root.mkdir()
        self.proc.mkdir()

    def start(self, what: str, path: str, name: str, *args: str, unit: str = "") -> int:
        """Give the process that a program under that name is, with those arguments."""
        where = self.root / path.lstrip("/")
        where.parent.mkdir(parents=True, exist_ok=True)
        process = subprocess.Popen(
            [name, self._script, what, where, *args],
            executable=os.path.realpath(sys.executable),
            env={"PYTHONHOME": sys.base_prefix},  # Python looks for itself beside its name
            stdout=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        self.enter(process.pid, unit)
        return process.pid

    def enter(self, pid: int, unit: str) -> None:
        """Show a process, and the service that it is in."""
        entry = self.proc / str(pid)
        entry.mkdir()
        for file in ("cmdline", "comm", "status"):
            (entry / file).symlink_to(PROC / str(pid) / file)
        (entry / "exe").symlink_to((PROC / str(pid) / "exe").readlink())
        (entry / "cgroup").write_text(SERVICE.format(unit=unit) if unit else "0::/\n")

    def listen(self, path: str, name: str, *args: str, unit: str = "") -> int:
        return self.start("listener", path, name, *args, unit=unit)

    def kubelet(self, *args: str, unit: str = "kubelet.service") -> int:
        return self.start("kubelet", "/unused", "/usr/bin/kubelet", *args, unit=unit)

    def inspect(self, *args: object) -> tuple[Live, ...]:
        return inspect(self.root, self.proc, *args)  # type: ignore[arg-type]

    def stop(self) -> None:
        for process in self._started:
            process.kill()  # it has nothing to clean up
            process.wait(10)
            assert process.stdout is not None
            process.stdout.close()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Processes]:
    made = Processes(tmp_path)
    yield made
    made.stop()


@pytest.mark.parametrize(("text", "unit"), CGROUPS)
def test_the_service_of_a_process(tmp_path: Path, text: str, unit: str) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7/cgroup").write_text(text)
    assert processes.service(tmp_path, 7) == unit


def test_a_process_that_has_gone_is_in_no_service_and_has_no_arguments(tmp_path: Path) -> None:
    assert processes.service(tmp_path, 7) == ""
    assert processes.arguments(tmp_path, 7) == ()
    assert processes.program(()) == ""
    assert processes.parent(tmp_path, 7) == 0
    assert processes.executable(tmp_path, 7) == ""
    assert list(processes.named(tmp_path / "none", "kubelet")) == []


@pytest.mark.parametrize(
    ("argv", "value"),
    [
        (["x", "-c", "/a"], "/a"),
        (["x", "--config", "/a"], "/a"),
        (["x", "-config=/a"], "/a"),
        (["x", "--c=/a"], "/a"),
        (["x", "-c=/a", "--config", "/b"], "/b"),
        (["x", "--config="], ""),
        (["x", "--config"], ""),
        (["x", "--configs", "/a", "config", "/b"], ""),
    ],
)
def test_a_flag_with_a_value(argv: list[str], value: str) -> None:
    assert arguments.last(argv, "config", "c") == value


@pytest.mark.parametrize(
    ("argv", "value"),
    [
        (["x", "--docker"], True),
        (["x", "-docker=true"], True),
        (["x", "--docker=1"], True),
        (["x", "--docker=false"], False),
        (["x", "--docker", "--docker=f"], False),
        (["x", "--docker", "false"], True),
        (["x", "docker"], None),
    ],
)
def test_a_flag_that_is_on_or_off(argv: list[str], value: bool | None) -> None:
    assert arguments.switch(argv, "docker") is value


def test_a_program_of_a_title_and_fit_for_a_message() -> None:
    assert processes.program(("/usr/local/bin/k3s server",)) == "k3s"
    assert processes.program(("containerd ",)) == "containerd"
    assert processes.program((" ",)) == ""
    assert processes.program((f"/bin/\x1b{'a' * 100}",)) == "a" * 64


def test_a_node_without_a_runtime(node: Processes) -> None:
    assert node.inspect() == ()
    assert inspect(node.root / "none", node.proc) == ()


def test_containerd_with_the_usual_file(node: Processes) -> None:
    pid = node.listen(CONTAINERD, "/usr/bin/containerd", unit="containerd.service")
    (found,) = node.inspect()
    assert (found.name, found.state, found.pid, found.unit) == ("containerd", "Listening", pid, "containerd.service")
    assert (found.config_file, found.data_dir, found.kubelet) == ("/etc/containerd/config.toml", "", False)
    assert found.argv[0] == "/usr/bin/containerd"
    assert found.executable == os.path.realpath(sys.executable)
    assert str(found) == f"containerd at {CONTAINERD} (process {pid}, containerd.service)"


def test_containerd_with_a_file_of_its_own(node: Processes) -> None:
    node.listen(CONTAINERD, "containerd", "--log-level", "info", "--config=/etc/own.toml")
    (found,) = node.inspect()
    assert (found.config_file, found.unit) == ("/etc/own.toml", "")
    assert "in no service" in str(found)


@pytest.mark.parametrize("name", ["microk8s", "k0s", "crio"])
def test_a_runtime_at_its_place(node: Processes, name: str) -> None:
    program = "crio" if name == "crio" else f"/var/lib/{name}/bin/containerd"
    node.listen(SOCKETS[name], program, "--config=/x.toml", unit="some.service")  # type: ignore[index]
    assert [(item.name, item.unit) for item in node.inspect()] == [(name, "some.service")]


@pytest.mark.parametrize(
    ("argv", "unit", "name", "data_dir"),
    [
        (
            ("containerd", "-c", "/var/lib/rancher/k3s/agent/etc/containerd/config.toml"),
            "",
            "k3s",
            "/var/lib/rancher/k3s",
        ),
        (("containerd", "-c", "/data/agent/etc/containerd/config.toml"), "k3s-agent.service", "k3s", "/data"),
        (("containerd", "-c", "/data/agent/etc/containerd/config.toml"), "rke2-server.service", "rke2", "/data"),
        (("containerd ",), "k3s.service", "k3s", ""),
        (("containerd ",), "my.service", None, ""),
        (("containerd", "-c", "/opt/k3sx/config.toml"), "", None, ""),
        (("crio",), "k3s.service", None, ""),
    ],
)
def test_k3s_and_rke2_share_a_socket(
    node: Processes, argv: tuple[str, ...], unit: str, name: str | None, data_dir: str
) -> None:
    node.listen(RANCHER, *argv, unit=unit)
    (found,) = node.inspect()
    assert (found.name, found.data_dir) == (name, data_dir)


def test_the_agents_orders_say_whose_that_socket_is_where_nothing_else_does(node: Processes) -> None:
    node.listen(RANCHER, "containerd ", unit="my.service")
    assert [item.name for item in node.inspect("rke2")] == ["rke2"]
    assert [item.name for item in node.inspect("crio")] == [None]


def test_k3s_is_known_by_the_program_that_started_containerd(node: Processes) -> None:
    node.start("starter", RANCHER, "/usr/local/bin/rke2 server", "containerd ", unit="k3s.service")
    (starter,) = (int(entry.name) for entry in node.proc.iterdir())
    children = (PROC / str(starter) / "task" / str(starter) / "children").read_text().split()
    node.enter(int(children[0]), "k3s.service")
    (found,) = node.inspect()
    assert (found.name, found.pid) == ("rke2", int(children[0]))


@pytest.mark.parametrize(
    ("path", "argv"),
    [
        (CONTAINERD, ("containerd", "--config", "/var/run/docker/containerd/containerd.toml")),
        (CONTAINERD, ("containerd-shim-runc-v2", "-id", "1")),
        (CONTAINERD, ("crio",)),
        (CRIO, ("containerd",)),
        (CONTAINERD, ("/usr/bin/other", "--password", "secret")),
    ],
)
def test_another_program_is_none_of_ours(node: Processes, path: str, argv: tuple[str, ...]) -> None:
    node.listen(path, *argv)
    (found,) = node.inspect()
    assert (found.name, found.argv) == (None, argv[:1])


def test_the_kubelet_names_its_socket_by_a_flag(node: Processes) -> None:
    node.listen("/run/own/containerd.sock", "containerd", unit="own.service")
    node.listen(CRIO, "crio")
    node.kubelet("--container-runtime-endpoint=unix:///var/run/own//containerd.sock")
    used = {item.socket: (item.name, item.kubelet) for item in node.inspect()}
    assert used == {"/run/own/containerd.sock": ("containerd", True), CRIO: ("crio", False)}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (f"kind: KubeletConfiguration\ncontainerRuntimeEndpoint: unix://{CRIO}\n", True),
        (f'containerRuntimeEndpoint: "unix://{CRIO}"  # CRI-O', True),
        (f'{{"kind": "KubeletConfiguration",\n "containerRuntimeEndpoint": "unix://{CRIO}"}}', True),
        (f"containerRuntimeEndpoint: {CRIO}", True),
        (f"#containerRuntimeEndpoint: unix://{CRIO}", False),
        (f"imageServiceEndpoint: unix://{CRIO}", False),
        ("containerRuntimeEndpoint: npipe:////./pipe/x", False),
        ("containerRuntimeEndpoint: ''", False),
    ],
)
def test_the_kubelet_names_its_socket_in_its_file(node: Processes, text: str, named: bool) -> None:
    (node.root / "etc").mkdir()
    (node.root / "etc/kubelet.yaml").write_text(text)
    node.listen(CRIO, "crio")
    node.kubelet("--config", "/etc/kubelet.yaml")
    assert [item.kubelet for item in node.inspect()] == [named]


@pytest.mark.parametrize(
    ("args", "unit"),
    [
        ((f"--container-runtime-endpoint=unix://{CRIO}",), ""),  # in a container, such as a node of kind
        (("--config=/etc/kubelet.yaml", "--config-dir=/etc/kubelet.d"), "kubelet.service"),
        (("--config=/etc/none.yaml",), "kubelet.service"),
        (("--container-runtime-endpoint=/run/a\nb.sock",), "kubelet.service"),
        (("--config=/etc/link.yaml",), "kubelet.service"),
        ((), "kubelet.service"),
    ],
)
def test_what_a_kubelet_does_not_say_is_not_assumed(node: Processes, args: tuple[str, ...], unit: str) -> None:
    (node.root / "etc").mkdir()
    (node.root / "etc/kubelet.yaml").write_text(f"containerRuntimeEndpoint: unix://{CRIO}")
    (node.root / "etc/link.yaml").symlink_to("kubelet.yaml")
    node.listen(CRIO, "crio")
    node.kubelet(*args, unit=unit)
    assert [item.kubelet for item in node.inspect()] == [False]


def test_a_flag_counts_more_than_the_file(node: Processes) -> None:
    (node.root / "etc").mkdir()
    (node.root / "etc/kubelet.yaml").write_text(f"containerRuntimeEndpoint: unix://{CRIO}")
    node.listen(CRIO, "crio")
    node.kubelet("--config=/etc/kubelet.yaml", f"--container-runtime-endpoint={CONTAINERD}")
    found = {item.socket: (item.state, item.kubelet) for item in node.inspect()}
    assert found == {CRIO: ("Listening", False), CONTAINERD: ("Missing", True)}


def _socket(path: Path) -> socket.socket:
    path.parent.mkdir(parents=True)
    server = socket.socket(socket.AF_UNIX)
    server.bind(f"/proc/self/fd/{os.open(path.parent, os.O_PATH | os.O_CLOEXEC)}/{path.name}")
    return server


def _file(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.touch()


def _link(path: Path) -> None:
    _socket(path.parents[1] / "elsewhere/other.sock").close()
    path.parent.mkdir()
    path.symlink_to("../elsewhere/other.sock")


def _directory_link(path: Path) -> None:
    (path.parents[2] / "elsewhere").mkdir(parents=True)
    _socket(path.parents[2] / "elsewhere/other" / path.name).listen()
    path.parents[1].mkdir()
    path.parent.symlink_to("../elsewhere/other")


@pytest.mark.parametrize("make", [_file, _link, _directory_link])
def test_what_is_no_socket_is_not_there(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / CRIO.lstrip("/"))
    assert inspect(tmp_path, PROC) == ()


def test_a_socket_that_nobody_listens_on(tmp_path: Path) -> None:
    _socket(tmp_path / CRIO.lstrip("/")).close()
    _socket(tmp_path / RANCHER.lstrip("/")).close()
    found = {item.socket: item for item in inspect(tmp_path, PROC, "k3s")}
    assert {path: (item.name, item.state, item.pid) for path, item in found.items()} == {
        CRIO: ("crio", "Dead", 0),
        RANCHER: ("k3s", "Dead", 0),
    }
    assert str(found[CRIO]) == f"crio at {CRIO} (nothing listens)"


def test_a_runtime_that_was_stopped_takes_its_socket_away(tmp_path: Path) -> None:
    (tmp_path / CRIO.lstrip("/")).parent.mkdir(parents=True)
    assert [(item.name, item.state) for item in inspect(tmp_path, PROC)] == [("crio", "Dead")]


def test_a_path_longer_than_an_address_may_be(tmp_path: Path) -> None:
    root = tmp_path / ("a" * 120)
    with _socket(root / CRIO.lstrip("/")) as server:
        server.listen()
        (found,) = inspect(root, PROC)
    assert (found.state, found.pid) == ("Listening", os.getpid())


def test_a_runtime_that_accepts_nothing_is_not_waited_for(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    path = tmp_path / CRIO.lstrip("/")
    with _socket(path) as server:
        server.listen(0)
        waiting = []
        while True:
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            waiting.append(client)
            try:
                client.connect(os.path.relpath(path))
            except BlockingIOError:
                break
        (found,) = inspect(tmp_path, PROC)
        for client in waiting:
            client.close()
    assert (found.name, found.state) == ("crio", "Hung")
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # that of the directory, for the address


def test_nothing_stays_open(tmp_path: Path, node: Processes) -> None:
    node.listen(CONTAINERD, "containerd")
    (tmp_path / "host/run/crio").mkdir()
    node.inspect()
    before = len(os.listdir("/proc/self/fd"))
    node.inspect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_process_that_cannot_be_seen_is_said(node: Processes) -> None:
    """As in a Pod without hostPID: there the kernel gives no process for the listener."""
    node.listen(CRIO, "crio")
    code = "import sys; from pathlib import Path; from registry_mirror.agent.live import inspect; "
    code += "print(*inspect(Path(sys.argv[1]), Path('/proc')))"
    answer = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code, str(node.root)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    if "Operation not permitted" in answer.stderr:
        pytest.skip("takes the right to make namespaces")
    assert answer.stdout.startswith(f"crio at {CRIO} (its process cannot be seen: the agent's Pod needs hostPID"), (
        answer
    )
