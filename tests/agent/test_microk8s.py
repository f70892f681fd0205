"""A refresh of MicroK8s copies our files with everything else: they must not become somebody's originals."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from registry_mirror.agent import state as memory
from registry_mirror.agent.apply import apply
from registry_mirror.agent.host import Host
from registry_mirror.api.errors import InvalidError, WaitingError
from registry_mirror.api.models import RuntimeFacts
from registry_mirror.core.bundle import Bundle
from registry_mirror.core.layout import MARK, default_facts
from tests.agent import trees

SNAP = "/var/snap/microk8s"
DEFAULT = 'server = "https://docker.io"\n'
CA = f"{SNAP}/common/registry-mirror/ca-0.crt"


def facts(revision: str) -> RuntimeFacts:
    return replace(default_facts("microk8s"), config_path=f"{SNAP}/{revision}/args/certs.d")


def hosts(revision: str, registry: str) -> str:
    return f"{SNAP}/{revision}/args/certs.d/{registry}/hosts.toml"


def bundle(revision: str, *registries: str) -> Bundle:
    """What the controller would render for that revision of the snap."""
    files = {CA: "ca"} if registries else {}
    files |= {hosts(revision, registry): f"{MARK}\nserver = {registry!r}\n" for registry in registries}
    return replace(trees.bundle(f"for-{revision}-{len(registries)}", files), runtime="microk8s")


class Snap:
    """A node with MicroK8s on which docker.io and quay.io were made ours."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.host = Host(root)
        trees.put(root, hosts("7", "docker.io"), DEFAULT)
        (root / SNAP[1:] / "common").mkdir()
        self.apply("7", "docker.io", "quay.io")

    def apply(self, revision: str, *registries: str) -> None:
        """One pass."""
        apply(self.host, memory.load(self.host), bundle(revision, *registries), facts(revision))

    def refresh(self, old: str, new: str) -> None:
        """Copy the data of a revision as snapd does."""
        shutil.copytree(self.root / SNAP[1:] / old, self.root / SNAP[1:] / new)

    def text(self, path: str) -> str | None:
        """What a file holds, or None."""
        where = self.root / path[1:]
        return where.read_text() if where.exists() else None


@pytest.fixture
def snap(tmp_path: Path) -> Snap:
    return Snap(tmp_path)


def test_after_a_refresh_the_end_is_as_if_there_had_been_none(snap: Snap) -> None:
    snap.refresh("7", "8")
    snap.apply("8", "docker.io", "quay.io")
    assert snap.text(hosts("8", "quay.io")) == snap.text(hosts("7", "quay.io"))
    snap.apply("8")
    assert snap.text(hosts("8", "docker.io")) == DEFAULT
    assert not (snap.root / hosts("8", "quay.io")[1:]).parent.exists()
    assert not (snap.root / CA[1:]).parent.exists()
    assert memory.load(snap.host).originals == {}


def test_the_old_revision_is_left_to_snapd_there_or_gone(snap: Snap) -> None:
    snap.refresh("7", "8")
    before = snap.text(hosts("7", "docker.io"))
    snap.apply("8", "docker.io", "quay.io")
    assert snap.text(hosts("7", "docker.io")) == before
    snap.refresh("8", "9")
    for old in ("7", "8"):
        shutil.rmtree(snap.root / SNAP[1:] / old)
    snap.apply("9", "quay.io")
    snap.apply("9")
    assert snap.text(hosts("9", "docker.io")) == DEFAULT
    assert sorted(path.name for path in (snap.root / SNAP[1:]).iterdir()) == ["9", "common"]


def test_a_revert_goes_back_to_files_that_are_still_ours(snap: Snap) -> None:
    snap.refresh("7", "8")
    snap.apply("8", "docker.io", "quay.io")
    snap.apply("7", "docker.io", "quay.io")
    snap.apply("7")
    assert snap.text(hosts("7", "docker.io")) == DEFAULT
    assert snap.text(hosts("7", "quay.io")) is None


def test_what_is_not_ours_in_the_new_revision_is_kept_as_any_original(snap: Snap) -> None:
    trees.put(snap.root, hosts("8", "docker.io"), "another default")
    snap.apply("8", "docker.io", "quay.io")
    snap.apply("8")
    assert snap.text(hosts("8", "docker.io")) == "another default"


def test_until_the_controller_renders_for_the_new_revision_it_is_waited_for(snap: Snap) -> None:
    snap.refresh("7", "8")
    before = trees.snapshot(snap.root, state=True)
    with pytest.raises(WaitingError) as waiting:
        apply(snap.host, memory.load(snap.host), bundle("7", "docker.io", "quay.io"), facts("8"))
    assert waiting.value.reason == "RuntimeMoved"
    # A bundle that was never good is still refused.
    with pytest.raises(InvalidError) as refused:
        apply(snap.host, memory.load(snap.host), bundle("7", "docker.io"), facts("8"))
    assert refused.value.reason == "BundleRefused"
    assert trees.snapshot(snap.root, state=True) == before


@pytest.mark.parametrize("again", [False, True])
def test_a_crash_in_the_first_pass_after_a_refresh_loses_no_original(
    snap: Snap, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    snap.refresh("7", "8")
    (snap.root / hosts("8", "quay.io")[1:]).write_text(f"{MARK}\nchanged")
    saved: Callable[..., None] = memory.save
    calls = iter([again])

    def save(host: Host, state: memory.State) -> None:
        if not next(calls, False):
            raise KeyboardInterrupt
        saved(host, state)

    monkeypatch.setattr(memory, "save", save)
    with pytest.raises(KeyboardInterrupt):
        snap.apply("8", "docker.io", "quay.io")
    monkeypatch.undo()
    snap.apply("8", "docker.io", "quay.io")
    snap.apply("8")
    assert snap.text(hosts("8", "docker.io")) == DEFAULT
    assert snap.text(hosts("8", "quay.io")) is None
