"""The template of MicroK8s: found, given our settings, kept through refreshes and crashes, and as it was afterwards."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from registry_mirror.agent import state as memory
from registry_mirror.agent.apply import apply
from registry_mirror.agent.detect import detect
from registry_mirror.agent.host import Host
from registry_mirror.api.errors import InvalidError
from registry_mirror.api.models import RuntimeFacts
from registry_mirror.core.bundle import Bundle, seal
from registry_mirror.core.edits import Edit, HostConfig
from registry_mirror.core.layout import default_facts, layout
from registry_mirror.core.render import render
from registry_mirror.core.resolve import ResolvedMirror
from tests.agent import kills, trees
from tests.agent.test_crash import memory_path
from tests.pure.builders import DATA, USER, endpoint, mirror, pem, tls

__all__ = ["memory_path"]  # a fixture

SNAP = "/var/snap/microk8s"
OLD = (DATA / "microk8s-1.22" / "containerd-template.toml").read_text()
NEW = OLD[: OLD.index("    # mirrors\n")] + '    config_path = "${SNAP_DATA}/args/certs.d"\n'
TABLE = 'plugins."io.containerd.grpc.v1.cri".registry'
HUB = mirror("docker.io", endpoint("https://m.example/hub", credentials=USER, tls=tls(ca=pem("ca-one.crt"))))
QUAY = mirror("quay.io", "https://m.example:8443")
EMPTY = replace(trees.EMPTY, runtime="microk8s")
_MAX_STEPS = 300


def template(revision: str) -> str:
    return f"{SNAP}/{revision}/args/containerd-template.toml"


def put(root: Path, text: str, revision: str = "7") -> None:
    """A node with that template in the revision in use."""
    trees.put(root, template(revision), text, 0o640, (0, 12) if os.geteuid() == 0 else None)
    (root / SNAP[1:] / "common").mkdir(exist_ok=True)
    use(root, revision)


def use(root: Path, revision: str) -> None:
    link = root / SNAP[1:] / "current"
    link.unlink(missing_ok=True)
    link.symlink_to(revision)


def facts(root: Path, version: str = "v1.22.17") -> RuntimeFacts:
    """What the controller works from: what the agent found, with the version that the kubelet says."""
    host = Host(root)
    return replace(detect(host, "microk8s", memory.load(host)), version=version)


def bundle(node: RuntimeFacts, *mirrors: ResolvedMirror) -> Bundle:
    rendered = render(node, mirrors)
    assert rendered.problems == ()
    return seal("microk8s", rendered, (), b"k" * 32)


def go(root: Path, *mirrors: ResolvedMirror, version: str = "v1.22.17") -> None:
    """One pass with these mirrors."""
    host, node = Host(root), facts(root, version)
    apply(host, memory.load(host), bundle(node, *mirrors), node)


def text(root: Path, revision: str = "7") -> str:
    return (root / template(revision)[1:]).read_text()


# ---- detection -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "config_path", "schema"),
    [
        (OLD, "", 2),
        (NEW, f"{SNAP}/7/args/certs.d", 2),
        (
            NEW.replace("version = 2", "version = 3").replace("grpc.v1.cri", "cri.v1.images"),
            f"{SNAP}/7/args/certs.d",
            3,
        ),
        (NEW.replace("${SNAP_DATA}", f"{SNAP}/current"), f"{SNAP}/7/args/certs.d", 2),
        (NEW.replace("${SNAP_DATA}/args", "/etc/containerd"), "/etc/containerd/certs.d", 2),
        (NEW.replace("oom_score = 0", 'imports = ["/x.toml"]'), f"{SNAP}/7/args/certs.d", 0),
    ],
)
def test_the_template_says_which_kind_it_is(tmp_path: Path, content: str, config_path: str, schema: int) -> None:
    put(tmp_path, content)
    expected = replace(
        default_facts("microk8s"), config_path=config_path, config_file=template("7"), config_schema=schema
    )
    assert detect(Host(tmp_path), None) == expected


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("version =", "not TOML"),
        (OLD.replace("version = 2\n", ""), "MicroK8s before 1.19"),
        (OLD.replace("oom_score = 0", 'imports = ["/x.toml"]'), "remove imports"),
        (NEW + f'[{TABLE}.mirrors."x"]\nendpoint = []\n', "mirrors is set"),
        (NEW.replace("${SNAP_DATA}", "${SNAP_COMMON}"), "only ${SNAP_DATA} is known"),
        (NEW.replace("${SNAP_DATA}", "/a:/b"), "one directory"),
        (NEW.replace("${SNAP_DATA}", "/a/.."), "no plain absolute path"),
    ],
)
def test_a_template_that_is_not_understood_is_said(tmp_path: Path, content: str, said: str) -> None:
    put(tmp_path, content)
    with pytest.raises(InvalidError) as refused:
        detect(Host(tmp_path), None)
    assert refused.value.reason == "RuntimeConfigInvalid"
    assert said in refused.value.message


# ---- from the first mirror to the last -------------------------------------------------------------------------------


@pytest.mark.parametrize(("content", "version"), [(OLD, "v1.22.17"), (NEW, "v1.30.1")])
def test_our_settings_are_put_in_with_a_secret_mode_and_all_is_as_it_was_afterwards(
    tmp_path: Path, content: str, version: str
) -> None:
    put(tmp_path, content)
    before = trees.snapshot(tmp_path)
    there = facts(tmp_path, version)
    go(tmp_path, HUB, QUAY, version=version)
    ours = trees.snapshot(tmp_path)[template("7")]
    assert ours[1:4] == (0o600, *before[template("7")][2:4])
    assert b'password = "swordfish"' in ours[4]
    assert (b"m.example:8443" in ours[4]) is (content == OLD)
    # What is ours is no fact of the node: else the next render would be another one.
    assert facts(tmp_path, version) == there
    files = trees.inodes(tmp_path)
    go(tmp_path, HUB, QUAY, version=version)
    assert trees.inodes(tmp_path) == files
    # Without the credential the mode is the owner's again, if there is still something of ours or not.
    go(tmp_path, QUAY, version=version)
    assert trees.snapshot(tmp_path)[template("7")][1] == 0o640
    assert "swordfish" not in text(tmp_path)
    go(tmp_path, version=version)
    assert trees.snapshot(tmp_path) == before
    assert memory.load(Host(tmp_path)).edits == {}


def test_a_mode_that_shows_our_secret_is_drift(tmp_path: Path) -> None:
    put(tmp_path, OLD)
    go(tmp_path, HUB)
    path = tmp_path / template("7")[1:]
    path.chmod(0o644)
    host, node = Host(tmp_path), facts(tmp_path)
    _, outcome = apply(host, memory.load(host), bundle(node, HUB), node)
    assert outcome.repaired == (template("7"),)
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_the_owner_writes_meanwhile_stays(tmp_path: Path) -> None:
    put(tmp_path, OLD)
    go(tmp_path, HUB)
    path = tmp_path / template("7")[1:]
    path.write_text(text(tmp_path).replace("pause:3.1", "pause:3.9") + '[plugins."x"]\n')
    go(tmp_path, QUAY)
    go(tmp_path)
    assert text(tmp_path) == OLD.replace("pause:3.1", "pause:3.9") + '[plugins."x"]\n'
    assert path.stat().st_mode & 0o777 == 0o640


# ---- refreshes of the snap -------------------------------------------------------------------------------------------


def refresh(root: Path, old: str, new: str) -> None:
    """Copy the data of a revision as snapd does, and use it."""
    shutil.copytree(root / SNAP[1:] / old, root / SNAP[1:] / new, symlinks=True)
    use(root, new)


def test_after_a_refresh_our_settings_in_the_copy_are_ours(tmp_path: Path) -> None:
    put(tmp_path, OLD)
    go(tmp_path, HUB)
    refresh(tmp_path, "7", "8")
    go(tmp_path, HUB, QUAY)
    state = memory.load(Host(tmp_path))
    assert list(state.edits) == [template("8")]
    assert state.edits[template("8")].path == template("8")
    assert "quay.io" not in text(tmp_path, "7")
    go(tmp_path)
    assert text(tmp_path, "8") == OLD
    assert (tmp_path / template("8")[1:]).stat().st_mode & 0o777 == 0o640


def test_a_refresh_to_a_release_with_hosts_toml_moves_the_mirrors_there(tmp_path: Path) -> None:
    put(tmp_path, OLD)
    go(tmp_path, HUB, QUAY)
    refresh(tmp_path, "7", "8")
    (tmp_path / template("8")[1:]).write_text(NEW)  # as the hook of the snap does
    go(tmp_path, HUB, QUAY, version="v1.25.3")
    hosts = tmp_path / SNAP[1:] / "8/args/certs.d/docker.io/hosts.toml"
    assert "m.example/hub" in hosts.read_text()
    assert "mirrors" not in text(tmp_path, "8")
    go(tmp_path, version="v1.25.3")
    assert text(tmp_path, "8") == NEW
    assert not hosts.exists()


# ---- crashes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mirrors", [(QUAY,), ()])
def test_killed_before_any_step(memory_path: Path, mirrors: tuple[ResolvedMirror, ...]) -> None:
    for step in range(_MAX_STEPS):
        root = memory_path / str(step)
        put(root, OLD)
        before = trees.snapshot(root)
        go(root, HUB)
        ours = trees.snapshot(root)[template("7")]
        killed = kills.killed(step, lambda _, root=root: go(root, *mirrors))  # type: ignore[misc]
        there = trees.snapshot(root)[template("7")]
        plain = memory_path / f"plain-{step}"
        put(plain, OLD)
        go(plain, HUB)
        go(plain, *mirrors)
        assert there in (ours, trees.snapshot(plain)[template("7")]), step
        assert b"swordfish" not in there[4] or there[1] == 0o600
        go(root, *mirrors)
        assert trees.snapshot(root) == trees.snapshot(plain), step
        go(root)
        assert trees.snapshot(root) == before, step
        shutil.rmtree(root)
        shutil.rmtree(plain)
        if not killed:
            assert step > 10
            return
    pytest.fail("it never came to an end")


# ---- the agent trusts no bundle --------------------------------------------------------------------------------------

_TLS = layout(default_facts("microk8s")).tls


def hostile() -> Iterator[Edit]:
    good = Edit(path=template("7"), config_schema=2)
    yield replace(good, path=f"{SNAP}/7/args/containerd.toml")
    yield replace(good, path=template("6"))
    yield replace(good, config_path="/tmp/certs.d")
    yield replace(good, mirrors={"a]\n[b": ()})
    yield replace(good, mirrors={"../x": ()})
    yield replace(good, mirrors={"quay.io": ("ftp://x",)})
    yield replace(good, mirrors={"quay.io": ("https://x/\n",)})
    yield replace(good, configs={"*": HostConfig(auth={"username": "u"})})
    yield replace(good, configs={"x": HostConfig(auth={"username": "u\nv"})})
    yield replace(good, configs={"x": HostConfig(auth={"auth": "dTp2"})})
    yield replace(good, configs={"x": HostConfig(tls={"ca_file": "/etc/shadow"})})
    yield replace(good, configs={"x": HostConfig(tls={"ca_file": f"{_TLS}/../../x"})})
    yield replace(good, configs={"x": HostConfig(tls={"ca_file": True})})
    yield replace(good, configs={"x": HostConfig(tls={"insecure_skip_verify": "yes"})})
    yield replace(good, configs={"x": HostConfig(tls={"other": True})})
    yield replace(good, configs={"x": HostConfig(auth={"username": "u" * 2_000_000})})


@pytest.mark.parametrize("edit", list(hostile()), ids=range(16))
def test_any_other_edit_is_refused_before_anything_is_touched(tmp_path: Path, edit: Edit) -> None:
    put(tmp_path, OLD)
    host, before = Host(tmp_path), trees.snapshot(tmp_path, state=True)
    with pytest.raises(InvalidError) as refused:
        apply(host, memory.load(host), replace(EMPTY, revision="bad", edits=(edit,)), facts(tmp_path))
    assert refused.value.reason == "BundleRefused"
    assert trees.snapshot(tmp_path, state=True) == before


@pytest.mark.parametrize(
    "edit",
    [
        Edit(path=template("7"), config_schema=2, mirrors={"quay.io": ()}),
        Edit(path=template("7"), config_schema=2, configs={"x": HostConfig(tls={"insecure_skip_verify": True})}),
    ],
)
def test_what_containerd_would_not_start_with_is_refused_too(tmp_path: Path, edit: Edit) -> None:
    put(tmp_path, NEW)
    host, before = Host(tmp_path), trees.snapshot(tmp_path, state=True)
    with pytest.raises(InvalidError) as refused:
        apply(host, memory.load(host), replace(EMPTY, revision="bad", edits=(edit,)), facts(tmp_path))
    assert refused.value.reason == "BundleRefused"
    assert trees.snapshot(tmp_path, state=True) == before
