"""The nodes and registries that the other tests of nodes stand on: they are real, and they leave nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.harness.cgroups import groups_of, processes_in
from tests.harness.cri import CRI
from tests.harness.gobuild import BuildFailed, ToolModule
from tests.harness.images import sleeper
from tests.harness.node import Node, NodeError
from tests.harness.nodebinaries import NodePrograms
from tests.harness.nodefiles import K3S_HOOK
from tests.harness.packages import unpack
from tests.harness.registries import Registries, Registry
from tests.harness.workplace import BASE_VARIABLE, Workplace, leftovers
from tests.nodes import hosts
from tests.nodes.conftest import MakeNode
from tests.nodes.hosts import UPSTREAM

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = {"containerd24": "2.4.2", "containerd16": "1.6.20~ds1", "k3s": "2.4.2"}


@pytest.fixture(scope="module", params=sorted(VERSIONS))
def node(request: pytest.FixtureRequest, make_node: MakeNode) -> Node:
    return make_node(request.param)


@pytest.fixture(scope="module")
def plain(registries: Registries) -> Registry:
    return registries.plain("plain")


# ---- its programs ------------------------------------------------------------------------------------------------


def test_tags_and_c_make_other_programs(tmp_path: Path) -> None:
    for name in ("go.mod", "go.sum"):
        (tmp_path / name).write_text("")
    plain = ToolModule("name", tmp_path, {"program": "."})
    assert len({plain.key(), replace(plain, tags="no_btrfs").key(), replace(plain, cgo=True).key()}) == 3
    assert "-tags" not in plain.flags


def test_packages_are_taken_from_the_cache_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildFailed, match="no apt-get"):
        unpack("some", ["some"], ["bin/some"], tmp_path)
    (tmp_path / "some/bin").mkdir(parents=True)
    (tmp_path / "some/bin/some").touch()
    assert unpack("some", ["some"], ["bin/some"], tmp_path) == tmp_path / "some"


def test_no_name_of_a_node_s_groups_is_the_beginning_of_another(place: Workplace) -> None:
    names = [place.next_link() for _ in range(12)]
    assert not [(one, other) for one in names for other in names if one != other and other.startswith(one)]
    assert max(map(len, names)) <= 15


# ---- a node ------------------------------------------------------------------------------------------------------


def test_a_node_boots_and_its_runtime_answers(node: Node) -> None:
    assert node.systemctl("is-system-running") == "running"
    assert node.run("cat", "/proc/1/comm").stdout == "systemd\n"
    assert node.run("hostname").stdout.strip() == node.name
    assert CRI(node).version() == VERSIONS[node.name.rsplit("-", 1)[0]]
    assert CRI(node).ready()


def test_its_journal_tells_of_the_runtime(node: Node) -> None:
    assert "containerd successfully booted" in node.journal(node.flavour.unit)


def test_systemd_is_on_the_system_bus_from_the_first(place: Workplace, programs: NodePrograms) -> None:
    manager = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
    with Node("bus", "containerd24", place, programs) as node:
        argv = ("busctl", "--system", "--auto-start=no", "call", *manager, "GetUnit", "s", "containerd.service")
        assert "containerd_2eservice" in node.run(*argv, check=True).stdout
        assert node.path("/run/dbus/system_bus_socket").is_socket()


def test_a_restart_gives_the_runtime_another_process(node: Node) -> None:
    before = node.runtime_pid
    node.systemctl("restart", node.flavour.unit)
    assert node.runtime_pid not in (0, before)
    CRI(node).wait()


def test_nothing_of_this_machine_s_control_groups_is_in_a_node(node: Node) -> None:
    group = f"{node.place.bridge}-"
    assert node.pid in processes_in(group)
    assert os.getpid() not in processes_in(group)
    inside = node.run(
        "sh", "-c", "cat /sys/fs/cgroup/systemd/init.scope/cgroup.procs /sys/fs/cgroup/init.scope/cgroup.procs"
    )
    assert inside.stdout.split() == ["1"]


def test_files_of_a_node_are_not_this_machine_s(node: Node) -> None:
    node.write("/etc/made-by-a-test/file", "there\n", mode=0o600)
    assert node.read("/etc/made-by-a-test/file") == node.run("cat", "/etc/made-by-a-test/file").stdout == "there\n"
    assert node.path("/etc/made-by-a-test/file").stat().st_mode & 0o777 == 0o600
    assert not Path("/etc/made-by-a-test").exists()


def test_containers_outlive_a_restart(node: Node, plain: Registry, programs: NodePrograms) -> None:
    hosts.use(node, UPSTREAM, plain.url)
    plain.push("pause", "3.10", sleeper(programs.busybox))
    plain.push("sleeper", "1", sleeper(programs.busybox))
    cri = CRI(node)
    cri.pull(f"{UPSTREAM}/sleeper:1")
    made = cri.run_pod("pod", f"{UPSTREAM}/sleeper:1")
    pid = int(node.run("pgrep", "-o", "busybox", check=True).stdout)
    node.systemctl("restart", node.flavour.unit)
    assert cri.wait().running() == [made]
    assert node.path(f"/proc/{pid}").is_dir()


def test_a_node_whose_runtime_cannot_start_is_told_with_its_log(place: Workplace, programs: NodePrograms) -> None:
    broken = 'version = 3\n[plugins."io.containerd.cri.v1.images"\n'
    node = Node("broken", "containerd24", place, programs, config=broken)
    with pytest.raises(NodeError, match="failed to unmarshal TOML at row 2"):
        node.start()
    assert not (place.directory / "broken").exists()


def test_k3s_renders_at_each_start_and_takes_its_runtime_along(k3s_node: Node) -> None:
    k3s_node.write(K3S_HOOK, "#!/bin/sh\necho rendered >> /run/rendered\n", mode=0o755)
    old = int(k3s_node.run("pgrep", "-P", str(k3s_node.runtime_pid), "containerd", check=True).stdout)
    k3s_node.systemctl("restart", "k3s")
    assert k3s_node.read("/run/rendered") == "rendered\n"
    assert not k3s_node.path(f"/proc/{old}").exists()
    k3s_node.run("kill", "-KILL", str(k3s_node.runtime_pid), check=True)
    k3s_node.until(lambda: k3s_node.path("/run/rendered").read_text() == "rendered\n" * 2, "it is started again")
    CRI(k3s_node).wait()


def test_a_power_cut_leaves_the_disk(place: Workplace, programs: NodePrograms) -> None:
    with Node("cut", "containerd16", place, programs) as node:
        node.write("/etc/kept", "kept\n")
        node.write("/run/lost", "lost\n")
        before = node.pid
        node.power_cut()
        assert not Path(f"/proc/{before}").exists()
        node.start()
        assert node.read("/etc/kept") == "kept\n"
        assert not node.path("/run/lost").exists()
        assert CRI(node).wait().ready()


def test_the_operator_can_run_in_a_node(node: Node) -> None:
    told = node.run(sys.executable, "-m", "registry_mirror", "--help", check=True).stdout
    assert "Usage" in told


def test_a_process_in_a_node_ends_when_it_is_told(node: Node) -> None:
    process = node.process("sleeper", ["sleep", "611"])
    node.until(lambda: node.run("pgrep", "-f", "^sleep 611").returncode == 0, "it runs")
    process.stop()
    node.until(lambda: node.run("pgrep", "-f", "^sleep 611").returncode == 1, "it is gone")


# ---- the end -----------------------------------------------------------------------------------------------------


def test_nothing_is_left_after_a_stop(place: Workplace, programs: NodePrograms) -> None:
    with Node("short", "containerd24", place, programs) as node:
        pid, link = node.pid, node.link
        node.process("sleep", ["sleep", "600"])
        members = processes_in(link)
        assert len(members) >= 3
    assert not Path(f"/proc/{pid}").exists()
    assert not any(Path(f"/proc/{member}").exists() for member in members)
    assert not Path(f"/sys/class/net/{link}").exists()
    assert not (place.directory / "short").exists()
    assert not groups_of(link)


_VICTIM = """
import os, time
from tests.harness.node import Node
from tests.harness.nodebinaries import node_programs
from tests.harness.packages import unpack
from tests.harness.registries import Registries
from tests.harness.workplace import Workplace

