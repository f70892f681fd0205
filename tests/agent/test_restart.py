"""RestartRequired: asked for as long as the runtime runs with other start settings than are on the disk, and no longer.

Node.reconcile looks for a start of the runtime first and applies then; so do these tests.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from registry_mirror.agent import state as memory
from registry_mirror.agent.apply import apply, runtime_started, waiting_for_restart
from registry_mirror.agent.host import Host, HostError, write_all
from registry_mirror.core.bundle import Bundle
from tests.agent import trees

OLD = trees.bundle("old", {trees.REGISTRIES: "old"}, {"credentials": "d1"})
NEW = trees.bundle("new", {trees.REGISTRIES: "new"}, {"credentials": "d2"})
SECOND = 1_000_000_000


class Clock:
    """A wall clock that goes a second at each look, and that can be set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000 * SECOND
        monkeypatch.setattr(time, "time_ns", self.tick)

    def tick(self) -> int:
        """Give the time."""
        self.now += SECOND
        return self.now


class Runner:
    """A node on which the runtime starts when it is told to."""

    def __init__(self, root: Path, clock: Clock) -> None:
        self.host = Host(root)
        self.clock = clock
        self.socket: int | None = clock.tick()

    def start(self) -> None:
        """Let the runtime start."""
        self.socket = self.clock.tick()

    def waiting(self, wanted: Bundle) -> tuple[str, ...]:
        """One pass; gives the settings that wait for a restart."""
        before = memory.load(self.host)
        state = runtime_started(before, self.socket)
        if state != before and before.revision:
            memory.save(self.host, state)
        state, _ = apply(self.host, state, wanted, trees.K3S)
        assert state == memory.load(self.host)
        return waiting_for_restart(state)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the agent."""
    return Clock(monkeypatch)


@pytest.fixture
def node(tmp_path: Path, clock: Clock) -> Runner:
    """A node whose runtime has been running before the agent came."""
    return Runner(tmp_path, clock)


def test_required_until_the_runtime_starts(node: Runner) -> None:
    assert node.waiting(OLD) == ("credentials",)
    assert node.waiting(OLD) == ("credentials",)
    node.start()
    assert node.waiting(OLD) == ()
    assert node.waiting(NEW) == ("credentials",)
    assert node.waiting(OLD) == ()
    assert node.waiting(trees.EMPTY) == ("credentials",)


def test_not_required_for_a_bundle_without_such_settings(node: Runner) -> None:
    assert node.waiting(trees.bundle("live", {trees.REGISTRIES: "x"})) == ()


def test_not_required_when_the_settings_go_before_any_start(node: Runner) -> None:
    assert node.waiting(OLD) == ("credentials",)
    assert node.waiting(trees.EMPTY) == ()


def test_a_runtime_that_is_down_while_files_are_written_has_them_when_it_comes(node: Runner) -> None:
    node.socket = None
    assert node.waiting(OLD) == ("credentials",)
    node.start()
    assert node.waiting(NEW) == ("credentials",)  # it has OLD, and NEW is on the disk
    assert node.waiting(OLD) == ()


def test_a_clock_set_back_hides_no_start(node: Runner, clock: Clock) -> None:
    assert node.waiting(OLD) == ("credentials",)
    clock.now -= 500 * SECOND
    assert node.waiting(OLD) == ("credentials",)
    node.start()
    state = runtime_started(memory.load(node.host), node.socket)
    assert waiting_for_restart(state) == ()


def test_a_runtime_that_started_before_the_clock_was_set_back_is_not_taken_for_restarted(
    node: Runner, clock: Clock
) -> None:
    clock.now -= 500 * SECOND
    assert node.waiting(OLD) == ("credentials",)
    assert node.waiting(OLD) == ("credentials",)


def test_a_start_while_files_are_being_written_does_not_count(node: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    def starts(host: Host, files: object) -> None:
        node.start()
        write_all(host, NEW.files)

    with monkeypatch.context() as patch:
        patch.setattr("registry_mirror.agent.apply.write_all", starts)
        assert node.waiting(NEW) == ("credentials",)
    assert node.waiting(NEW) == ("credentials",)


@pytest.mark.parametrize("after", [OLD, NEW])
def test_a_start_amid_a_change_leaves_it_required_whatever_follows(
    node: Runner, monkeypatch: pytest.MonkeyPatch, after: Bundle
) -> None:
    node.waiting(OLD)
    node.start()
    assert node.waiting(trees.bundle("other", {}, {"credentials": "d1"})) == ()

    def stops(host: Host, files: object) -> None:
        raise HostError("WriteFailed", "the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("registry_mirror.agent.apply.write_all", stops)
        with pytest.raises(HostError):
            node.waiting(NEW)
    assert waiting_for_restart(memory.load(node.host)) == ()
    node.start()
    assert node.waiting(after) == ("credentials",)
    node.start()
    assert waiting_for_restart(runtime_started(memory.load(node.host), node.socket)) == ()
