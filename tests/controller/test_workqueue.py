"""Keys wait once, run once at a time, and come back until they succeed."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import pytest

from registry_mirror.api.errors import TransientError, WaitingError
from registry_mirror.controller.workqueue import Key, WorkQueue

A: Key = ("node", "a")
B: Key = ("node", "b")


def work(
    handle: Callable[[Key], Awaitable[None]], use: Callable[[WorkQueue], Awaitable[None]], workers: int = 4
) -> list[tuple[Key, str]]:
    """Run a queue for as long as ``use`` takes; gives the results in order."""
    seen: list[tuple[Key, str]] = []

    async def main() -> None:
        queue = WorkQueue(handle, lambda key, _seconds, result: seen.append((key, result)))
        running = asyncio.create_task(queue.run(workers))
        await asyncio.wait_for(use(queue), 10)
        running.cancel()

    asyncio.run(main())
    return seen


async def until(check: Callable[[], bool]) -> None:
    """Let the queue run until something is so."""
    while not check():
        await asyncio.sleep(0.005)


def test_a_key_that_is_added_often_is_worked_on_once() -> None:
    runs: list[Key] = []

    async def handle(key: Key) -> None:
        runs.append(key)

    async def use(queue: WorkQueue) -> None:
        for _ in range(100):
            queue.add(A)
        queue.add(B)
        await until(lambda: len(runs) >= 2)
        await asyncio.sleep(0.05)

    work(handle, use)
    assert sorted(runs) == [A, B]


def test_a_key_never_runs_twice_at_once_and_runs_again_if_added_meanwhile() -> None:
    running, most, runs = 0, 0, 0

    async def handle(_: Key) -> None:
        nonlocal running, most, runs
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1
        runs += 1

    async def use(queue: WorkQueue) -> None:
        queue.add(A)
        await until(lambda: running == 1)
        for _ in range(5):
            queue.add(A)
        await until(lambda: runs == 2)
        await asyncio.sleep(0.06)

    work(handle, use)
    assert (most, runs) == (1, 2)


def test_different_keys_run_side_by_side() -> None:
    together = asyncio.Event()
    running: set[Key] = set()

    async def handle(key: Key) -> None:
        running.add(key)
        if len(running) == 2:
            together.set()
        await asyncio.wait_for(together.wait(), 5)

    async def use(queue: WorkQueue) -> None:
        queue.add(A)
        queue.add(B)
        await together.wait()
        await asyncio.sleep(0.01)

    assert {result for _, result in work(handle, use)} == {"ok"}


def test_what_fails_comes_back_later_and_later_until_it_succeeds() -> None:
    times: list[float] = []

    async def handle(_: Key) -> None:
        times.append(asyncio.get_running_loop().time())
        if len(times) < 4:
            raise TransientError("ApiError", "not now") if len(times) < 3 else RuntimeError("a defect")

    async def use(queue: WorkQueue) -> None:
        queue.add(A)
        await until(lambda: len(times) == 4)
        await asyncio.sleep(0.01)

    results = [result for _, result in work(handle, use)]
    assert results == ["error", "error", "error", "ok"]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps[0] >= 0.15
    assert gaps[2] > gaps[0] * 1.5


def test_what_waits_comes_back_when_it_said() -> None:
    runs: list[float] = []

    async def handle(_: Key) -> None:
        runs.append(asyncio.get_running_loop().time())
        if len(runs) == 1:
            raise WaitingError("BundleNotFound", "not yet", after=0.1)

    async def use(queue: WorkQueue) -> None:
        queue.add(A)
        await until(lambda: len(runs) == 2)
        await asyncio.sleep(0.01)

    assert [result for _, result in work(handle, use)] == ["waiting", "ok"]
    assert runs[1] - runs[0] >= 0.1


def test_a_change_does_not_wait_for_a_backoff() -> None:
    runs: list[float] = []

    async def handle(_: Key) -> None:
        runs.append(asyncio.get_running_loop().time())
        raise WaitingError("BundleNotFound", "not yet", after=30)

    async def use(queue: WorkQueue) -> None:
        queue.add(A)
        await until(lambda: len(runs) == 1)
        await asyncio.sleep(0.01)
        queue.add(A)
        await until(lambda: len(runs) == 2)

    work(handle, use)
    assert runs[1] - runs[0] < 5


def test_the_earlier_of_two_times_counts() -> None:
    runs: list[Key] = []

    async def handle(key: Key) -> None:
        runs.append(key)

    async def use(queue: WorkQueue) -> None:
        queue.add(A, 30)
        queue.add(A, 0.01)
        queue.add(A, 60)
        await until(lambda: runs == [A])
        assert len(queue) == 0

    work(handle, use)
    assert runs == [A]


def test_lag_says_for_how_long_the_oldest_key_has_been_due() -> None:
    now = 100.0

    async def handle(_: Key) -> None:
        raise AssertionError("nothing runs here")

    queue = WorkQueue(handle, lambda *_: None, clock=lambda: now)
    assert queue.lag() == 0
    queue.add(A, 5)
    assert queue.lag() == 0, "not due yet"
    queue.add(B)
    now = 107.0
    assert queue.lag() == 7


@pytest.mark.parametrize("turns", range(6))
def test_it_ends_when_it_is_told_to_amid_a_change(turns: int) -> None:
    """Until Python 3.12, asyncio.wait_for forgets that it was cancelled if what it waits for has just come."""

    async def nothing(_key: Key) -> None:
        await asyncio.sleep(0)

    async def main() -> bool:
        queue = WorkQueue(nothing, lambda *_: None)
        running = asyncio.create_task(queue.run(4))
        queue.add(A, 60.0)
        await asyncio.sleep(0.01)
        queue.add(B, 30.0)
        for _ in range(turns):
            await asyncio.sleep(0)
        running.cancel()
        ended, _ = await asyncio.wait({running}, timeout=5.0)
        return bool(ended)

    with asyncio.Runner() as runner:
        assert runner.run(main())
