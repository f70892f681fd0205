"""What goes wrong around the agent on a real node: others that write its files, a service manager that answers nobody,
and power that goes while the runtime is being restarted.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.cri import CRI
from tests.harness.node import Node
from tests.harness.nodebinaries import NodePrograms
from tests.harness.workplace import Workplace
from tests.nodes.hosts import UPSTREAM

_REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = "/etc/containerd/config.toml"
HOSTS = f"/etc/containerd/certs.d/{UPSTREAM}/hosts.toml"
REPORTS = "/root/reports"
_SOON = 30.0
_OBJECTS = f"""\
apiVersion: registrymirror.io/v1alpha1
kind: RegistryMirror
metadata:
  name: test
spec:
  registry: {UPSTREAM}
  endpoints:
  - url: http://mirror.test
"""
# To set config_path takes a restart.
_WITHOUT_PATH = "version = 3\n"
_REFUSE = """\
[Unit]
StartLimitIntervalSec=0
[Service]
RestartSec=4
ExecStartPre=/bin/sh -c 'if grep -q config_path /etc/containerd/config.toml; then exit 1; fi'
"""
# A bus that accepts and never says a word; `systemctl` hangs on it as the agent would.
_SILENT = """
import os, socket, sys, time
path = sys.argv[1]
os.rename(path, path + ".real")
server = socket.socket(socket.AF_UNIX)
server.bind(path)
server.listen(100)
kept = []
while True:
    kept.append(server.accept())
"""


@pytest.fixture
def node(place: Workplace, programs: NodePrograms) -> Iterator[Node]:
    """A node whose containerd reads hosts.toml only after a restart."""
    with Node("faults", "containerd24", place, programs, config=_WITHOUT_PATH) as node:
        CRI(node).wait()
        node.write("/root/objects.yaml", _OBJECTS)
        yield node


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "registry_mirror.cli.main", *words]


def _apply(node: Node, *options: str) -> tuple[int, str]:
    answer = node.run(*_command("apply", "--local", "-f", "/root/objects.yaml", *options), timeout=120.0)
    assert "Traceback" not in answer.stderr
    return answer.returncode, answer.stdout + answer.stderr


def _said(node: Node) -> dict[str, tuple[str, str]]:
    path = node.path(REPORTS)
    if not path.exists() or not (lines := path.read_text().splitlines()):
        return {}
    return {item["type"]: (item["status"], item["reason"]) for item in json.loads(lines[-1])["conditions"]}


def _until_record(node: Node, text: str) -> None:
    """Wait until the agent's record has that."""
    state = node.path("/var/lib/registry-mirror/state.json")
    node.until(lambda: state.exists() and text in state.read_text(), f"the record has {text}", 60.0)


def _is_whole(node: Node) -> None:
    """The change is in force, and nothing of the way there is left."""
    assert "config_path" in node.read(CONFIG)
    assert "mirror.test" in node.read(HOSTS)
    assert CRI(node).wait().answers()
    assert "registry-mirror-rollback" not in node.systemctl("list-timers")
    assert not list(node.path("/etc/systemd/system").rglob("registry-mirror-*"))
    assert _apply(node) == (0, "nothing to do\n")


def test_what_others_write_is_put_right_at_once_and_left_to_them_after_three_times(new_node: Node) -> None:
    node = new_node
    node.write("/root/objects.yaml", _OBJECTS)
    argv = [sys.executable, "-m", "tests.nodes.looping", "/root/objects.yaml", "containerd", REPORTS]
    agent = node.process("agent", argv, {"PYTHONPATH": str(_REPOSITORY)})
    node.until(lambda: _said(node).get("Applied") == ("True", "Applied"), "it is applied", 30.0)
    ours, pid = node.read(HOSTS), node.runtime_pid
    changes = (
        lambda: node.path(HOSTS).write_text("theirs"),
        lambda: node.path(HOSTS).unlink(),
        lambda: node.write(HOSTS, 'server = "https://elsewhere.test"\n'),
    )
    for change in changes:
        change()
        node.until(lambda: node.path(HOSTS).exists() and node.read(HOSTS) == ours, "it is put right", _SOON)
        node.until(lambda: _said(node)["Drifted"] == ("False", "Repaired"), "it is told of", _SOON)
    node.write(HOSTS, "theirs again\n")
    node.until(lambda: _said(node)["Drifted"] == ("True", "CoOwned"), "it is told that there is another owner", _SOON)
    assert node.read(HOSTS) == "theirs again\n"
    assert node.runtime_pid == pid
    agent.stop()


def test_a_service_manager_that_never_answers_holds_up_the_restart_and_nothing_else(node: Node) -> None:
    pid = node.runtime_pid
    for path in ("/run/dbus/system_bus_socket", "/run/systemd/private"):
        node.process(f"silent-{path.count('/')}", [sys.executable, "-c", _SILENT, path])
        node.until(lambda path=path: node.path(f"{path}.real").exists() and node.path(path).exists(), path)  # type: ignore[misc]
    began = time.monotonic()
    code, text = _apply(node)
    assert code == 1
    assert "did not answer within 10 s" in text
    assert time.monotonic() - began < 60.0
    for path in ("/run/dbus/system_bus_socket", "/run/systemd/private"):
        node.run("mv", f"{path}.real", path, check=True)
    assert node.runtime_pid == pid
    assert CRI(node).answers()
    assert _apply(node)[0] == 0
    _is_whole(node)


@pytest.mark.parametrize("when", ["the change is written", "the restart is ordered"])
def test_power_that_goes_amid_a_restart(node: Node, when: str) -> None:
    process = node.process("apply", _command("apply", "--local", "-f", "/root/objects.yaml"))
    _until_record(node, '"phase":"Restarting"' if "restart" in when else '"revision":')
    node.power_cut()
    process.stop()
    node.start()
    CRI(node).wait()
    assert _apply(node)[0] == 0
    _is_whole(node)


def test_power_that_goes_amid_a_restart_with_what_no_start_survives(place: Workplace, programs: NodePrograms) -> None:
    """The agent that comes later finds the runtime down, and goes back; the dead-man that was kept takes longer."""
    with Node("power", "containerd24", place, programs, config=_WITHOUT_PATH, boot_runtime=False) as node:
        node.write("/root/objects.yaml", _OBJECTS)
        node.write(f"/etc/systemd/system/{node.flavour.unit}.d/refuse.conf", _REFUSE)
        node.systemctl("daemon-reload")
        node.systemctl("enable", "--now", node.flavour.unit)
        CRI(node).wait()
        process = node.process("apply", _command("apply", "--local", "-f", "/root/objects.yaml", "--deadline", "10s"))
        _until_record(node, '"phase":"Restarting"')
        node.power_cut()
        process.stop()
        node.start()
        node.until(lambda: node.show(node.flavour.unit, "NRestarts") != "0", "it is tried again and again")
        assert "config_path" in node.read(CONFIG)
        code, text = _apply(node)
        assert code == 1
        assert "the node is back on revision none" in text
        assert node.read(CONFIG) == _WITHOUT_PATH
        assert not node.path(HOSTS).exists()
        assert CRI(node).wait().answers()
