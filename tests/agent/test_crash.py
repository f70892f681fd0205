"""SIGKILL before every step that changes the disk: nothing is ever half done, and the next run finishes or undoes it.

The run is a forked child that counts its own steps (audit events of the interpreter, and fsync) and kills itself. The
trees are in memory where that is possible: power loss is not the subject here, and hundreds of fsyncs are slow.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from msgspec.structs import replace

from registry_mirror.agent import state as memory
from registry_mirror.agent.apply import Outcome, apply
from registry_mirror.agent.files import is_temporary
from registry_mirror.agent.host import Host
from registry_mirror.core.bundle import Bundle
from tests.agent import kills, trees
from tests.agent.case import NEW, OLD
from tests.agent.trees import EMPTY, REGISTRIES, hosts

_MAX_STEPS = 400

BUNDLES = {"nothing": None, "old": OLD, "new": NEW, "empty": EMPTY}


@pytest.fixture
def memory_path(tmp_path: Path) -> Iterator[Path]:
    """A directory, in memory if there is one."""
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK):
        yield tmp_path
        return
    where = Path(tempfile.mkdtemp(prefix="registry-mirror-test-", dir=shared))
    yield where
    shutil.rmtree(where)


def _apply(root: Path, wanted: Bundle) -> Outcome:
    host = Host(root)
    return apply(host, memory.load(host), wanted, trees.K3S)[1]


def _begin(root: Path, first: Bundle | None) -> dict[str, trees.Entry]:
    """A node with files of its own, then with those of the first bundle; gives what was there at the beginning."""
    trees.put(root, REGISTRIES, "theirs", 0o640)
    trees.put(root, hosts("docker.io"), "theirs too", 0o644)
    trees.put(root, f"{trees.CERTS}/other.io/hosts.toml", "not ours")
    found = trees.snapshot(root)
    if first is not None:
        _apply(root, first)
    return found


def _never_torn(root: Path, ends: list[dict[str, trees.Entry]]) -> None:
    """Every file outside the agent's directory is as before, as after, or as the originals were; no directory of a
    registry is to be seen without its hosts.toml.
    """
    for path, entry in trees.snapshot(root).items():
        if is_temporary(path):
            continue
        if entry[0] == "file":
            assert entry in [end[path] for end in ends if path in end], path
        if os.path.dirname(path) == trees.CERTS:
            assert (root / path[1:] / "hosts.toml").is_file(), path


def _record(root: Path) -> memory.State:
    return replace(memory.load(Host(root)), written_at=0)


@dataclass
class Plain:
    """How it ends if nobody is killed."""

    tree: dict[str, trees.Entry]
    record: memory.State


def _plain(root: Path, first: Bundle | None, last: Bundle) -> Plain:
    _begin(root, first)
    _apply(root, last)
    return Plain(trees.snapshot(root), _record(root))


@pytest.mark.parametrize(("first", "then"), [("nothing", "old"), ("old", "new"), ("old", "empty")])
@pytest.mark.parametrize("last", ["the same", "new", "old", "empty"])
def test_killed_before_any_step(memory_path: Path, first: str, then: str, last: str) -> None:
    last = then if last == "the same" else last
    begin, during, after = BUNDLES[first], BUNDLES[then], BUNDLES[last]
    assert during is not None
    assert after is not None
    end = _plain(memory_path / "plain", begin, after)
    for step in range(_MAX_STEPS):
        root = memory_path / str(step)
        originals = _begin(root, begin)
        before = trees.snapshot(root)
        killed = kills.killed(step, lambda _, root=root: _apply(root, during))  # type: ignore[misc]
        _never_torn(root, [before, _plain_tree(memory_path, begin, during), originals])
        _apply(root, after)
        assert trees.snapshot(root) == end.tree, step
        record = _record(root)
        assert record.originals == end.record.originals, step
        assert set(record.directories) == set(end.record.directories), step
        assert (record.revision, record.start_settings) == (end.record.revision, end.record.start_settings)
        assert not record.writing
        copies = Host(root).names(f"{memory.DIRECTORY}/originals", unfinished=True)
        assert copies == sorted(os.path.basename(item.copy) for item in record.originals.values() if item.copy)
        _apply(root, EMPTY)
        assert trees.snapshot(root) == originals, step
        shutil.rmtree(root)
        if not killed:
            assert step > 20
            return
    pytest.fail("it never came to an end")


_TREES: dict[tuple[str, str], dict[str, trees.Entry]] = {}


def _plain_tree(where: Path, first: Bundle | None, last: Bundle) -> dict[str, trees.Entry]:
    key = (first.revision if first else "", last.revision)
    if key not in _TREES:
        _TREES[key] = _plain(where / f"tree-{key[0]}-{key[1]}", first, last).tree
    return _TREES[key]


def test_going_back_after_a_kill_is_no_drift(memory_path: Path) -> None:
    _begin(memory_path, OLD)
    for step in range(60):
        kills.killed(step, lambda _: _apply(memory_path, NEW))
        assert _apply(memory_path, OLD).repaired == ()


# ---- a full and a read-only disk, for real -------------------------------------------------------------------------


def _faults(tmp_path: Path, case: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    required = bool(os.environ.get("CI") or os.environ.get("REQUIRE"))
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "true"], check=False).returncode != 0:
        assert not required, "unshare -m does not work here"
        pytest.skip("unshare -m does not work here")
    program = [sys.executable, "-m", "tests.agent.faults", str(tmp_path), case]
    # The mounts are in the child's own mount namespace: they are gone with it, however it ends.
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        ["unshare", "-m", "--propagation", "private", *program],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": paths},
    )
    if done.returncode == 77:
        assert not required, done.stderr
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{case} held"


@pytest.mark.parametrize("case", ["full", "full-for-originals", "full-for-restore", "read-only", "read-only-state"])
def test_a_disk_that_takes_no_more_leaves_everything_whole(tmp_path: Path, case: str) -> None:
    _faults(tmp_path, case)
