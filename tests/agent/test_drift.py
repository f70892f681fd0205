"""A file that is rewritten again and again is left to its other owner for a while."""

from __future__ import annotations

from registry_mirror.agent.drift import Repairs


class Seconds:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def _repaired(repairs: Repairs, path: str) -> bool:
    if not repairs.allow(path):
        return False
    repairs.note((path,))
    return True


def test_three_times_and_then_a_truce() -> None:
    clock = Seconds()
    repairs = Repairs(clock)
    assert [_repaired(repairs, "/a") for _ in range(5)] == [True, True, True, False, False]
    assert _repaired(repairs, "/b")
    clock.now += 599
    assert not _repaired(repairs, "/a")
    clock.now += 1
    assert [_repaired(repairs, "/a") for _ in range(4)] == [True, True, True, False]


def test_a_change_now_and_then_is_repaired_every_time() -> None:
    clock = Seconds()
    repairs = Repairs(clock)
    for _ in range(20):
        assert _repaired(repairs, "/a")
        clock.now += 150.1


def test_another_revision_begins_anew() -> None:
    repairs = Repairs(Seconds())
    assert [_repaired(repairs, "/a") for _ in range(4)] == [True, True, True, False]
    repairs.forget()
    assert _repaired(repairs, "/a")
