"""config_path set in containerd's own configuration: once, safely, asked to be restarted for, and taken out again."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest
from msgspec.structs import replace

from registry_mirror.agent import state as memory
from registry_mirror.agent.apply import apply
from registry_mirror.agent.detect import detect
from registry_mirror.agent.host import Host, HostError
from registry_mirror.api.errors import InvalidError
from registry_mirror.api.models import RuntimeFacts
from registry_mirror.core.bundle import Bundle, File
from registry_mirror.core.edits import Edit, HostConfig
from registry_mirror.core.layout import default_facts
from tests.agent import trees
from tests.agent.test_node import Pass

TOML, CERTS = "/etc/containerd/config.toml", "/etc/containerd/certs.d"
SOCKET = "/run/containerd/containerd.sock"
HOSTS = f"{CERTS}/quay.io/hosts.toml"
TABLE = 'plugins."io.containerd.grpc.v1.cri".registry'
BEFORE = f'# mine\nversion = 2\n[{TABLE}]\n  config_path = ""\n'
AFTER = f'# mine\nversion = 2\n[{TABLE}]\n  config_path = "{CERTS}"\n'
EDIT = Edit(path=TOML, config_schema=2, config_path=CERTS)
WANTED = Bundle(
    revision="set",
    runtime="containerd",
    files=(File(path=HOSTS, content="hosts"),),
    start_settings={"config_path of containerd": "d"},
    edits=(EDIT,),
)
EMPTY = Bundle(revision="empty", runtime="containerd", files=())
FACTS = replace(default_facts("containerd"), config_path="", config_schema=2)


@pytest.fixture
def node(tmp_path: Path) -> Pass:
    """A node whose containerd has no config_path."""
    trees.put(tmp_path, TOML, BEFORE, 0o640, (0, 12) if os.geteuid() == 0 else None)
    trees.put(tmp_path, SOCKET)
    return Pass(tmp_path)


def text(node: Pass) -> str:
    return (node.root / TOML[1:]).read_text()


def facts(node: Pass) -> RuntimeFacts:
    host = Host(node.root)
    return detect(host, None, memory.load(host))


def restart(node: Pass) -> None:
    socket = node.root / SOCKET[1:]
    later = socket.stat().st_mtime_ns + 3_600_000_000_000
    os.utime(socket, ns=(later, later))


def test_it_is_set_with_mode_and_owner_and_waits_for_a_start_and_goes_to_the_byte(node: Pass) -> None:
    before = trees.snapshot(node.root)
    assert facts(node) == FACTS
    node.want(WANTED)
    said = node.go()
    assert (said["Applied"].reason, said["RestartRequired"].status) == ("Applied", "True")
    assert "config_path of containerd" in said["RestartRequired"].message
    assert text(node) == AFTER
    there = trees.snapshot(node.root)[TOML]
    assert there[:4] == before[TOML][:4]
    # What we set is no fact of the node: else the next render would be another one.
    assert node.config.status.runtime == facts(node) == FACTS
    restart(node)
    assert node.go()["RestartRequired"].status == "False"
    files = trees.inodes(node.root)
    node.go()
    assert trees.inodes(node.root) == files
    node.want(EMPTY)
    assert node.go()["RestartRequired"].status == "True"
    assert trees.snapshot(node.root) == before
    state = memory.load(Host(node.root))
    assert (state.edits, state.originals) == ({}, {})


def test_what_the_owner_changes_in_between_stays(node: Pass) -> None:
    node.want(WANTED)
    node.go()
    (node.root / TOML[1:]).write_text(AFTER + "oom_score = 1\n")
    assert node.go()["Drifted"].reason == "NoDrift"
    node.want(EMPTY)
    node.go()
    assert text(node) == BEFORE + "oom_score = 1\n"


def test_our_line_comes_back_if_something_else_takes_it_out(node: Pass) -> None:
    node.want(WANTED)
    node.go()
    (node.root / TOML[1:]).write_text(BEFORE)
    assert TOML in node.go()["Drifted"].message
    assert text(node) == AFTER


def test_a_credential_is_put_beside_it_and_read_by_root_alone(node: Pass) -> None:
    before = trees.snapshot(node.root)
    auth = HostConfig(auth={"username": "robot", "password": "swordfish"})
    node.want(replace(WANTED, revision="secret", edits=(replace(EDIT, configs={"m.example": auth}),)))
    said = node.go()
    assert said["Applied"].reason == "Applied"
    assert tomllib.loads(text(node))["plugins"]["io.containerd.grpc.v1.cri"]["registry"] == {
        "config_path": CERTS,
        "configs": {"m.example": {"auth": {"username": "robot", "password": "swordfish"}}},
    }
    there = trees.snapshot(node.root)[TOML]
    assert there[1:4] == (0o600, *before[TOML][2:4])
    assert "swordfish" not in f"{node.config.status} {memory.load(Host(node.root))} {said}"
    assert (node.root / trees.STATE[1:]).stat().st_mode & 0o777 == 0o600
    node.want(WANTED)
    node.go()
    assert text(node) == AFTER
    node.want(EMPTY)
    node.go()
    assert trees.snapshot(node.root) == before


def test_credentials_that_the_owner_has_for_a_host_are_not_touched(node: Pass) -> None:
    theirs = f'{BEFORE}[{TABLE}.configs."m.example".auth]\nusername = "canary"\n'
    (node.root / TOML[1:]).write_text(theirs)
    auth = HostConfig(auth={"username": "robot", "password": "swordfish"})
    node.want(replace(WANTED, edits=(replace(EDIT, configs={"m.example": auth}),)))
    said = node.go()["Stalled"]
    assert said.reason == "RuntimeConfigInvalid"
    assert '"m.example".auth is set in it, to something else' in said.message
    assert "canary" not in said.message
    assert text(node) == theirs


def test_a_config_path_that_the_owner_sets_is_a_fact_and_stays(node: Pass) -> None:
    node.want(WANTED)
    node.go()
    (node.root / TOML[1:]).write_text(AFTER.replace(CERTS, "/mine"))
    assert facts(node) == replace(FACTS, config_path="/mine")
    node.want(EMPTY)
    node.go()
    assert 'config_path = "/mine"' in text(node)


def test_mirrors_that_the_owner_adds_are_said_and_nothing_is_touched(node: Pass) -> None:
    node.want(WANTED)
    node.go()
    (node.root / TOML[1:]).write_text(f'{AFTER}[{TABLE}.mirrors."x"]\nendpoint = []\n')
    before = trees.snapshot(node.root)
    said = node.go()
    assert (said["Stalled"].status, said["Stalled"].reason) == ("True", "RuntimeConfigInvalid")
    assert "mirrors is set" in said["Stalled"].message
    assert trees.snapshot(node.root) == before


def test_a_file_that_is_broken_is_left_alone_and_said(node: Pass) -> None:
    node.want(WANTED)
    node.go()
    (node.root / TOML[1:]).write_text("version =")
    assert node.go()["Stalled"].reason == "ConfigNotEditable"
    assert text(node) == "version ="


def test_a_crash_before_the_edit_loses_nothing(node: Pass, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(node.root)
    stage = Host.stage

    def fails(self: Host, path: str, *rest: object) -> object:
        if path == TOML:
            raise HostError("WriteFailed", "no space")
        return stage(self, path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Host, "stage", fails)
    with pytest.raises(HostError):
        apply(host, memory.load(host), WANTED, FACTS)
    monkeypatch.undo()
    assert text(node) == BEFORE
    assert facts(node) == FACTS
    apply(host, memory.load(host), WANTED, facts(node))
    assert text(node) == AFTER
    apply(host, memory.load(host), EMPTY, facts(node))
    assert text(node) == BEFORE


@pytest.mark.parametrize(
    "edit",
    [
        replace(EDIT, path="/etc/containerd/other.toml"),
        replace(EDIT, path="/etc/shadow"),
        replace(EDIT, config_path="/tmp/certs.d"),
    ],
)
def test_any_other_edit_is_refused_and_so_is_one_of_a_node_that_has_config_path(node: Pass, edit: Edit) -> None:
    host, before = Host(node.root), trees.snapshot(node.root, state=True)
    for bad, of in (
        (replace(WANTED, edits=(edit,)), FACTS),
        (replace(WANTED, edits=(EDIT, EDIT)), FACTS),
        (WANTED, default_facts("containerd")),
    ):
        with pytest.raises(InvalidError) as refused:
            apply(host, memory.load(host), bad, of)
        assert refused.value.reason == "BundleRefused"
    assert trees.snapshot(node.root, state=True) == before


def test_a_file_that_cannot_take_it_any_more_stops_everything_before_the_first_write(node: Pass) -> None:
    host = Host(node.root)
    (node.root / TOML[1:]).write_text("version = 3\n")
    before = trees.snapshot(node.root, state=True)
    with pytest.raises(InvalidError, match="neither 2 nor 3"):
        apply(host, memory.load(host), WANTED, FACTS)
    assert trees.snapshot(node.root, state=True) == before


def test_a_file_that_its_owner_removed_stays_removed(node: Pass) -> None:
    node.want(WANTED)
    node.go()
    (node.root / TOML[1:]).unlink()
    host = Host(node.root)
    apply(host, memory.load(host), EMPTY, facts(node))
    assert not (node.root / TOML[1:]).exists()
