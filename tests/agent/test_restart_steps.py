"""The whole way of a change that takes a restart, with SIGKILL before every step of it: whatever happens, the node ends
with the new revision in force or with the last good files, and the runtime works.

The files, the record and the dead-man's script are real; the machine around them is a stand-in (world.py).
RESTART_STEPS=all looks at every step of every case, which takes minutes; else some cases skip some steps.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from registry_mirror.agent import state as memory
from registry_mirror.agent.engine import Order
from registry_mirror.api.errors import WaitingError
from registry_mirror.core.bundle import Bundle
from tests.agent import kills
from tests.agent.case import NEW, OLD, Case, files
from tests.agent.world import DEADLINE, World

ALL = os.environ.get("RESTART_STEPS") == "all"
_MAX_STEPS = 1000


def _steps(case: str) -> range:
    """Where to kill: everywhere, or at some steps only, others for every case."""
    stride = 1 if ALL or not case else 4
    return range(len(case) % stride, _MAX_STEPS, stride)


@pytest.mark.parametrize("late", [False, True], ids=["at once", "late"])
@pytest.mark.parametrize("fault", ["", "refuses", "hangs", "mute", "bus"])
def test_killed_before_any_step(work: Path, fault: str, late: bool) -> None:
    case = Case(work, fault)
    ends = _kill_everywhere(case, case.begin, late)
    # Who comes late may find that the host has gone back by itself.
    assert ends == ({True, False} if fault == "bus" or (late and not fault) else {not fault})


@pytest.mark.parametrize("fault", ["", "refuses", "hangs"])
def test_killed_while_it_sees_a_start_through_that_nobody_asked_for(work: Path, fault: str) -> None:
    case = Case(work, fault)
    assert case.begin.run(NEW, restart=False).problem is None
    case.begin.start()
    assert _kill_everywhere(case, case.begin, late=False) == {not fault}
    starts = case.begin.copy(work / "counted")
    starts.run(NEW)
    assert starts.facts().reads.count("r 2") == 1, "it has read them already"


def _kill_everywhere(case: Case, begin: World, late: bool) -> set[bool]:
    """Kill before each step, let it go on; gives in which ways it ended (see Case.ended)."""
    ends = set()
    for step in _steps(case.fault):
        world = begin.copy(case.begin.work.parent / str(step))
        was_killed = kills.killed(step, lambda count, world=world: _work(world, count))  # type: ignore[misc]
        case.never_torn(world)
        if late:
            _wait(world, 10 * DEADLINE)
            case.never_torn(world)
        if case.fault == "bus":
            world.mend()
        new = case.ended(world, world.run(NEW))
        assert new or case.fault or late, "nothing was wrong with it"
        assert not new or case.fault in ("", "bus")
        ends.add(new)
        if step % 10 == 0:
            case.goes_on(world, new)
        shutil.rmtree(world.work)
        if not was_killed:
            assert step > 30
            return ends
    pytest.fail("it never came to an end")


def _work(world: World, count: Callable[[], None]) -> None:
    world.step = count
    world.run(NEW)


def _wait(world: World, seconds: float) -> None:
    for _ in range(int(seconds / 5)):
        world.advance(5.0)


@pytest.mark.parametrize("step", [3600.0, -3600.0])
@pytest.mark.parametrize("when", range(1, 12, 3))
@pytest.mark.parametrize("fault", ["", "refuses", "mute"])
def test_a_clock_that_is_set_amid_a_restart_changes_nothing(work: Path, fault: str, when: int, step: float) -> None:
    case = Case(work, fault)
    passes = 0

    def fetch() -> Bundle:
        return NEW

    engine, world = case.begin.engine(), case.begin
    order = Order(fetch=fetch, restart_allowed=True, deadline=DEADLINE)
    while isinstance((done := engine.run(order)).problem, WaitingError) or done.outcome.held:
        world.advance(1.0)
        passes += 1
        if passes == when:
            world.change(step=step)
    assert case.ended(world, done) == (not fault)
    assert world.facts().reads.count("r 2") == 1


def test_what_failed_is_tried_again_when_something_else_was_in_force_since(work: Path) -> None:
    case = Case(work, "refuses")
    world = case.begin
    for _ in range(2):
        done = world.run(NEW)
        assert done.problem is not None
        assert done.problem.reason == "RolledBack"
    assert world.facts().reads.count("r 2") > 0
    world.change(fault="")
    assert world.run(NEW).problem is not None, "nobody has asked for anything else"
    assert world.run(OLD).problem is None
    assert memory.load(world.host).attempt is None
    assert world.run(NEW).problem is None
    assert files(world) == case.new


def test_a_runtime_that_somebody_has_stopped_is_left_alone(work: Path) -> None:
    case = Case(work, "")
    assert case.begin.run(NEW, restart=False).problem is None
    case.begin.change(active="inactive", healthy=False)
    reads = case.begin.facts().reads
    done = case.begin.run(NEW, restart=False)
    assert done.problem is None
    assert done.state is not None
    assert done.state.attempt is None or done.state.attempt.result != "InProgress"
    assert case.begin.facts().reads == reads
