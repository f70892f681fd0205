"""Who may go next, played through on clusters whose nodes do what they are told, or do not.

The invariants hold at every step of every random play: never more restarts than maxUnavailable, never a second node
with what the first one failed on, and in the end everybody has what can be had.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings, strategies as st

from registry_mirror.api.models import Canary, Rollout
from registry_mirror.core.members import Member
from registry_mirror.core.rollout import Decision, decide, limit

SOAK = 30.0
LIVE, RESTART, BAD = "live", "restart", "bad"


class Cluster:
    """Nodes, a clock, and the controller's decisions carried out on them."""

    def __init__(self, nodes: int, rollout: Rollout | None = None, servers: int = 0) -> None:
        self.rollout = rollout or Rollout()
        self.now = 1000.0
        self.window = True
        self.until: float | None = None
        self.members = {
            name: Member(name=name, wanted="", server=index >= nodes - servers)
            for index, name in enumerate(f"n{index:02}" for index in range(nodes))
        }
        self.most_restarting = 0
        self.touched: list[str] = []
        self.restarted: list[str] = []

    def want(self, revision: str, kind: str) -> None:
        """Let every node be to have a revision; ``kind`` says whether it takes a restart, and whether that fails."""
        for name, item in self.members.items():
            start = item.wanted_start if kind == LIVE else f"{kind}-{revision}"
            self.members[name] = replace(item, wanted=revision, wanted_start=start)

    def change(self, name: str, **fields: object) -> None:
        """Change what is seen of a node."""
        self.members[name] = replace(self.members[name], **fields)  # type: ignore[arg-type]

    def decision(self) -> Decision:
        """What the controller decides now."""
        return decide(list(self.members.values()), self.rollout, SOAK, self.now, self.window, self.until)

    def step(self, works: Callable[[Member], bool] = lambda item: not item.given_start.startswith(BAD)) -> Decision:
        """Decide, tell the nodes, and have each do one thing; a second goes by.

        A node first reads what it is told, then acts: in between, the controller decides from what it said before.
        """
        found = self.decision()
        for name, item in self.members.items():
            told = item
            if name in found.give:
                self.touched.append(name)
                told = replace(told, given=item.wanted, given_start=item.wanted_start, applied=False, failed=False)
            told = replace(told, granted=name in found.allow)
            self.members[name] = replace(told, seen=item.seen and told == item)
        self._count()
        for name, item in self.members.items():
            self.members[name] = self._act(item, works) if item.seen else replace(item, seen=True)
        self._count()
        self.now += 1
        return found

    def _count(self) -> None:
        self.most_restarting = max(self.most_restarting, len([i for i in self.members.values() if i.restarting]))

    def _act(self, item: Member, works: Callable[[Member], bool]) -> Member:
        if item.result == "InProgress":
            self.restarted.append(item.name)
            if works(item):
                done = replace(item, result="Succeeded", good_start=item.tried_start, applied=item.tried == item.given)
                return replace(done, waiting=item.given_start != done.good_start, finished_at=self.now)
            failed = item.tried == item.given
            return replace(item, result="RolledBack", waiting=False, applied=False, failed=failed, finished_at=self.now)
        if not item.given or item.failed:
            return item
        if not item.applied and not item.rolled_back:
            return replace(item, applied=True, waiting=item.given_start != item.good_start)
        if item.waiting and item.granted and not item.rolled_back:
            return replace(item, result="InProgress", tried=item.given, tried_start=item.given_start)
        return item

    def play(self, steps: int) -> None:
        """Many steps."""
        for _ in range(steps):
            self.step()

    def has(self, revision: str) -> list[str]:
        """The nodes on which a revision is in force."""
        return [name for name, item in self.members.items() if item.given == revision and item.in_force]


def test_a_live_change_reaches_one_node_first_and_then_all_at_once() -> None:
    cluster = Cluster(20)
    cluster.want("r1", LIVE)
    cluster.step()
    assert cluster.touched == ["n00"]
    cluster.play(5)
    assert len(cluster.has("r1")) == 20
    assert cluster.restarted == []


