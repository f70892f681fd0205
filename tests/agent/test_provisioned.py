"""Nodes on which Rancher or Harvester writes registries.yaml: nothing of ours goes there, and what is theirs stays.

The files are those that Rancher's plan has (rancher pkg/capr/planner/config.go, addConfigFile): JSON, with a token.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from registry_mirror.agent import state as memory
from registry_mirror.agent.host import Host
from registry_mirror.api.conditions import Condition
from registry_mirror.core.bundle import Bundle, File
from registry_mirror.core.layout import MARK, default_facts
from tests.agent import trees
from tests.agent.test_node import SOCKET, Pass
from tests.agent.trees import EMPTY, REGISTRIES, TLS, bundle, hosts

CONFIG = "/etc/rancher/k3s/config.yaml"
RANCHER = f"{CONFIG}.d/50-rancher.yaml"
OURS, THEIRS = f"{MARK}: x\nmirrors: {{}}\n", '{"configs":{},"mirrors":{}}'
ONE = bundle("one", {f"{TLS}/ca-1.crt": "1", hosts("docker.io"): "d", REGISTRIES: OURS}, {"credentials": "1"})
TWO = bundle("two", {hosts("docker.io"): "d 2", REGISTRIES: f"{OURS}# 2"}, {"credentials": "2"})
OBJECTS = """\
apiVersion: registrymirror.io/v1alpha1
kind: RegistryMirror
metadata: {name: docker-hub}
spec: {registry: docker.io, endpoints: [{url: "https://mirror.example.com"}]}
"""


def _plan(root: Path, registries: str = THEIRS, runtime: str = "k3s") -> None:
    """What rancher-system-agent writes, in its order."""
    folder = f"/etc/rancher/{runtime}"
    trees.put(root, f"{folder}/registries.yaml", registries, 0o600)
    settings = {"node-label": ["a=b"], "private-registry": f"{folder}/registries.yaml", "token": "hunter2"}
    trees.put(root, f"{folder}/config.yaml.d/50-rancher.yaml", json.dumps(settings, indent=2), 0o600)


@pytest.fixture
def node(tmp_path: Path) -> Pass:
    """A K3s node that has been given nothing yet."""
    trees.put(tmp_path, SOCKET)
    trees.put(tmp_path, CONFIG)
    return Pass(tmp_path)


def _refused(node: Pass) -> Condition:
    """One pass that touches nothing and says so; gives why."""
    before = trees.snapshot(node.root, state=True)
    found = node.go()
    after = trees.snapshot(node.root, state=True)
    after.pop(f"{memory.DIRECTORY}/state.json", None)
    before.pop(f"{memory.DIRECTORY}/state.json", None)
    assert after == before
    assert (found["Applied"].status, found["Applied"].reason) == ("False", "ProvisionedElsewhere")
    assert (found["Stalled"].status, found["Stalled"].reason) == ("True", "ProvisionedElsewhere")
    assert "hunter2" not in found["Stalled"].message
    return found["Stalled"]


@pytest.mark.parametrize("registries", [THEIRS, ""])  # empty: the cluster has no registries in Rancher
def test_a_node_of_rancher_is_left_alone(node: Pass, registries: str) -> None:
    _plan(node.root, registries)
    assert node.go()["Stalled"].status == "False"  # nothing has been asked for yet
    node.want(ONE)
    message = _refused(node).message
    assert f"{RANCHER}: Rancher writes {REGISTRIES}" in message
    assert "spec.rkeConfig.registries" in message
    assert "spec.nodeSelector" in message


def test_a_node_of_harvester_is_left_alone(tmp_path: Path) -> None:
    _plan(tmp_path, runtime="rke2")
    trees.put(tmp_path, "/etc/rancher/rke2/config.yaml.d/91-harvester-cdi.yaml", "nonroot-devices: true")
    node = Pass(tmp_path)
    facts = default_facts("rke2")
    node.want(Bundle(revision="r", runtime="rke2", files=(File(path=facts.registries_file, content=OURS),)))
    assert "Harvester's setting containerd-registry" in _refused(node).message


@pytest.mark.parametrize(
    ("path", "content"),
    [
        (RANCHER, '{"cluster-init": "true"}'),  # rancherd's, before there is a cluster
        (RANCHER, '{"server": "https://10.0.0.1:9345"}'),  # Rancher before 2.7.5, a cluster without registries
        (RANCHER, '{"private-registry": ""}'),
        (RANCHER, '{"private-registry": null}'),
        (RANCHER, '{"private-registry": "/etc/rancher/rke2/registries.yaml"}'),
        (RANCHER, ""),
        (f"{CONFIG}.d/40-rancherd.yaml", "token: hunter2"),
        (CONFIG, f"private-registry: {REGISTRIES}"),  # a person's
        ("/etc/rancher/agent/config.yaml", "remoteEnabled: true"),  # the agent of a cluster that was only imported
    ],
)
def test_where_nobody_else_writes_it_the_node_is_ours(node: Pass, path: str, content: str) -> None:
    trees.put(node.root, path, content)
    if '"/etc/rancher/rke2' in content:  # what Rancher writes is not what is read
        trees.put(node.root, f"{CONFIG}.d/60-own.yaml", f"private-registry: {REGISTRIES}")
    node.want(ONE)
    assert node.go()["Applied"].status == "True"
    assert (node.root / REGISTRIES[1:]).read_text() == OURS


def test_another_file_that_the_runtime_reads_is_ours(node: Pass) -> None:
    _plan(node.root)
    own = "/etc/rancher/k3s/own.yaml"
    trees.put(node.root, f"{CONFIG}.d/99-own.yaml", f"private-registry: {own}")
    node.want(bundle("own", {hosts("docker.io"): "d", own: OURS}))
    assert node.go()["Applied"].status == "True"
    assert (node.root / REGISTRIES[1:]).read_text() == THEIRS


def test_what_cannot_be_read_is_not_written_over(node: Pass) -> None:
    trees.put(node.root, RANCHER, "{")
    node.want(ONE)
    assert node.go()["Stalled"].reason == "RuntimeConfigInvalid"
    assert not (node.root / REGISTRIES[1:]).exists()


def test_a_tool_that_comes_later_is_not_fought(node: Pass) -> None:
    trees.put(node.root, REGISTRIES, "before", 0o640)
    node.want(ONE)
    assert node.go()["Applied"].status == "True"
    _plan(node.root)
    _refused(node)
    node.want(TWO)
    for _ in range(4):
        _refused(node)
    assert (node.root / REGISTRIES[1:]).read_text() == THEIRS


def test_an_excluded_node_keeps_the_file_of_the_tool_and_nothing_of_ours(node: Pass) -> None:
    trees.put(node.root, REGISTRIES, "before", 0o640)
    node.want(ONE)
    node.go()
    os.utime(node.root / SOCKET[1:], ns=(2**61, 2**61))
    node.go()
    _plan(node.root)
    theirs = trees.snapshot(node.root)[REGISTRIES]
    node.want(EMPTY)
    for _ in range(3):
        assert node.go()["Stalled"].status == "False"
        assert trees.snapshot(node.root)[REGISTRIES] == theirs
        assert not (node.root / hosts("docker.io")[1:]).exists()
        # What the runtime read at its start may name the CA file: until another start, that stays.
        assert (node.root / f"{TLS}/ca-1.crt"[1:]).exists()
        assert node.node.pause is None
    os.utime(node.root / SOCKET[1:], ns=(2**62, 2**62))
    node.go()
    until = time.monotonic() + 60.0
    while node.node.pause is not None and time.monotonic() < until:
        time.sleep(0.1)
        node.go()
    assert trees.snapshot(node.root)[REGISTRIES] == theirs
    assert not (node.root / f"{TLS}/ca-1.crt"[1:]).exists()
    assert memory.load(Host(node.root)).originals == {}


def test_what_is_still_ours_is_put_back_as_it_was(node: Pass) -> None:
    before = trees.put(node.root, REGISTRIES, "before", 0o640)
    node.want(ONE)
    node.go()
    _plan(node.root, OURS)
    node.want(EMPTY)
    assert node.go()["Applied"].status == "True"
    assert before.read_text() == "before"


def test_no_rollback_brings_ours_back_over_it(node: Pass) -> None:
    node.want(ONE)
    node.go()
    os.utime(node.root / SOCKET[1:], ns=(2**62, 2**62))
    node.want(TWO)
    node.go()
    good = memory.load(Host(node.root)).good
    assert good is not None
    assert REGISTRIES in good.files
    _plan(node.root)
    node.want(EMPTY)
    node.go()
    state = memory.load(Host(node.root))
    assert state.good is not None
    copy = Host(node.root).read(state.good.files[REGISTRIES].copy)
    assert copy is not None
    assert copy.content == THEIRS.encode()
    assert state.good.originals[REGISTRIES].copy


def test_a_node_that_the_tool_has_left_is_ours_again(node: Pass) -> None:
    _plan(node.root)
    node.want(ONE)
    _refused(node)
    trees.put(node.root, RANCHER, '{"node-label": ["a=b"]}')
    assert node.go()["Applied"].status == "True"


def _run(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "registry_mirror", *words, "--local", "--root", str(root), "--runtime", "k3s"]
    return subprocess.run(command, input=OBJECTS, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("words", [("apply", "-f", "-"), ("apply", "-f", "-", "--dry-run")])
def test_apply_local_refuses(tmp_path: Path, words: tuple[str, ...]) -> None:
    _plan(tmp_path)
    before = trees.snapshot(tmp_path)
    done = _run(tmp_path, *words)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"Rancher writes {REGISTRIES}" in done.stderr
    assert "hunter2" not in done.stderr
    assert trees.snapshot(tmp_path) == before


def test_restore_local_leaves_the_file_of_the_tool(tmp_path: Path) -> None:
    trees.put(tmp_path, REGISTRIES, "before")
    assert _run(tmp_path, "apply", "-f", "-").returncode == 0
    _plan(tmp_path)
    before = trees.inodes(tmp_path)
    said = _run(tmp_path, "restore", "--dry-run").stdout
    assert trees.inodes(tmp_path) == before
    assert REGISTRIES not in said
    assert hosts("docker.io") in said
    assert _run(tmp_path, "restore").returncode == 0
    assert (tmp_path / REGISTRIES[1:]).read_text() == THEIRS
    assert not (tmp_path / hosts("docker.io")[1:]).exists()
