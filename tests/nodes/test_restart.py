"""Restarts on real nodes: only when they must be, seen through, and undone when the runtime does not come back.

The engine runs in the node as `apply --local`: real systemd, real containerd, real files.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from registry_mirror.agent.restart import DEAD_MAN
from tests.harness.cri import CRI
from tests.harness.node import Node
from tests.harness.nodebinaries import NodePrograms
from tests.harness.processes import Process
from tests.harness.registries import Registries
from tests.harness.workplace import Workplace
from tests.nodes.hosts import CONFIG, HOSTS, UPSTREAM, WITHOUT_PATH

STATE = "/var/lib/registry-mirror"
_LONG = 90.0


@pytest.fixture
def node(place: Workplace, programs: NodePrograms) -> Iterator[Node]:
    """A node of its own, on which containerd reads no hosts.toml yet."""
    made = Node("restarts", "containerd24", place, programs, config=WITHOUT_PATH, hosts={UPSTREAM: place.host})
    with made as node:
        CRI(node).wait()
        yield node


def _mirror(node: Node, *urls: str, name: str = "test") -> None:
    endpoints = "".join(f"\n  - url: {url}" for url in urls)
    text = (
        "apiVersion: registrymirror.io/v1alpha1\nkind: RegistryMirror\n"
        f"metadata:\n  name: {name}\nspec:\n  registry: {UPSTREAM}\n  endpoints:{endpoints}\n"
    )
    node.write("/root/mirror.yaml", text)


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "registry_mirror.cli.main", *words]


def _apply(node: Node, *options: str, timeout: float = _LONG) -> subprocess.CompletedProcess[str]:
    return node.run(*_command("apply", "--local", "-f", "/root/mirror.yaml", *options), timeout=timeout)


def _done(answer: subprocess.CompletedProcess[str]) -> list[str]:
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout.splitlines()


def _tree(node: Node) -> dict[str, str]:
    """What lies below containerd's directory of settings."""
    root = node.path("/etc/containerd")
    return {str(path.relative_to(root)): path.read_text() if path.is_file() else "" for path in sorted(root.rglob("*"))}


def _break_starts(node: Node, first: str = "") -> None:
    """From now on containerd refuses to start with config_path set, which no parse-back can foresee, and does that
    first.
    """
    drop_in = (
        "[Service]\nExecStartPre=/bin/sh -c 'if grep -q config_path /etc/containerd/config.toml; then "
        f"echo this start is refused; {first} exit 1; fi'\n"
    )
    node.write(f"/etc/systemd/system/{node.flavour.unit}.d/refuse.conf", drop_in)
    node.systemctl("daemon-reload")


def _held(node: Node, deadline: str) -> Process:
    """Start an agent, and hold it where it waits for a runtime that does not start, however slow this machine is."""
    _break_starts(node, "pkill -STOP -f [r]egistry_mirror.cli; touch /root/held;")
    _mirror(node, "http://mirror.test")
    process = node.process("apply", _command("apply", "--local", "-f", "/root/mirror.yaml", "--deadline", deadline))
    node.until(node.path("/root/held").exists, "a start was refused, and the agent is held")
    return process


def test_the_first_change_restarts_once_and_the_next_ones_never(node: Node, registries: Registries) -> None:
    mirror, other = registries.plain("first"), registries.plain("second")
    for item in (mirror, other):
        item.push("team/app", "1")
        item.push("team/app", "2")
    before = node.runtime_pid
    _mirror(node, mirror.url)
    lines = _done(_apply(node))
    assert f"restarted {node.flavour.unit}" in lines
    assert node.runtime_pid != before
    assert node.read(CONFIG).startswith("# kept by the operator of this node\n")
    CRI(node).wait().pull(f"{UPSTREAM}/team/app:1")
    assert mirror.requests("/team/app/manifests/1")
    before = node.runtime_pid
    _mirror(node, other.url)
    assert not any(line.startswith("restarted") for line in _done(_apply(node)))
    CRI(node).pull(f"{UPSTREAM}/team/app:2")
    assert other.requests("/team/app/manifests/2")
    assert not mirror.requests("/team/app/manifests/2")
    assert _done(_apply(node)) == ["nothing to do"]
    assert node.runtime_pid == before


def test_a_dry_run_says_so_and_changes_nothing(node: Node) -> None:
    _mirror(node, "http://mirror.test")
    before = node.runtime_pid
    text = "\n".join(_done(_apply(node, "--dry-run")))
    assert "a restart of the runtime is needed for: config_path of containerd" in text
    assert "+  config_path: '/etc/containerd/certs.d'" in text.replace("    ", "  ") or "config_path" in text
    assert node.read(CONFIG) == WITHOUT_PATH
    assert not node.path(HOSTS).exists()
    assert node.runtime_pid == before
    found = json.loads("\n".join(_done(_apply(node, "--dry-run", "-o", "json"))))
    assert found["waiting"] == ["config_path of containerd"]


def test_never_restart_leaves_the_rest_waiting(node: Node) -> None:
    _mirror(node, "http://mirror.test")
    before = node.runtime_pid
    lines = _done(_apply(node, "--restart", "never"))
    assert lines[-1] == "a restart of the runtime is needed for: config_path of containerd"
    assert node.runtime_pid == before
    node.systemctl("restart", node.flavour.unit)
    CRI(node).wait()
    # A start that nobody asked for has read it; it is seen through all the same.
    lines = _done(_apply(node, "--restart", "never"))
    assert not [line for line in lines if "needed" in line]