def test_live_changes_are_bounded_in_a_large_cluster() -> None:
    cluster = Cluster(400)
    cluster.want("r1", LIVE)
    cluster.play(3)
    assert len(cluster.touched) == 1 + 100
    cluster.play(10)
    assert len(cluster.has("r1")) == 400


def test_a_live_change_that_fails_on_the_first_node_goes_nowhere_else() -> None:
    cluster = Cluster(5)
    cluster.want("r1", LIVE)
    cluster.step()
    cluster.change("n00", applied=False, failed=True)
    found = cluster.step()
    assert cluster.touched == ["n00"]
    assert {item.reason for item in found.holds.values()} == {"RolloutHalted"}
    assert "n00" in found.holds["n01"].message
    cluster.want("r2", LIVE)
    cluster.change("n00", failed=False)
    cluster.play(4)
    assert len(cluster.has("r2")) == 5


def test_a_restart_is_proven_on_the_canary_and_watched_before_the_second_node_has_it_on_its_disk() -> None:
    cluster = Cluster(4)
    cluster.want("r1", RESTART)
    cluster.play(5)
    assert cluster.has("r1") == ["n00"]
    assert cluster.touched == ["n00"]
    found = cluster.decision()
    assert found.holds["n01"].reason == "Soaking"
    assert found.again is not None
    assert 0 < found.again - cluster.now <= SOAK
    cluster.now = found.again
    cluster.play(20)
    assert len(cluster.has("r1")) == 4
    assert cluster.most_restarting == 1


@pytest.mark.parametrize(("value", "most"), [(3, 3), ("25%", 2), ("100%", 9), (1, 1)])
def test_never_more_restarts_than_max_unavailable(value: int | str, most: int) -> None:
    cluster = Cluster(10, Rollout(max_unavailable=value, canary=Canary(nodes=1)))
    cluster.want("r1", RESTART)
    cluster.play(120)
    assert len(cluster.has("r1")) == 10
    assert cluster.most_restarting == most


def test_several_canaries_one_after_the_other_within_max_unavailable() -> None:
    cluster = Cluster(6, Rollout(canary=Canary(nodes=3), max_unavailable=2))
    cluster.want("r1", RESTART)
    cluster.play(20)
    assert cluster.has("r1") == ["n00", "n01", "n02"]
    assert cluster.most_restarting == 2


def test_a_bad_change_reaches_one_node_and_its_correction_all_without_a_hand() -> None:
    cluster = Cluster(5, Rollout(max_unavailable=3))
    cluster.want("r1", BAD)
    cluster.play(80)
    assert cluster.touched == ["n00"]
    assert {item.reason for item in cluster.decision().holds.values()} == {"RolloutHalted"}
    cluster.want("r2", RESTART)
    cluster.play(120)
    assert len(cluster.has("r2")) == 5


def test_taking_a_bad_change_back_recovers_the_canary_without_a_restart_or_a_window() -> None:
    cluster = Cluster(3)
    cluster.want("r0", LIVE)
    cluster.play(6)
    cluster.want("r1", BAD)
    cluster.play(10)
    assert cluster.restarted == ["n00"]
    cluster.window = False
    for name in cluster.members:
        cluster.change(name, wanted="r0", wanted_start="")
    cluster.play(10)
    assert len(cluster.has("r0")) == 3
    assert cluster.restarted == ["n00"]


def test_a_live_change_on_top_of_a_bad_one_has_nobody_try_again() -> None:
    cluster = Cluster(5, Rollout(max_unavailable=3))
    cluster.want("r1", BAD)
    cluster.play(20)
    for name, item in cluster.members.items():
        cluster.change(name, wanted="r2", wanted_start=item.wanted_start)
    cluster.play(60)
    assert cluster.restarted == cluster.touched == ["n00"]
    assert {item.reason for item in cluster.decision().holds.values()} == {"RolloutHalted"}


def test_another_bad_change_is_tried_where_the_first_one_failed() -> None:
    cluster = Cluster(5, Rollout(max_unavailable=3))
    cluster.change("n00", failed=True, given="r0")  # for a reason of its own: it comes last
    for revision in ("r1", "r2", "r3"):
        cluster.want(revision, BAD)
        cluster.play(20)
    assert cluster.restarted == ["n01"] * 3


