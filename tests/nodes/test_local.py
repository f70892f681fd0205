"""`apply --local` and `restore --local` where the runtime starts later, and what only looks: real nodes.

What docs/operations.md has a node do at its boot is done here to the letter.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from tests.harness.cluster import REPOSITORY, mirror
from tests.harness.cri import CRI
from tests.harness.node import Node
from tests.harness.nodebinaries import NodePrograms
from tests.harness.registries import Registries
from tests.harness.workplace import Workplace
from tests.nodes.hosts import CONFIG, UPSTREAM, WITHOUT_PATH
from tests.nodes.test_restart import STATE

NEEDED = "a restart of the runtime is needed for: config_path of containerd"
OBJECTS = "/root/mirrors.yaml"
PAGE = (REPOSITORY / "docs" / "operations.md").read_text()
PROGRAM = "/opt/registry-mirror/bin/registry-mirror"


@pytest.fixture
def node(place: Workplace, programs: NodePrograms) -> Iterator[Node]:
    """A node at its first boot: containerd is installed, reads no hosts.toml yet, and does not run."""
    known = {UPSTREAM: place.host}
    with Node("first", "containerd24", place, programs, config=WITHOUT_PATH, hosts=known, boot_runtime=False) as made:
        yield made


def run(node: Node, *words: str) -> list[str]:
    answer = node.run(sys.executable, "-m", "registry_mirror.cli.main", *words, timeout=90.0)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout.splitlines()


def apply(node: Node, url: str, *options: str) -> list[str]:
    node.write(OBJECTS, json.dumps(mirror("test", UPSTREAM, url)))
    return run(node, "apply", "--local", "-f", OBJECTS, *options)


def start(node: Node) -> None:
    node.systemctl("start", node.flavour.unit)
    CRI(node).wait()


def test_before_the_first_start_of_the_runtime_nothing_is_restarted_and_that_start_is_enough(
    node: Node, registries: Registries
) -> None:
    found = registries.plain("boot")
    found.push("team/app", "1")
    assert apply(node, found.url)[-1] == NEEDED
    assert "config_path" in node.read(CONFIG)
    start(node)
    CRI(node).pull(f"{UPSTREAM}/team/app:1")
    assert found.requests("/team/app/manifests/1")
    pid = node.runtime_pid
    assert apply(node, found.url) == ["nothing to do"]
    assert node.runtime_pid == pid
    assert "registry-mirror-rollback" not in node.systemctl("list-timers", "--all")


def test_a_dry_run_leaves_nothing_behind_and_sets_nothing_off(node: Node) -> None:
    for words in (("apply", "--local", "-f", OBJECTS), ("restore", "--local")):
        node.write(OBJECTS, json.dumps(mirror("test", UPSTREAM, "http://mirror.test")))
        run(node, *words, "--dry-run")
        assert not node.path(STATE).exists()
    apply(node, "http://mirror.test")
    start(node)
    before = {path.name: path.read_bytes() for path in node.path(STATE).rglob("*") if path.is_file()}
    # A start that nobody has seen through yet: to look at the node is not to begin with that.
    assert apply(node, "http://mirror.test", "--dry-run") == ["nothing changes"]
    assert run(node, "restore", "--local", "--dry-run")[-1] == NEEDED
    assert {path.name: path.read_bytes() for path in node.path(STATE).rglob("*") if path.is_file()} == before
    assert "registry-mirror-rollback" not in node.systemctl("list-timers", "--all")


def test_a_node_that_has_nothing_of_ours_needs_no_runtime_to_be_left_alone(node: Node) -> None:
    node.run("rm", "-r", "/etc/containerd", "/usr/local/bin/containerd", check=False)
    assert run(node, "restore", "--local", "--runtime", "rke2") == ["nothing to put back"]
    assert not node.path(STATE).exists()


def test_a_restore_that_failed_can_be_asked_for_again(node: Node) -> None:
    start(node)
    apply(node, "http://mirror.test")
    drop_in = f"/etc/systemd/system/{node.flavour.unit}.d/refuse.conf"
    script = f"grep -q config_path {CONFIG} || {{ echo this start is refused; exit 1; }}"
    node.write(drop_in, f"[Service]\nExecStartPre=/bin/sh -c '{script}'\n")
    node.systemctl("daemon-reload")
    refused = node.run(sys.executable, "-m", "registry_mirror.cli.main", "restore", "--local", timeout=90.0)
    assert refused.returncode == 1
    assert "this start is refused" in refused.stderr
    assert "config_path" in node.read(CONFIG)
    node.path(drop_in).unlink()
    node.systemctl("daemon-reload")
    assert f"restarted {node.flavour.unit}" in run(node, "restore", "--local")
    assert node.read(CONFIG) == WITHOUT_PATH
    assert not node.path(STATE).exists()


def _later(state: dict[str, Any]) -> None:
    """As a version to come may write it: with more in every place."""
    for part in (state, *state["originals"].values(), *state["edits"].values()):
        part["of_a_later_version"] = ["something"]


def _earlier(state: dict[str, Any]) -> None:
    """As before restarts were there, when an edit could set config_path only, and called it value."""
    for key in ("good", "attempt"):
        state.pop(key, None)
    for edit in state["edits"].values():
        edit["value"] = edit.pop("config_path")


@pytest.mark.parametrize("other", [_later, _earlier])
def test_the_record_of_another_version_is_enough_to_restore(
    node: Node, other: Callable[[dict[str, Any]], None]
) -> None:
    apply(node, "http://mirror.test")
    assert node.read(CONFIG) != WITHOUT_PATH
    state = json.loads(node.read(f"{STATE}/state.json"))
    other(state)
    node.write(f"{STATE}/state.json", json.dumps(state), 0o600)
    run(node, "restore", "--local")
    assert node.read(CONFIG) == WITHOUT_PATH
    assert not node.path(f"/etc/containerd/certs.d/{UPSTREAM}").exists()
    assert not node.path(STATE).exists()


def boot(node: Node) -> list[str]:
    """Write the files of the page's cloud-init, and give the command that it runs, without the program's name."""
    (text,) = re.findall(r"^```yaml\n(#cloud-config\n.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    config: dict[str, Any] = yaml.safe_load(text)
    for file in config["write_files"]:
        node.write(file["path"], file["content"], int(file["permissions"], 8))
    (command,) = config["runcmd"]
    assert command[0] == PROGRAM
    return list(command[1:])


def test_the_first_start_of_k3s_finds_what_cloud_init_wrote(place: Workplace, programs: NodePrograms) -> None:
    with Node("cloud", "k3s", place, programs, boot_runtime=False) as node:
        words = boot(node)
        assert "wrote /etc/rancher/k3s/registries.yaml" in run(node, *words)
        assert "https://mirror.example.com" in node.read(f"{node.flavour.certs}/docker.io/hosts.toml")
        start(node)
        pid = node.runtime_pid
        assert run(node, *words) == ["nothing to do"]
        assert run(node, *words, "--dry-run") == ["nothing changes"]
        assert node.runtime_pid == pid


def test_the_dry_run_on_the_page_is_what_is_printed(node: Node) -> None:
    boot(node)
    node.write(
        CONFIG, WITHOUT_PATH.replace(UPSTREAM, "registry.k8s.io").partition('\n[plugins."io.containerd.cri.v1.run')[0]
    )
    (text,) = re.findall(r"^```console\n\$ registry-mirror (.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    command, *shown = text.splitlines()
    assert run(node, *command.split()) == shown
