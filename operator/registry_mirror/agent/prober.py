"""The rounds in which endpoints are tested: a thread that sleeps in between, and up to four more while one goes on."""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ..api.models import EndpointResult
from ..core.probing import History, Result, Target, every, judge, report
from .proxies import Proxies

_log = logging.getLogger(__name__)

_THREADS = 4
_CONFIRM = 1.0
_LEAST_INTERVAL = 5.0
_JITTER = 0.1
_GATHER = 0.5

Test = Callable[[Target, Proxies], Result | None]


@dataclass(frozen=True, slots=True)
class _Wanted:
    targets: tuple[Target, ...]
    interval: float
    proxies: Proxies


class Prober:
    """Tests endpoints every so often, and says when there is something else to report."""

    def __init__(
        self,
        test: Test,
        changed: Callable[[], None],
        *,
        least_interval: float = _LEAST_INTERVAL,
        confirm: float = _CONFIRM,
        gather: float = _GATHER,
    ) -> None:
        """Take what tests one endpoint, and what to call, from a thread of its own, when ``reports`` gives something
        else. In seconds: the shortest interval, the pause before a failure is confirmed, and how long results are
        waited for that could be told together.
        """
        self._test = test
        self._changed = changed
        self._least_interval = least_interval
        self._confirm = confirm
        self._gather = gather
        # A signal handler may put into it: only this kind of queue bears that.
        self._orders: queue.SimpleQueue[_Wanted | None] = queue.SimpleQueue()
        self._last_order: _Wanted | None = None
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._reports: tuple[EndpointResult, ...] = ()
        # The rest belongs to the thread.
        self._wanted = _Wanted((), least_interval, Proxies({}))
        self._histories: dict[Target, History] = {}

    def configure(
        self, targets: Sequence[Target], interval: float, proxies: Proxies, known: Sequence[EndpointResult] = ()
    ) -> None:
        """Say what to test and how often (seconds), from now on; cheap if nothing changed. New targets are tested at
        once. Call it from one thread only.

        ``known`` is what the node reported before this process: it holds until there are results. Without it, an
        endpoint that hangs would come to the front again whenever the agent starts.
        """
        order = _Wanted(tuple(targets), max(interval, self._least_interval), proxies)
        if order == self._last_order or (self._thread is None and not order.targets):
            return
        self._last_order = order
        if self._thread is None:
            urls = {target.url for target in targets}
            self._reports = tuple(item for item in known if item.url in urls)
        self._orders.put(order)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="probe", daemon=True)
            self._thread.start()

    def reports(self) -> tuple[EndpointResult, ...]:
        """Give what is known of the endpoints; those that were not tested yet are left out. Safe from any thread."""
        return self._reports

    def stop(self) -> None:
        """Make the thread end, after the test that it is at; safe from any thread and from a signal handler."""
        self._stopped = True
        self._orders.put(None)

    def _work(self) -> None:
        due = time.monotonic()
        while not self._stopped:
            order = self._next(due)
            if self._stopped:
                return
            if order is not None:
                self._take(order)
            late = time.monotonic() >= due
            pending = self._wanted.targets if late else [t for t in self._wanted.targets if t not in self._histories]
            try:
                self._round(pending)
            except Exception:  # this thread must outlive whatever an endpoint sends, or nothing is ever noticed again
                _log.exception("a round of probes failed: a defect of the program")
            # Counted from the end of a round: one that takes longer than the interval must not be followed at once.
            if late:
                due = time.monotonic() + self._pause()
            due = min(due, time.monotonic() + self._every() * (1 + _JITTER))

    def _next(self, due: float) -> _Wanted | None:
        """Wait for a new order, or until a round is due; gives the newest order if there is one."""
        wait = max(0.0, due - time.monotonic()) if self._wanted.targets else None
        newest = None
        try:
            newest = self._orders.get(timeout=wait)
            while True:
                newest = self._orders.get_nowait()
        except queue.Empty:
            return newest

    def _pause(self) -> float:
        return self._every() * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - no secret

    def _every(self) -> float:
        return every(self._wanted.interval, len(self._wanted.targets))

    def _take(self, order: _Wanted) -> None:
        same_way = order.proxies == self._wanted.proxies
        self._wanted = order
        self._histories = {
            target: self._histories[target] for target in order.targets if same_way and target in self._histories
        }
        self._tell()

    def _round(self, targets: Sequence[Target]) -> None:
        told = True
        for item in self._results(targets):
            if item is not None:
                target, result = item
                self._histories[target] = judge(self._histories.get(target), result)
                told = False
            elif not told:
                self._tell()
                told = True
        if not self._stopped:
            self._tell()

    def _results(self, targets: Sequence[Target]) -> Iterator[tuple[Target, Result] | None]:
        """Give the results as they come, and None when none has come for a moment.

        Second tries come after all first ones, so that an endpoint that hangs keeps no other from its first.
        """
        tries: queue.SimpleQueue[tuple[Target, float] | None] = queue.SimpleQueue()
        done: queue.SimpleQueue[tuple[Target, Result | None]] = queue.SimpleQueue()
        proxies = self._wanted.proxies
        for target in targets:
            tries.put((target, 0.0))

        def work() -> None:
            while (item := tries.get()) is not None:
                target, not_before = item
                first = not_before == 0.0
                time.sleep(max(0.0, not_before - time.monotonic()))
                result = None if self._stopped else self._one(target, proxies)
                if first and result is not None and not result.reachable:
                    tries.put((target, time.monotonic() + self._confirm))
                else:
                    done.put((target, result))

        threads = min(_THREADS, len(targets))
        for index in range(threads):
            threading.Thread(target=work, name=f"probe-{index}", daemon=True).start()
        left = len(targets)
        while left and not self._stopped:
            try:
                target, result = done.get(timeout=self._gather)
            except queue.Empty:
                yield None
                continue
            left -= 1
            if result is not None:
                yield target, result
        for _ in range(threads):
            tries.put(None)

    def _one(self, target: Target, proxies: Proxies) -> Result | None:
        try:
            return self._test(target, proxies)
        except Exception:
            _log.exception("probe of %s: a defect of the program", target.url)
            return None

    def _tell(self) -> None:
        found = {item.url: item for item in report(self._histories, self._wanted.targets)}
        # What was asked for with other credentials, or in another way, holds until the answer to the new question.
        before = {item.url: item for item in self._reports}
        urls = dict.fromkeys(target.url for target in self._wanted.targets)
        reports = tuple(item for url in urls if (item := found.get(url) or before.get(url)) is not None)
        if reports != self._reports:
            for item in set(reports) - set(self._reports):
                _log.info("%s: %s%s", item.url, item.reason, f": {item.message}" if item.message else "")
            self._reports = reports
            self._changed()