def test_a_change_that_waits_for_its_restart_is_taken_back_without_one() -> None:
    cluster = Cluster(2, Rollout(restart="Never"))
    cluster.want("r1", RESTART)
    cluster.play(4)
    assert all(item.waiting for item in cluster.members.values())
    cluster.rollout, cluster.window = Rollout(), False
    for name in cluster.members:
        cluster.change(name, wanted="r2", wanted_start="")
    cluster.play(8)
    assert len(cluster.has("r2")) == 2
    assert cluster.restarted == []


def test_an_order_about_something_else_puts_nothing_in_doubt_that_was_proven() -> None:
    cluster = Cluster(3)
    cluster.want("r1", RESTART)
    cluster.play(8)
    assert cluster.has("r1") == ["n00"]
    cluster.change("n00", seen=False)
    found = cluster.decision()
    assert not found.give
    assert {item.reason for item in found.holds.values()} == {"Soaking"}


def test_a_canary_that_has_not_answered_is_not_replaced_by_another() -> None:
    cluster = Cluster(3, Rollout(max_unavailable=3))
    cluster.want("r1", RESTART)
    cluster.step()
    for fields in ({"seen": False}, {"seen": False, "granted": False}, {"seen": True, "applied": False}):
        cluster.change("n00", **fields)
        assert not cluster.decision().give, fields
    cluster.change("n00", seen=True, failed=True, waiting=True, applied=True)
    assert {item.reason for item in cluster.decision().holds.values()} == {"RolloutHalted"}
    cluster.change("n00", failed=False)
    assert "n00" in cluster.decision().allow, "it has recovered"


def test_a_live_change_goes_on_without_nodes_whose_agents_do_not_answer() -> None:
    cluster = Cluster(3)
    cluster.want("r1", LIVE)
    cluster.step()
    cluster.change("n00", applied=False, late=True)
    assert cluster.decision().give == {"n01"}
    for ready in (True, False):
        silent = [Member(name=f"s{index}", wanted="r0", given="r0", late=ready, ready=ready) for index in range(60)]
        proven = Member(name="p", wanted="r1", given="r1", applied=True)
        told = decide([*silent, proven, Member(name="x", wanted="r1")], Rollout(), SOAK, 0.0, True, None)
        assert told.give == {"x"}


def one_more(*others: Member, **rollout: object) -> frozenset[str]:
    """Who may restart when a node that could wants to, beside these."""
    rules = Rollout(canary=Canary(nodes=0), **rollout)  # type: ignore[arg-type]
    item = Member(name="x", wanted="r1", wanted_start="s1")
    return decide([*others, item], rules, SOAK, 0.0, True, None).allow


def test_what_a_node_said_before_its_newest_order_frees_no_slot_and_begins_nothing() -> None:
    assert one_more() == {"x"}
    said = Member(name="a", wanted="r0", given="r0", applied=True)
    assert one_more(said) == {"x"}
    assert one_more(replace(said, granted=True)) == {"x"}
    assert one_more(replace(said, granted=True, seen=False)) == {"a"}
    assert one_more(replace(said, result="InProgress")) == frozenset(), "a restart that nobody granted is one too"
    waits = replace(said, given_start="s0", wanted_start="s0", waiting=True)
    assert one_more(waits) == {"a"}
    assert one_more(replace(waits, seen=False)) == {"x"}


def test_what_failed_is_known_by_what_a_start_reads() -> None:
    back = Member(name="a", wanted="r2", given="r2", wanted_start="s1", given_start="s1", applied=True, waiting=True)
    back = replace(back, result="RolledBack", tried="r1", tried_start="s1")
    assert one_more(back, max_unavailable=1) == frozenset()
    assert one_more(replace(back, tried_start="s0"), max_unavailable=2) == {"a", "x"}


