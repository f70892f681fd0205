"""A node whose agent is gone for good puts itself back: real systemd, real containerd, real files.

The kubelet is played: all that counts of it is the directory of a Pod.
"""

from __future__ import annotations

import json
import shutil
import sys
import uuid
from collections.abc import Iterator

import pytest

from tests.harness.cluster import REPOSITORY, mirror
from tests.harness.cri import CRI
from tests.harness.node import Node
from tests.harness.nodebinaries import NodePrograms
from tests.harness.processes import Process
from tests.harness.workplace import Workplace
from tests.nodes.hosts import CONFIG, HOSTS, UPSTREAM, WITHOUT_PATH
from tests.nodes.test_restart import STATE

OBJECTS = "/root/mirrors.yaml"
POD = "/var/lib/kubelet/pods/1234"
VOLUME = f"{POD}/volumes/kubernetes.io~empty-dir/registry-mirror-agent"
SERVICE, TIMER = "registry-mirror-absence.service", "registry-mirror-absence.timer"
UNITS = "/etc/systemd/system"
KEPT = f"{STATE}/absence"
PYTHON = ("env", f"PYTHONPATH={REPOSITORY}:{REPOSITORY}/operator", sys.executable, "-m")


@pytest.fixture(scope="module")
def node(place: Workplace, programs: NodePrograms) -> Iterator[Node]:
    """One node for all: what a test does to it, it also undoes. (Its target lacks timers.)"""
    files = {f"{UNITS}/node.target.d/timers.conf": f"[Unit]\nWants={TIMER}\n"}
    known = {UPSTREAM: place.host}
    with Node("gone", "containerd24", place, programs, config=WITHOUT_PATH, files=files, hosts=known) as made:
        CRI(made).wait()
        yield made


@pytest.fixture
def found(node: Node) -> Iterator[dict[str, str]]:
    """What is on the node before the agent comes. After each test it is there again, and nothing else."""
    before = tree(node)
    yield before
    answer = node.run(*PYTHON, "registry_mirror.cli.main", "restore", "--local", "--restart=never", timeout=90.0)
    assert answer.returncode == 0, answer.stderr
    node.write(CONFIG, WITHOUT_PATH)
    assert tree(node) == before
    assert not node.path(f"{UNITS}/{TIMER}").exists()
    assert not node.path(f"{UNITS}/{SERVICE}").exists()
    assert not node.path(KEPT).exists()


def tree(node: Node) -> dict[str, str]:
    root = node.path("/etc")
    return {
        str(path.relative_to(root)): path.read_text() if path.is_file() else ""
        for name in ("containerd", "systemd/system")
        for path in sorted((root / name).rglob("*"))
    }


def agent(node: Node, *how: str) -> list[str]:
    node.write(OBJECTS, json.dumps(mirror("test", UPSTREAM, "http://mirror.test")))
    return [*PYTHON, "tests.nodes.keeping", OBJECTS, *how]


def applied(node: Node) -> str:
    answer = node.run(*agent(node), timeout=90.0)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def started(node: Node, *how: str) -> Process:
    """An agent in its Pod that has done its work and goes on; the host has seen it."""
    node.path(VOLUME).mkdir(parents=True, exist_ok=True)
    process = node.process(f"agent-{uuid.uuid4().hex[:8]}", agent(node, "hold", *how))
    node.until(lambda: "written:" in process.tail(), "it has done its work", 60.0)
    look(node)
    assert node.read(f"{KEPT}/kubelet") == "/var/lib/kubelet/pods\n"
    return process


def look(node: Node) -> None:
    """What the timer does."""
    node.run("systemctl", "reset-failed", SERVICE)  # its starts are counted, and soon refused
    node.systemctl("start", SERVICE)


def age(node: Node) -> None:
    seen = int(node.run("date", "+%s").stdout) - 25 * 3600
    node.write(f"{KEPT}/seen", f"{seen} 86400\n")


def left(node: Node, *how: str) -> None:
    """An agent was there, and is not any more; nor is its Pod, and nobody has seen it for long."""
    started(node, *how).stop()
    shutil.rmtree(node.path(POD))
    age(node)


def unchanged(node: Node, times: int = 3) -> None:
    before = tree(node)
    for _ in range(times):
        look(node)
    assert tree(node) == before
    assert node.path(HOSTS).exists()