def test_everything_is_as_it_was_after_restore(node: Node) -> None:
    before = _tree(node)
    _mirror(node, "http://mirror.test")
    _done(_apply(node))
    assert _tree(node) != before
    _done(node.run(*_command("restore", "--local"), timeout=_LONG))
    assert _tree(node) == before
    assert not node.path(STATE).exists()
    assert CRI(node).wait().answers()


def test_a_runtime_that_refuses_to_start_is_back_with_its_last_good_files(node: Node) -> None:
    _break_starts(node)
    _mirror(node, "http://mirror.test")
    answer = _apply(node, "--deadline", "30s")
    assert answer.returncode == 1
    assert "this start is refused" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert node.read(CONFIG) == WITHOUT_PATH
    assert not node.path(HOSTS).exists()
    assert CRI(node).wait().answers()
    again = _apply(node)
    assert again.returncode == 1
    assert node.read(CONFIG) == WITHOUT_PATH, "what failed is not tried again"
    node.systemctl("list-timers", "--all")
    assert "registry-mirror-rollback" not in node.systemctl("list-timers", "--all")


def test_a_runtime_that_hangs_after_its_start_is_back_after_the_deadline(node: Node) -> None:
    """It says READY to systemd, and answers nobody."""
    drop_in = (
        "[Service]\nExecStartPost=/bin/sh -c 'if grep -q config_path /etc/containerd/config.toml; then "
        "kill -STOP $MAINPID; fi'\n"
    )
    node.write(f"/etc/systemd/system/{node.flavour.unit}.d/hang.conf", drop_in)
    node.systemctl("daemon-reload")
    _mirror(node, "http://mirror.test")
    # A runtime that is stopped does not end when it is told to: systemd kills it then.
    node.write(f"/etc/systemd/system/{node.flavour.unit}.d/stop.conf", "[Service]\nTimeoutStopSec=3\n")
    node.systemctl("daemon-reload")
    answer = _apply(node, "--deadline", "10s")
    assert answer.returncode == 1
    assert "after 10 s" in answer.stderr
    assert node.read(CONFIG) == WITHOUT_PATH
    assert CRI(node).wait().answers()


def test_the_host_alone_recovers_a_node_whose_agent_is_dead(node: Node) -> None:
    process = _held(node, "3s")
    assert "config_path" in node.read(CONFIG)
    _kill(node)
    assert node.show(f"{DEAD_MAN}.timer", "NextElapseUSecMonotonic").endswith("s"), "the host has its time"
    # That comes at once, instead of after these 33 seconds.
    node.systemctl("start", "--no-block", f"{DEAD_MAN}.service")
    node.until(lambda: node.read(CONFIG) == WITHOUT_PATH, "the host has put the files back")
    CRI(node).wait()
    process.stop()
    # The next one finds out what happened, and does not try it again.
    answer = _apply(node)
    assert answer.returncode == 1
    assert "the host went back by itself" in answer.stderr
    assert node.read(CONFIG) == WITHOUT_PATH


def _kill(node: Node) -> None:
    """SIGKILL for every process of the program in the node."""
    found = node.run("pgrep", "-f", "registry_mirror").stdout.split()
    assert found
    for pid in found:
        node.run("kill", "-9", pid)


@pytest.mark.parametrize("when", [0.3, 1.0, 3.0, 6.0])
def test_an_agent_that_is_killed_at_some_moment_of_a_restart_goes_on_where_it_was(node: Node, when: float) -> None:
    _mirror(node, "http://mirror.test")
    process = node.process("apply", _command("apply", "--local", "-f", "/root/mirror.yaml", "--deadline", "30s"))
    node.until(lambda: node.path(f"{STATE}/state.json").exists(), "it has begun")
    time.sleep(when)
    node.run("pkill", "-9", "-f", "registry_mirror")
    process.stop()
    _done(_apply(node, "--deadline", "30s"))
    assert "config_path" in node.read(CONFIG)
    assert CRI(node).wait().answers()
    assert "registry-mirror-rollback" not in node.systemctl("list-timers", "--all")
    assert _done(_apply(node)) == ["nothing to do"]


def test_a_power_loss_after_the_restart_of_a_runtime_that_does_not_start(
    place: Workplace, programs: NodePrograms
) -> None:
    """Nobody is there after the boot but the host: no runtime, so no agent. (The node's target lacks timers.)"""
    files = {"/etc/systemd/system/node.target.d/timers.conf": "[Unit]\nWants=registry-mirror-rollback-boot.timer\n"}
    made = Node(
        "power", "containerd24", place, programs, config=WITHOUT_PATH, files=files, hosts={UPSTREAM: place.host}
    )
    with made as node:
        CRI(node).wait()
        _held(node, "1s")
        timer = "/etc/systemd/system/registry-mirror-rollback-boot.timer"
        node.write(timer, node.read(timer).replace("OnBootSec=151", "OnBootSec=1"))
        node.run("sync")
        node.power_cut()
        node.start()
        node.until(lambda: node.read(CONFIG) == WITHOUT_PATH, "the host has put the files back", 180.0)
        CRI(node).wait()
        answer = _apply(node)
        assert answer.returncode == 1
        assert "the host went back by itself" in answer.stderr
        assert not node.path(timer).exists()
