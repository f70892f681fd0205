"""Power lost at any moment of a change that takes a restart: whatever of it the disk has, the node ends well.

What a disk has after a loss: the content of a file as it was when that file was synced last, and the names in a
directory as they were when the directory was. Of what came later it may have all, nothing, the names alone (with files
that are empty), or the content alone.
"""

from __future__ import annotations

import os
import pickle
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from registry_mirror.agent.engine import Order
from registry_mirror.agent.state import DIRECTORY
from registry_mirror.api.errors import WaitingError
from tests.agent import kills
from tests.agent.case import NEW, Case
from tests.agent.trees import EMPTY
from tests.agent.world import DEADLINE, World

_NEVER = 1_000_000

# What is at a path: mode, owner, group, content; None for a directory.
Entry = tuple[int, int, int, bytes | None]
Tree = dict[str, Entry]


class Disk:
    """Knows what of a tree would be there after a loss of power. Inodes of a file system in memory are never used again
    for other files (Linux since 5.9), so that they tell what is what.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._contents: dict[int, Entry] = {}
        self._names: dict[int, dict[str, int]] = {}
        self._directories: dict[int, Entry] = {}
        self.all_durable()

    def all_durable(self) -> None:
        """Take note that all that is there would stay."""
        for folder, _, files in os.walk(self._root):
            for where in (Path(folder), *(Path(folder, name) for name in files)):
                descriptor = os.open(where, os.O_RDONLY | os.O_NOFOLLOW)
                self.synced(descriptor)
                os.close(descriptor)

    def synced(self, descriptor: int) -> None:
        """Take note of fsync(2)."""
        info = os.fstat(descriptor)
        if stat.S_ISDIR(info.st_mode):
            self._directories[info.st_ino] = (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, None)
            self._names[info.st_ino] = _names(descriptor)
        else:
            self._contents[info.st_ino] = _entry(info, Path(f"/proc/self/fd/{descriptor}").read_bytes())

    def after_loss(self, *, names: bool, contents: bool) -> Tree:
        """Give what would be there, of what is not durable the names and the contents, or not."""
        now: dict[int, Entry] = {}
        listed: dict[int, dict[str, int]] = {}
        for folder, _, files in os.walk(self._root):
            info = os.stat(folder)
            now[info.st_ino] = (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, None)
            listed[info.st_ino] = _names(folder)
            for name in files:
                info = os.lstat(os.path.join(folder, name))
                now[info.st_ino] = _entry(info, Path(folder, name).read_bytes())
        entries = {**now, **self._contents, **self._directories} if not contents else {**self._contents, **now}
        entries = {**self._directories, **entries}
        if not contents:
            # What was never synced is there, and empty.
            never = {inode for inode in now if now[inode][3] is not None and inode not in self._contents}
            entries |= {inode: (*now[inode][:3], b"") for inode in never}
        tree: Tree = {}
        _walk("", os.stat(self._root).st_ino, entries, {**self._names, **listed} if names else self._names, tree)
        return tree


def _entry(info: os.stat_result, content: bytes) -> Entry:
    return stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, content


def _names(directory: int | str) -> dict[str, int]:
    with os.scandir(directory) as found:
        return {item.name: item.inode() for item in found}


def _walk(path: str, inode: int, entries: dict[int, Entry], names: dict[int, dict[str, int]], tree: Tree) -> None:
    tree[path] = entries[inode]
    if entries[inode][3] is None:
        for name, below in names.get(inode, {}).items():
            _walk(f"{path}/{name}", below, entries, names, tree)


def _record(case: Case, work: Path) -> list[tuple[Tree, bytes]]:
    """Let an agent do the change; gives every state that a loss of power could have left, and the machine's then."""
    world = case.begin.copy(work / "recorded")
    found: dict[str, tuple[Tree, bytes]] = {}

    def act(_: Callable[[], None]) -> None:
        disk = Disk(world.root)

        def look() -> None:
            for kept in ((True, True), (False, False), (True, False), (False, True)):
                tree = disk.after_loss(names=kept[0], contents=kept[1])
                tree = {path: entry for path, entry in tree.items() if not path.startswith("/run")}
                found.setdefault(repr(sorted(tree.items())), (tree, (world.work / "world.json").read_bytes()))

        kills.observe(look, disk.synced)
        roll_back = world.roll_back

        def rolled_back() -> None:
            roll_back()
            disk.all_durable()  # it syncs what it writes, and has tests of its own

        world.roll_back = rolled_back  # type: ignore[method-assign]
        world.run(case.wanted)
        look()
        (work / "found").write_bytes(pickle.dumps(list(found.values())))

    assert not kills.killed(_NEVER, act)
    recorded: list[tuple[Tree, bytes]] = pickle.loads((work / "found").read_bytes())
    return recorded


def _boot(work: Path, tree: Tree, facts: bytes, case: Case) -> World:
    """Start a machine again from what its disk has."""
    world = case.begin.copy(work)
    shutil.rmtree(world.root)
    for path, (mode, uid, gid, content) in sorted(tree.items()):
        where = Path(f"{world.root}{path}")
        where.mkdir() if content is None else where.write_bytes(content)
        os.chown(where, uid, gid)
        where.chmod(mode)
    (work / "world.json").write_bytes(facts)
    world.reboot()
    return world


@pytest.fixture
def work() -> Iterator[Path]:
    """A directory in memory."""
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK):
        pytest.skip("there is no /dev/shm that can be written")
    where = Path(tempfile.mkdtemp(prefix="registry-mirror-test-", dir=shared))
    yield where
    shutil.rmtree(where)


@pytest.mark.parametrize(("wanted", "fault"), [("new", ""), ("new", "refuses"), ("new", "hangs"), ("empty", "")])
def test_power_is_lost_at_any_moment(work: Path, wanted: str, fault: str) -> None:
    case = Case(work, fault, EMPTY if wanted == "empty" else NEW)
    recorded = _record(case, work)
    assert len(recorded) > 60
    ends = set()
    for index, (tree, facts) in enumerate(recorded):
        world = _boot(work / str(index), tree, facts, case)
        case.never_torn(world)
        starts = world.facts().reads
        new = case.ended(world, world.run(case.wanted))
        if fault and starts[-1] == "r 2":
            assert world.facts().reads.count("r 2") == starts.count("r 2"), "the start of the boot has shown enough"
        ends.add(new)
        if index % 10 == 0:
            case.goes_on(world, new)
        shutil.rmtree(world.work)
    assert ends == {not fault}


def test_power_is_lost_while_the_host_goes_back(work: Path) -> None:
    """Nobody but the agent runs the script again."""
    case = Case(work, "refuses")
    engine, world = case.begin.engine(), case.begin
    order = Order(fetch=lambda: NEW, restart_allowed=True, deadline=DEADLINE)
    assert isinstance(engine.run(order).problem, WaitingError)
    verdict = world.root / DIRECTORY[1:] / "restart/verdict"
    verdict.write_text("rollback\n")
    world.reboot()
    assert not case.ended(world, world.run(NEW))