def test_it_is_as_it_was_found_and_the_runtime_goes_on(node: Node, found: dict[str, str]) -> None:
    left(node, "restart")
    assert "config_path" in node.read(CONFIG)
    assert node.systemctl("is-enabled", TIMER) == "enabled"
    runtime = node.runtime_pid
    look(node)
    assert node.path(HOSTS).exists(), "it has to be so twice"
    look(node)
    assert tree(node) == found
    assert node.runtime_pid == runtime
    assert sorted(path.name for path in node.path(STATE).iterdir()) == ["lock"]
    assert node.systemctl("is-active", TIMER, check=False) == "inactive"
    # An agent that comes after it begins anew.
    assert HOSTS in applied(node)
    assert "config_path" in node.read(CONFIG)
    assert node.read(CONFIG).startswith("# kept by the operator of this node\n")


def test_nothing_happens_as_long_as_one_sign_is_missing(node: Node, found: dict[str, str]) -> None:
    process = started(node)
    shutil.rmtree(node.path(POD))
    age(node)
    unchanged(node)
    assert node.read(f"{KEPT}/seen").split()[0] >= node.run("date", "-d", "-1 hour", "+%s").stdout.strip()
    process.stop()
    unchanged(node)  # an agent was seen just now
    age(node)
    node.path(VOLUME).mkdir(parents=True)
    unchanged(node)  # its Pod is there, or a new one that cannot start
    shutil.rmtree(node.path(POD))
    node.write(f"{STATE}/restart/rollback.sh", "")
    unchanged(node)  # a restart is going on
    node.path(f"{STATE}/restart/rollback.sh").unlink()
    kubelet = node.read(f"{KEPT}/kubelet")
    node.path(f"{KEPT}/kubelet").unlink()
    unchanged(node)  # nobody knows where the kubelet has its Pods
    node.write(f"{KEPT}/kubelet", kubelet)
    unchanged(node, times=1)
    look(node)
    assert tree(node) == found


def test_what_somebody_has_changed_since_stays_and_is_said(node: Node, found: dict[str, str]) -> None:
    left(node)
    theirs = node.read(CONFIG) + "# changed by hand\n"
    node.write(CONFIG, theirs)
    look(node)
    look(node)
    assert node.read(CONFIG) == theirs
    assert not node.path(HOSTS).exists()
    assert node.read(f"{KEPT}/skipped").startswith(f"{CONFIG}: left as it is, because somebody has changed it since")
    assert not node.path(f"{UNITS}/{TIMER}").exists()
    # The next agent takes what is missing for the work of a crash, and still knows what was there before.
    assert HOSTS in applied(node)
    assert not node.path(f"{KEPT}/skipped").exists()
    assert node.systemctl("is-active", TIMER) == "active"


def test_what_somebody_changed_while_the_agent_was_there_is_kept(node: Node, found: dict[str, str]) -> None:
    started(node).stop()
    node.write(CONFIG, node.read(CONFIG) + "# changed by hand\n")
    left(node)
    look(node)
    look(node)
    assert "config_path" not in node.read(CONFIG)
    assert node.read(CONFIG).endswith("# changed by hand\n")


def test_a_power_cut_is_survived(node: Node, found: dict[str, str]) -> None:
    left(node)
    look(node)
    node.run("sync")
    node.power_cut()
    node.start()
    CRI(node).wait()
    assert node.systemctl("is-active", TIMER) == "active"
    # That of a node of the tests is this machine's, which has not changed.
    assert node.read(f"{KEPT}/gone") == node.read("/proc/sys/kernel/random/boot_id")
    node.write(f"{KEPT}/gone", "another boot\n")
    unchanged(node, times=1)
    look(node)
    assert tree(node) == found


def test_restore_leaves_nothing_of_it(node: Node, found: dict[str, str]) -> None:
    left(node)
    answer = node.run(*PYTHON, "registry_mirror.cli.main", "restore", "--local", "--restart=never", timeout=90.0)
    assert answer.returncode == 0, answer.stderr
    assert tree(node) == found
    assert not node.path(STATE).exists()


def test_apply_without_a_cluster_leaves_none_of_it(node: Node, found: dict[str, str]) -> None:
    agent(node)
    words = ("apply", "--local", "-f", OBJECTS, "--restart", "never")
    answer = node.run(*PYTHON, "registry_mirror.cli.main", *words, timeout=90.0)
    assert answer.returncode == 0, answer.stderr
    assert not node.path(KEPT).exists()
    assert not node.path(f"{UNITS}/{TIMER}").exists()