def test_control_plane_nodes_wait_for_nodes_of_another_kind_too() -> None:
    server = Member(name="a", wanted="r0", wanted_start="s0", server=True)
    worker = Member(name="b", wanted="r1", given="r1", wanted_start="s1", given_start="s1", applied=True)
    other = Member(name="c", wanted="r1", wanted_start="s1")
    found = decide([server, worker, other], Rollout(max_unavailable=3), SOAK, 1.0, True, None)
    assert found.allow == set()
    assert found.holds["c"].reason == "Soaking"
    assert "control-plane nodes come after" in found.holds["a"].message
    assert decide([server, worker], Rollout(), SOAK, 1.0, True, None).allow == {"a"}


def test_without_canaries_everybody_goes_at_once_as_far_as_there_are_slots() -> None:
    cluster = Cluster(6, Rollout(canary=Canary(nodes=0), max_unavailable=2))
    cluster.want("r1", RESTART)
    cluster.step()
    assert cluster.touched == ["n00", "n01"]
    cluster.play(60)
    assert len(cluster.has("r1")) == 6
    live = Cluster(6, Rollout(canary=Canary(nodes=0)))
    live.want("r1", LIVE)
    live.step()
    assert len(live.touched) == 6


def test_what_was_granted_counts_until_the_node_has_said_that_it_is_over() -> None:
    cluster = Cluster(4, Rollout(canary=Canary(nodes=0)))
    cluster.want("r1", RESTART)
    cluster.step()
    assert cluster.members["n00"].granted
    for rollout in (Rollout(paused=True), Rollout(restart="Never"), Rollout()):
        cluster.rollout = rollout
        assert cluster.decision().allow == {"n00"}
    cluster.want("r2", LIVE)
    assert cluster.decision().allow == {"n00"}, "what it has to do now may need no restart, but it may have begun"


def test_after_the_canary_it_takes_as_many_failures_as_there_are_slots() -> None:
    broken = {"n03", "n04", "n05"}
    cluster = Cluster(8, Rollout(max_unavailable=2))
    cluster.want("r1", RESTART)
    for _ in range(120):
        cluster.step(lambda item: item.name not in broken)
    failed = [name for name, item in cluster.members.items() if item.rolled_back]
    assert 2 <= len(failed) <= 3
    assert {item.reason for item in cluster.decision().holds.values()} == {"RolloutHalted"}


def test_nodes_that_are_not_ready_or_cordoned_use_up_slots_and_are_not_chosen_first() -> None:
    cluster = Cluster(4)
    cluster.change("n00", ready=False)
    cluster.want("r1", RESTART)
    found = cluster.step()
    assert not found.give
    assert found.holds["n01"].reason == "WaitingForSlot"
    assert "n00" in found.holds["n01"].message
    cluster.rollout = Rollout(max_unavailable=2)
    cluster.step()
    assert cluster.touched == ["n01"]
    cluster.change("n00", ready=True)
    cluster.change("n02", schedulable=False)
    cluster.play(100)
    assert len(cluster.has("r1")) == 4
    assert cluster.touched.index("n02") > cluster.touched.index("n00")


def test_a_node_that_went_with_a_slot_gives_it_back() -> None:
    cluster = Cluster(3)
    cluster.want("r1", RESTART)
    cluster.play(2)
    assert cluster.members.pop("n00").restarting
    cluster.play(120)
    assert len(cluster.has("r1")) == 2


def test_control_plane_nodes_come_last_and_one_at_a_time() -> None:
    cluster = Cluster(7, Rollout(max_unavailable=3), servers=3)
    cluster.want("r1", RESTART)
    for _ in range(120):
        cluster.step()
        assert len([item for item in cluster.members.values() if item.server and item.restarting]) <= 1
    assert set(cluster.restarted[-3:]) == {"n04", "n05", "n06"}


def test_fresh_nodes_are_no_way_around_the_canary() -> None:
    cluster = Cluster(6)
    for name in list(cluster.members)[2:]:
        cluster.change(name, fresh=True)
    cluster.want("r1", BAD)
    cluster.play(30)
    assert cluster.touched == ["n02"], "nothing runs there yet, so it is the first"
    cluster.window = False
    cluster.want("r2", RESTART)
    cluster.play(30)
    assert cluster.has("r2") == ["n02", "n03", "n04", "n05"], "neither the window nor the soak holds them"


