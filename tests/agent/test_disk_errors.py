"""A disk that fails, at any one call or for a while: the agent says so and lives, nothing is torn, and once the disk
works again it goes on to a good end.

Full and read-only disks are in faults.py, for real; what a failing one says (EIO) is put in the place of the system's
answer here.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry_mirror.agent.host import HostError
from tests.agent.case import NEW, Case
from tests.agent.trees import EMPTY
from tests.agent.world import World

_WRITES = ("fsync", "rename", "unlink", "rmdir", "mkdir", "link", "fchmod")
_READS = ("stat", "listdir")
_MAX_CALLS = 20_000
_MAX_TRIES = 40


class BadDisk:
    """Fails from one call of the agent on, ``count`` times. Its calls are those on names in open directories."""

    def __init__(self, patch: pytest.MonkeyPatch, *, reads: bool) -> None:
        self.calls = 0
        self.first = _MAX_CALLS
        self.count = 0
        self._open = os.open
        patch.setattr(os, "open", self._opened(reads))
        for name in _READS if reads else _WRITES:
            patch.setattr(os, name, self._failing(getattr(os, name)))

    def _next(self) -> None:
        self.calls += 1
        if self.first < self.calls <= self.first + self.count:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def _opened(self, reads: bool) -> Callable[..., int]:
        def opened(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            if dir_fd is not None and reads != bool(flags & os.O_CREAT):
                self._next()
            return self._open(path, flags, mode, dir_fd=dir_fd)

        return opened

    def _failing(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(first: Any, *rest: Any, **named: Any) -> Any:
            if isinstance(first, int) or named.keys() & {"dir_fd", "src_dir_fd"}:
                self._next()
            return function(first, *rest, **named)

        return call


@pytest.mark.parametrize("count", [1, 30], ids=["once", "for a while"])
@pytest.mark.parametrize("reads", [False, True], ids=["writes", "reads"])
@pytest.mark.parametrize(("wanted", "fault"), [("new", ""), ("new", "refuses"), ("empty", "")])
def test_a_disk_that_fails(work: Path, wanted: str, fault: str, reads: bool, count: int) -> None:
    case = Case(work, fault, EMPTY if wanted == "empty" else NEW)
    stride = 97 if reads else 3 if fault or count > 1 else 1
    failed = 0
    for first in range(0, _MAX_CALLS, stride):
        world = case.begin.copy(work / str(first))
        calls, failures = _work(case, world, first, count, reads=reads)
        failed += failures
        shutil.rmtree(world.work)
        if calls <= first:
            break
    assert failed > 5


def _work(case: Case, world: World, first: int, count: int, *, reads: bool) -> tuple[int, int]:
    """Let one agent work on a disk that fails there; gives how many calls it made, and how many tries failed."""
    engine = world.engine()
    with pytest.MonkeyPatch.context() as patch:
        disk = BadDisk(patch, reads=reads)
        disk.first, disk.count = first, count
        failures = 0
        while True:
            done = world.run(case.wanted, engine)
            if not isinstance(done.problem, HostError):
                break
            assert done.problem.reason in ("WriteFailed", "ReadFailed")
            assert "Input/output error" in done.problem.message
            case.never_torn(world)
            failures += 1
            assert failures < _MAX_TRIES, "it never comes to an end"
            world.advance(5.0)
        calls = disk.calls
    new = case.ended(world, world.run(case.wanted))
    # After a while, the host goes back by itself.
    assert new == (not case.fault) or (count > 1 and not new)
    return calls, failures