place, programs = Workplace().start(), node_programs()
node = Node("victim", "containerd24", place, programs).start()
Registries(place, programs).plain("victim")
print(node.pid, flush=True)
time.sleep(600)
"""


def test_a_killed_test_process_takes_its_nodes_along_and_the_next_one_removes_the_rest(place: Workplace) -> None:
    base = place.directory / "base"  # its own, or another test process would remove the rest
    base.mkdir()
    env = {**os.environ, BASE_VARIABLE: str(base)}
    victim = subprocess.Popen([sys.executable, "-c", _VICTIM], cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
    group = f"rmn{victim.pid}-"
    try:
        assert victim.stdout is not None
        with victim.stdout as told:
            pid = int(told.readline())
        assert processes_in(group)
        victim.send_signal(signal.SIGKILL)
        victim.wait(10)
        deadline = time.monotonic() + 10
        while Path(f"/proc/{pid}").exists() or processes_in(group):
            assert time.monotonic() < deadline, "its node lives on"
            time.sleep(0.05)
        assert leftovers(base, victim.pid)
    finally:
        victim.kill()
        victim.wait(10)
        Workplace.sweep(base)
    assert not leftovers(base, victim.pid)
    Workplace.sweep(place.base)
    assert place.directory.is_dir()
    assert place.bridge in os.listdir("/sys/class/net")