def test_a_fresh_node_is_served_at_once_and_needs_no_slot() -> None:
    cluster = Cluster(3)
    cluster.want("r1", RESTART)
    cluster.play(5)
    cluster.change("n02", fresh=True)
    found = cluster.decision()
    assert "n02" in found.give & found.allow


@pytest.mark.parametrize("kind", [LIVE, RESTART])
def test_a_node_that_is_stuck_does_not_hold_up_those_that_join_once_it_is_known_to_work(kind: str) -> None:
    cluster = Cluster(5)
    cluster.want("r1", kind)
    for name in ("n00", "n01"):
        cluster.change(name, given="r1", given_start=cluster.members[name].wanted_start, applied=True)
    cluster.change("n02", given="r1", given_start=cluster.members["n02"].wanted_start, failed=True)
    cluster.change("n04", fresh=True)
    found = cluster.decision()
    assert found.holds["n03"].reason == "RolloutHalted"
    assert "n04" in found.give
    for name in ("n00", "n01"):
        cluster.change(name, applied=False)
    assert "n04" not in cluster.decision().give, "nobody knows yet whether it works"


def test_paused_nothing_begins() -> None:
    cluster = Cluster(3, Rollout(paused=True))
    cluster.want("r1", LIVE)
    cluster.play(3)
    assert cluster.touched == []
    assert {item.reason for item in cluster.decision().holds.values()} == {"Paused"}


def test_outside_of_a_window_only_live_changes_go_on() -> None:
    cluster = Cluster(3)
    cluster.window, cluster.until = False, 5000.0
    cluster.want("r1", LIVE)
    cluster.play(4)
    assert len(cluster.has("r1")) == 3
    cluster.want("r2", RESTART)
    found = cluster.step()
    assert not found.give
    assert found.again == 5000.0
    assert {item.reason for item in found.holds.values()} >= {"OutsideWindow"}
    cluster.window = True
    cluster.play(120)
    assert len(cluster.has("r2")) == 3


def test_never_restart_gives_everything_and_allows_nothing() -> None:
    cluster = Cluster(3, Rollout(restart="Never"))
    cluster.want("r1", RESTART)
    cluster.play(3)
    assert all(item.given == "r1" and item.waiting for item in cluster.members.values())
    assert cluster.restarted == []


def test_a_controller_that_starts_anew_grants_nothing_twice() -> None:
    cluster = Cluster(5, Rollout(max_unavailable=2))
    cluster.want("r1", RESTART)
    for _ in range(100):
        cluster.step()
        # Another controller, which knows only what is observed, decides the same.
        assert (
            decide(list(cluster.members.values())[::-1], cluster.rollout, SOAK, cluster.now, True, None)
            == cluster.decision()
        )
    assert cluster.most_restarting == 2


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([LIVE, RESTART, BAD]), min_size=1, max_size=4),
    st.integers(1, 12),
    st.integers(0, 3),
    st.integers(1, 4),
    st.sampled_from([1, 2, 5, "10%", "50%"]),
    st.integers(0, 60),
)
def test_any_play_keeps_the_invariants_and_comes_to_an_end(
    kinds: list[str], nodes: int, servers: int, canaries: int, most: int | str, between: int
) -> None:
    cluster = Cluster(nodes, Rollout(max_unavailable=most, canary=Canary(nodes=canaries)), min(servers, nodes))
    budget = limit(most, nodes)
    for index, kind in enumerate(kinds):
        cluster.want(f"r{index}", kind)
        before = len(cluster.touched)
        cluster.play(between)
        assert cluster.most_restarting <= budget
        if kind == BAD:
            assert len(cluster.touched) - before <= max(budget, 1)
    last = f"r{len(kinds)}"
    cluster.want(last, RESTART)
    cluster.play(nodes * 8 + 2 * int(SOAK) + 60)
    assert len(cluster.has(last)) == nodes
    assert cluster.most_restarting <= budget


@pytest.mark.parametrize(
    ("value", "nodes", "expected"),
    [(0, 5, 1), (3, 5, 3), ("0%", 5, 1), ("1%", 50, 1), ("34%", 3, 1), ("67%", 3, 2), ("100%", 7, 7)],
)
def test_limit(value: int | str, nodes: int, expected: int) -> None:
    assert limit(value, nodes) == expected
