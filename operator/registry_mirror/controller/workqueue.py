"""A queue of keys: each waits at most once, runs at most once at a time, and is retried with backoff when it fails.

kopf logs and drops what an event handler raises, so retrying is our own business (architecture.md, convention 1).
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import logging
import random
import time
from collections.abc import Awaitable, Callable

from ..api.errors import ProblemError, WaitingError

_log = logging.getLogger(__name__)

Key = tuple[str, str]
Observer = Callable[[Key, float, str], None]

_FIRST_RETRY = 0.2
_LAST_RETRY = 60.0


class WorkQueue:
    """Keys with a time at which they are due; ``run`` works on them until it is cancelled."""

    def __init__(
        self, handle: Callable[[Key], Awaitable[None]], observe: Observer, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Take what to do with a key, whom to tell (key, seconds it took, result), and the clock (seconds)."""
        self._handle = handle
        self._observe = observe
        self._clock = clock
        self._due: dict[Key, float] = {}
        self._heap: list[tuple[float, Key]] = []
        self._running: dict[Key, float] = {}
        self._again: dict[Key, float] = {}
        self._failures: dict[Key, int] = {}
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._due)

    def add(self, key: Key, delay: float = 0.0) -> None:
        """Have the key worked on after ``delay`` seconds, or earlier if it was to be earlier already."""
        at = self._clock() + delay
        if key in self._running:
            self._again[key] = min(at, self._again.get(key, at))
            return
        if key in self._due and self._due[key] <= at:
            return
        self._due[key] = at
        heapq.heappush(self._heap, (at, key))
        self._wake.set()

    def lag(self) -> float:
        """Give for how many seconds the oldest key has been due, or running; 0 if none is."""
        now = self._clock()
        waiting = min(self._due.values(), default=now)
        return max(0.0, now - min(waiting, min(self._running.values(), default=now)))

    async def run(self, workers: int) -> None:
        """Work on keys, that many at a time, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(self._work())

    async def _work(self) -> None:
        while True:
            key = await self._next()
            started = self._running[key] = self._clock()
            result = await self._one(key)
            del self._running[key]
            self._observe(key, self._clock() - started, result)
            if key in self._again:
                self.add(key, max(0.0, self._again.pop(key) - self._clock()))

    async def _next(self) -> Key:
        while True:
            while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
                heapq.heappop(self._heap)  # superseded by an earlier time
            wait = self._heap[0][0] - self._clock() if self._heap else None
            if wait is not None and wait <= 0:
                _, key = heapq.heappop(self._heap)
                del self._due[key]
                return key
            self._wake.clear()
            # Not by wait_for: until Python 3.12 it forgets that it was cancelled if what it waits for has just come,
            # and a controller that has lost its Lease would never end.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._wake.wait()

    async def _one(self, key: Key) -> str:
        try:
            await self._handle(key)
        except WaitingError as error:
            _log.info("%s %s: %s", *key, error.message)
            self._later(key, error.after)
            return "waiting"
        except ProblemError as error:
            _log.warning("%s %s: %s: %s", *key, error.reason, error.message)
            self._retry(key)
            return "error"
        except Exception:
            _log.exception("%s %s: a defect of the program; trying again", *key)
            self._retry(key)
            return "error"
        self._failures.pop(key, None)
        return "ok"

    def _retry(self, key: Key) -> None:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        delay: float = min(_LAST_RETRY, _FIRST_RETRY * 2.0 ** min(failures - 1, 12))
        self._later(key, delay * random.uniform(0.8, 1.2))  # noqa: S311 - no secret

    def _later(self, key: Key, delay: float) -> None:
        at = self._clock() + delay
        self._again[key] = min(at, self._again.get(key, at))
