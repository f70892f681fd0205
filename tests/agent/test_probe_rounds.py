"""The rounds of probes: what is told and when, and that nothing that hangs holds up the rest, or the end."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

import pytest

from registry_mirror.agent.prober import Prober
from registry_mirror.agent.proxies import Proxies
from registry_mirror.api.models import EndpointResult
from registry_mirror.core.probing import Result, Target
from registry_mirror.core.resolve import Credentials

DIRECT = Proxies({})
GOOD = Result(True, "Reachable")
BAD = Result(False, "ConnectionRefused", "it refuses")
WAIT = 30.0  # for what comes at once, unless the machine is stuck


class Rounds:
    """A Prober with a test that is handed its results, and what it has told."""

    def __init__(self, interval: float = 0.02) -> None:
        self.answer: Callable[[Target], Result | None] = lambda target: GOOD
        self.asked: queue.Queue[Target] = queue.Queue()
        self.told: queue.Queue[tuple[EndpointResult, ...]] = queue.Queue()
        self.interval = interval
        self.prober = Prober(self._test, self._changed, least_interval=0.01, confirm=0.01, gather=0.02)

    def _test(self, target: Target, proxies: Proxies) -> Result | None:
        self.asked.put(target)
        return self.answer(target)

    def _changed(self) -> None:
        self.told.put(self.prober.reports())

    def configure(self, *targets: Target, proxies: Proxies = DIRECT, known: tuple[EndpointResult, ...] = ()) -> None:
        self.prober.configure(targets, self.interval, proxies, known)

    def until(self, *expected: tuple[str, bool]) -> None:
        """Wait until exactly that is told: URLs, and whether they are reachable."""
        while tuple((item.url, item.reachable) for item in self.told.get(timeout=WAIT)) != expected:
            pass

    def next(self) -> tuple[tuple[str, bool], ...]:
        return tuple((item.url, item.reachable) for item in self.told.get(timeout=WAIT))


@pytest.fixture
def rounds() -> Iterator[Rounds]:
    found = Rounds()
    yield found
    found.prober.stop()
    thread = found.prober._thread
    if thread is not None:
        thread.join(WAIT)
        assert not thread.is_alive()


def target(name: str, password: str = "") -> Target:
    credentials = Credentials(username="u", password=password) if password else None
    return Target(url=f"https://{name}.example", credentials=credentials)


A, B = target("a"), target("b")
URL_A, URL_B = A.url, B.url


def test_nothing_runs_before_there_is_something_to_test(rounds: Rounds) -> None:
    rounds.configure()
    assert rounds.prober._thread is None


def test_a_failure_and_the_recovery_are_told_and_nothing_in_between(rounds: Rounds) -> None:
    rounds.configure(A, B)
    rounds.until((URL_A, True), (URL_B, True))
    for _ in range(20):
        rounds.asked.get(timeout=WAIT)
    assert rounds.told.empty()
    rounds.answer = lambda target: BAD if target is A else GOOD
    assert rounds.next() == ((URL_A, False), (URL_B, True))
    rounds.answer = lambda target: GOOD
    assert rounds.next() == ((URL_A, True), (URL_B, True))


def test_one_failure_that_is_not_confirmed_is_none(rounds: Rounds) -> None:
    results = iter([BAD, GOOD])
    rounds.answer = lambda target: next(results, GOOD)
    rounds.configure(A)
    assert rounds.next() == ((URL_A, True),)
    for _ in range(10):
        rounds.asked.get(timeout=WAIT)
    assert rounds.told.empty()


def test_what_hangs_holds_up_neither_the_first_results_nor_the_end() -> None:
    rounds = Rounds(interval=60)
    hang = threading.Event()
    others = [target(f"o{index}") for index in range(20)]

    def answer(asked: Target) -> Result:
        if asked is A:
            hang.wait()
        return GOOD

    rounds.answer = answer
    try:
        rounds.configure(A, *others)
        rounds.until(*((item.url, True) for item in others))
    finally:
        rounds.prober.stop()
        thread = rounds.prober._thread
        assert thread is not None
        thread.join(WAIT)
        ended = not thread.is_alive()
        hang.set()
    assert ended


def test_confirmations_wait_for_all_first_tries(rounds: Rounds) -> None:
    targets = [target(f"t{index}") for index in range(12)]
    rounds.answer = lambda asked: BAD
    rounds.configure(*targets)
    rounds.until(*((item.url, False) for item in targets))
    first = [rounds.asked.get(timeout=WAIT) for _ in range(12)]
    assert set(first) == set(targets)


def test_new_targets_are_tested_at_once_and_gone_ones_are_told() -> None:
    rounds = Rounds(interval=3600)
    try:
        rounds.configure(A)
        rounds.until((URL_A, True))
        rounds.configure(A, B)
        rounds.until((URL_A, True), (URL_B, True))
        assert [rounds.asked.get(timeout=WAIT), rounds.asked.get(timeout=WAIT)] == [A, B]
        assert rounds.asked.empty()
        rounds.configure(B)
        rounds.until((URL_B, True))
        rounds.configure()
        rounds.until()
    finally:
        rounds.prober.stop()


def test_the_same_order_again_is_none() -> None:
    rounds = Rounds(interval=3600)
    try:
        rounds.configure(A)
        rounds.until((URL_A, True))
        rounds.configure(A)
        assert rounds.prober._orders.empty()
    finally:
        rounds.prober.stop()


def test_other_credentials_are_tried_at_once_and_the_old_result_holds_until_then() -> None:
    rounds = Rounds(interval=3600)
    try:
        rounds.answer = lambda asked: BAD
        rounds.configure(target("a", "old"))
        rounds.until((URL_A, False))
        go = threading.Event()
        rounds.answer = lambda asked: GOOD if go.wait(WAIT) else None
        rounds.configure(target("a", "new"))
        assert rounds.asked.get(timeout=WAIT)
        assert [item.reachable for item in rounds.prober.reports()] == [False]
        go.set()
        # One good answer to the new question: the old one's history is not counted.
        assert rounds.next() == ((URL_A, True),)
    finally:
        rounds.prober.stop()


def test_another_proxy_is_another_way_and_everything_is_tested_again() -> None:
    rounds = Rounds(interval=3600)
    try:
        rounds.configure(A)
        rounds.until((URL_A, True))
        rounds.answer = lambda asked: BAD
        rounds.configure(A, proxies=Proxies({"HTTPS_PROXY": "p"}))
        rounds.until((URL_A, False))
    finally:
        rounds.prober.stop()


def test_what_was_known_before_this_process_holds_until_there_is_a_result() -> None:
    rounds = Rounds(interval=3600)
    known = tuple(
        EndpointResult(url=url, reachable=False, reason="TimedOut") for url in (URL_A, "https://gone.example")
    )
    go = threading.Event()
    rounds.answer = lambda asked: GOOD if go.wait(WAIT) else None
    try:
        rounds.configure(A, known=known)
        assert rounds.prober.reports() == known[:1]
        assert rounds.asked.get(timeout=WAIT)
        assert rounds.prober.reports() == known[:1]
        go.set()
        assert rounds.next() == ((URL_A, True),)
    finally:
        rounds.prober.stop()


def test_a_defect_in_a_test_costs_no_more_than_that_test(rounds: Rounds) -> None:
    def answer(asked: Target) -> Result | None:
        if asked is A:
            raise RuntimeError
        return GOOD

    rounds.answer = answer
    rounds.configure(A, B)
    assert rounds.next() == ((URL_B, True),)
    rounds.answer = lambda asked: GOOD  # and the rounds go on
    assert rounds.next() == ((URL_A, True), (URL_B, True))


def test_what_cannot_be_tested_is_not_told(rounds: Rounds) -> None:
    rounds.answer = lambda asked: None if asked is A else GOOD
    rounds.configure(A, B)
    assert rounds.next() == ((URL_B, True),)
