"""The rollout in every state that random play can reach: nodes join, leave, fail, recover and are made anew under their
names, objects and rules change at any time, reports are lost, and the controller dies between any two of its writes.

What is decided is judged by what the nodes really do, which the controller learns late or never. At the end of each
play, everybody is well again, and then everything that can be had comes into force, without a hand.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Literal

from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from registry_mirror.api.models import Canary, Rollout
from registry_mirror.core.members import Member, Result
from registry_mirror.core.rollout import Decision, decide

SOAK = 20.0
FRESH = 600.0
LATE = 10.0
MOST_NODES = 9

ROUNDS = st.sampled_from([0, 0, 1, 2, 4, 15])

Kind = Literal["live", "restart", "bad", "picky"]


@dataclass(frozen=True)
class Revision:
    """What nodes are to have. ``start``: what a start reads of it, which no runtime survives if it is bad, and only
    those of even numbers if it is picky.
    """

    name: str = ""
    start: str = ""
    bad: bool = False
    picky: bool = False

    def works(self, number: int) -> bool:
        return not self.bad and not (self.picky and number % 2)


NOTHING = Revision()


@dataclass(frozen=True)
class Spec:
    """What the API says that a node is to do."""

    generation: int = 1
    revision: Revision = NOTHING
    allowed: bool = False


@dataclass(frozen=True)
class Status:
    """What its agent has said last."""

    generation: int = 0
    applied: Revision = NOTHING
    good: Revision = NOTHING
    waiting: bool = False
    failed: bool = False
    result: Result = ""
    tried: Revision = NOTHING
    finished_at: float = 0.0


@dataclass
class Node:
    """One node: what the API has of it, and what is true of it (from ``heard`` on)."""

    name: str
    number: int
    server: bool
    created_at: float
    ready: bool = True
    schedulable: bool = True
    spec: Spec = field(default_factory=Spec)
    status: Status = field(default_factory=Status)
    reported: bool = False
    heard: Spec = field(default_factory=Spec)
    disk: Revision = NOTHING
    runs: Revision = NOTHING
    good: Revision = NOTHING
    restarting: bool = False
    broken: bool = False
    result: Result = ""
    tried: Revision = NOTHING
    finished_at: float = 0.0

    @property
    def waiting(self) -> bool:
        return self.disk.start != self.runs.start

    def rejects(self, revision: Revision) -> bool:
        return self.result == "RolledBack" and self.tried == revision

    @property
    def may_restart(self) -> bool:
        """Whether its runtime restarts, or could before anybody tells the agent anything else."""
        if self.restarting:
            return True
        return any(
            spec.allowed
            and not self.broken
            and not self.rejects(spec.revision)
            and spec.revision.start != self.runs.start
            for spec in (self.heard, self.spec)
        )

    def act(self, now: float) -> None:
        """One pass of the agent over what it has heard last."""
        if self.restarting:
            self.restarting = False
            self.finished_at = now
            if self.tried.works(self.number):
                self.result, self.runs, self.good = "Succeeded", self.disk, self.disk
            else:
                self.result, self.disk = "RolledBack", self.good
            return
        wanted = self.heard.revision
        if self.broken or wanted == NOTHING or self.rejects(wanted):
            return
        self.disk = wanted
        if not self.waiting:
            self.good = self.runs = wanted
        elif self.heard.allowed:
            self.restarting, self.result, self.tried = True, "InProgress", wanted

    def report(self) -> None:
        """Say how it is, to the API."""
        self.reported = True
        self.status = Status(
            generation=self.heard.generation,
            applied=self.disk,
            good=self.good,
            waiting=self.waiting,
            failed=self.broken or (self.rejects(self.heard.revision) and not self.restarting),
            result=self.result,
            tried=self.tried,
            finished_at=self.finished_at,
        )


class Play(RuleBasedStateMachine):
    """The controller and its cluster."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes: dict[str, Node] = {}
        self.rollout = Rollout()
        self.window = True
        self.now = 1000.0
        self.wanted = Revision("r0")
        self.revisions = [self.wanted]
        self.asked: dict[tuple[int, str], float] = {}
        self.number = 0
        self.tried_bad: dict[str, set[int]] = {}
        self.may_have_bad: dict[str, int] = {}

    # ---- what happens to the cluster -----------------------------------------------------------------------------

    @initialize(nodes=st.integers(1, 7), servers=st.integers(0, 3), begun=st.sampled_from([True, True, True, False]))
    def begin(self, nodes: int, servers: int, begun: bool) -> None:
        for index in range(nodes):
            self._make(f"n{index}", index < servers)
        if begun:
            for node in self.nodes.values():
                node.created_at = -FRESH
                node.spec = node.heard = Spec(2, self.wanted)
                node.disk = node.runs = node.good = self.wanted
                node.report()

    @precondition(lambda self: len(self.nodes) < MOST_NODES)
    @rule(server=st.booleans(), old=st.booleans())
    def join(self, server: bool, old: bool) -> None:
        name = next(name for name in map("n{}".format, range(MOST_NODES)) if name not in self.nodes)
        self._make(name, server)
        self.nodes[name].created_at -= FRESH if old else 0.0

    @precondition(lambda self: self.nodes)
    @rule(index=st.integers(0, MOST_NODES))
    def leave(self, index: int) -> None:
        self._gone(self.nodes.pop(self._pick(index).name))

    @precondition(lambda self: self.nodes)
    @rule(index=st.integers(0, MOST_NODES))
    def is_made_anew(self, index: int) -> None:
        old = self._pick(index)
        self._gone(old)
        self._make(old.name, old.server)

    @precondition(lambda self: self.nodes)
    @rule(
        index=st.integers(0, MOST_NODES),
        ready=st.sampled_from([True, True, False]),
        schedulable=st.sampled_from([True, True, False]),
    )
    def kubelet_says(self, index: int, ready: bool, schedulable: bool) -> None:
        node = self._pick(index)
        node.ready, node.schedulable = ready, schedulable

    @precondition(lambda self: self.nodes)
    @rule(index=st.integers(0, MOST_NODES))
    def fails(self, index: int) -> None:
        self._pick(index).broken = True

    @precondition(lambda self: any(node.broken for node in self.nodes.values()))
    @rule(index=st.integers(0, MOST_NODES))
    def recovers(self, index: int) -> None:
        broken = [node for node in self.nodes.values() if node.broken]
        broken[index % len(broken)].broken = False

    @precondition(lambda self: self.nodes)
    @rule(index=st.integers(0, MOST_NODES), hears=st.booleans(), reports=st.booleans())
    def agent_works(self, index: int, hears: bool, reports: bool) -> None:
        self._agent(self._pick(index), hears, reports)

    @rule(rounds=ROUNDS, deaf=st.sampled_from([-1, -1, 0, 1, 2]), dumb=st.sampled_from([-1, 0, 1, 2]))
    def all_work(self, rounds: int, deaf: int, dumb: int) -> None:
        """Everybody does what they have to, in turn; but one hears nothing new, and what one reports is lost."""
        for _ in range(rounds):
            self._pass(None)
            for number, node in enumerate(list(self.nodes.values())):
                self._agent(node, hears=number != deaf, reports=number != dumb)
            self.what_is_bad_reaches_the_canaries_alone()
            self.now += SOAK / 2

    @rule(seconds=st.sampled_from([1.0, 5.0, LATE, SOAK]))
    def time_goes_by(self, seconds: float) -> None:
        self.now += seconds

    # ---- what people do ------------------------------------------------------------------------------------------

    @rule(kind=st.sampled_from(["live", "restart", "bad", "picky"]), rounds=ROUNDS)
    def object_changes(self, kind: Kind, rounds: int) -> None:
        name = f"r{len(self.revisions)}"
        start = self.wanted.start if kind == "live" else f"s{len(self.revisions)}"
        bad = kind == "bad" or (kind == "live" and self.wanted.bad)
        picky = kind == "picky" or (kind == "live" and self.wanted.picky)
        self.revisions.append(Revision(name, start, bad, picky))
        self._want(self.revisions[-1])
        self.all_work(rounds, -1, -1)

    @rule(index=st.integers(0, 20), rounds=ROUNDS)
    def object_is_taken_back(self, index: int, rounds: int) -> None:
        self._want(self.revisions[index % len(self.revisions)])
        self.all_work(rounds, -1, -1)

    @rule(
        most=st.sampled_from([1, 2, "10%", "40%", "60%", "100%"]),
        canaries=st.integers(0, 3),
        paused=st.sampled_from([False, False, False, True]),
        restart=st.sampled_from(["WhenRequired", "WhenRequired", "WhenRequired", "Never"]),
        window=st.sampled_from([True, True, False]),
        rounds=ROUNDS,
    )
    def rules_change(
        self,
        most: int | str,
        canaries: int,
        paused: bool,
        restart: Literal["WhenRequired", "Never"],
        window: bool,
        rounds: int,
    ) -> None:
        canary = Canary(nodes=canaries)
        self.rollout = Rollout(max_unavailable=most, canary=canary, paused=paused, restart=restart)
        self.window = window
        self.all_work(rounds, -1, -1)

    # ---- the controller ------------------------------------------------------------------------------------------

    @rule(survives=st.integers(0, 2 * MOST_NODES))
    def controller_decides_and_dies(self, survives: int) -> None:
        self._pass(survives)

    @rule()
    def controller_decides(self) -> None:
        self._pass(None)

    def _pass(self, survives: int | None) -> Decision:
        """Decide, and write: first what gives nobody a restart, then the rest; so many writes at most."""
        found = self._decision()
        specs = {}
        for name, node in self.nodes.items():
            revision = self.wanted if name in found.give else node.spec.revision
            allowed = name in found.allow
            if (revision, allowed) != (node.spec.revision, node.spec.allowed):
                specs[name] = Spec(node.spec.generation + 1, revision, allowed)
        grants = [name for name in specs if specs[name].allowed and not self.nodes[name].spec.allowed]
        ordered = [*(name for name in specs if name not in grants), *grants]
        for name in ordered[:survives]:
            self._write(self.nodes[name], specs[name])
        return found

    def _write(self, node: Node, spec: Spec) -> None:
        if spec.allowed and not node.spec.allowed:
            assert self.rollout.restart != "Never"
            if not self._member(node).fresh:
                self._judge(node)
        assert not self.rollout.paused or (spec.revision == node.spec.revision and spec.allowed <= node.spec.allowed)
        node.spec = spec

    def _judge(self, node: Node) -> None:
        """What must hold when a node is allowed to restart."""
        assert self.window, "no restart begins outside of the windows"
        others = [item for item in self.nodes.values() if item is not node]
        away = [item for item in others if item.may_restart or not item.ready or not item.schedulable]
        assert len(away) < self._budget(), "no slot is free"
        if node.server:
            assert not any(item.may_restart for item in others if item.server), "one at a time"

    def _decision(self) -> Decision:
        members = [self._member(node) for node in self.nodes.values()]
        self._note_canaries()
        return decide(members, self.rollout, SOAK, self.now, self.window, None)

    def _note_canaries(self) -> None:
        """How many nodes may have a bad start at most, by the rules of all the time that it was wanted."""
        start, rollout = self.wanted.start, self.rollout
        if not self.wanted.bad:
            return
        # Without canaries, or with `Never`, the user wants it everywhere: nothing is promised.
        number = rollout.canary.nodes if rollout.canary.nodes and rollout.restart != "Never" else 1000
        self.may_have_bad[start] = max(self.may_have_bad.get(start, 0), number)

    def _member(self, node: Node) -> Member:
        """As controller/rollout.py sees a node."""
        spec, status = node.spec, node.status
        if not node.reported:  # no runtime is known, so nothing can be rendered
            return Member(
                name=node.name,
                wanted=spec.revision.name,
                given=spec.revision.name,
                wanted_start=spec.revision.start,
                given_start=spec.revision.start,
                seen=False,
                granted=spec.allowed,
                ready=node.ready,
                schedulable=node.schedulable,
                server=node.server,
            )
        seen = status.generation == spec.generation
        applied = spec.revision != NOTHING and status.applied == spec.revision
        failed = seen and status.failed
        return Member(
            name=node.name,
            wanted=self.wanted.name,
            given=spec.revision.name,
            wanted_start=self.wanted.start,
            given_start=spec.revision.start,
            good_start=status.good.start,
            applied=applied,
            failed=failed,
            waiting=status.waiting,
            seen=seen,
            late=self._late(node, applied or failed),
            granted=spec.allowed,
            result=status.result,
            tried=status.tried.name,
            tried_start=status.tried.start,
            finished_at=status.finished_at,
            ready=node.ready,
            schedulable=node.schedulable,
            fresh=status.applied == NOTHING and not node.server and self.now - node.created_at < FRESH,
            server=node.server,
        )

    def _late(self, node: Node, answered: bool) -> bool:
        key = (node.number, node.spec.revision.name)
        if answered or node.spec.revision == NOTHING:
            self.asked.pop(key, None)
            return False
        return self.now - self.asked.setdefault(key, self.now) >= LATE

    # ---- what holds ----------------------------------------------------------------------------------------------

    @invariant()
    def what_is_bad_reaches_the_canaries_alone(self) -> None:
        for start, numbers in self.tried_bad.items():
            alive = {node.number for node in self.nodes.values()}
            assert len(numbers & alive) <= max(self.may_have_bad.get(start, 0), 1), (start, numbers)

    def teardown(self) -> None:
        """Nothing gets worse any more: what can be had comes into force, and what cannot is said."""
        self.window, self.rollout = True, Rollout(canary=Canary(nodes=1))
        for node in self.nodes.values():
            node.ready = node.schedulable = True
            node.broken, node.heard = False, node.spec
        self._play()
        found = self._decision()
        for node in self.nodes.values():
            if not self._has(node):
                failed = node.result == "RolledBack" and node.tried.start == self.wanted.start
                assert failed or found.holds[node.name].reason == "RolloutHalted", (node, found)
                assert self.wanted.bad or self.wanted.picky, (node, found)
        self.object_changes("restart", 0)
        self._play()
        assert all(map(self._has, self.nodes.values())), (self.nodes, self._decision())

    def _play(self) -> None:
        """Everybody does what they have to, in turn, for long enough."""
        quiet = 0
        for _ in range(12 * len(self.nodes) + 40):
            before = [(node.spec, node.status) for node in self.nodes.values()]
            self._pass(None)
            for node in self.nodes.values():
                self._agent(node, hears=True, reports=True)
            self.now += SOAK / 4
            quiet = quiet + 1 if before == [(node.spec, node.status) for node in self.nodes.values()] else 0
            if quiet > 6:  # longer than any soak
                return

    def _has(self, node: Node) -> bool:
        return node.runs == node.disk == self.wanted and node.spec.revision == self.wanted and not node.spec.allowed

    def _budget(self) -> int:
        """maxUnavailable as the API documents it: a percentage is rounded down, and one node may always go."""
        value = self.rollout.max_unavailable
        most = value if isinstance(value, int) else len(self.nodes) * int(value[:-1]) // 100
        return max(most, 1)

    def _want(self, revision: Revision) -> None:
        """What is wanted again after something else is one more try, which may choose another canary."""
        if revision.start != self.wanted.start:
            having = (
                node for node in self.nodes.values() if revision.start in (node.disk.start, node.spec.revision.start)
            )
            self.tried_bad[revision.start] = {node.number for node in having}
            self.may_have_bad[revision.start] = len(self.tried_bad[revision.start])
        self.wanted = revision

    # ---- helpers -------------------------------------------------------------------------------------------------

    def _make(self, name: str, server: bool) -> None:
        self.number += 1
        self.nodes[name] = Node(name, self.number, server, self.now)

    def _gone(self, node: Node) -> None:
        for numbers in self.tried_bad.values():
            numbers.discard(node.number)

    def _pick(self, index: int) -> Node:
        return list(self.nodes.values())[index % len(self.nodes)]

    def _agent(self, node: Node, hears: bool, reports: bool) -> None:
        if hears:
            node.heard = node.spec
        node.act(self.now)
        if node.disk.bad and node.waiting:
            self.tried_bad.setdefault(node.disk.start, set()).add(node.number)
        if reports:
            node.report()


TestPlay = Play.TestCase
TestPlay.settings = settings(
    deadline=None,
    database=None,
    # The same plays each time; PLAYS=20000 looks for others.
    max_examples=int(os.environ.get("PLAYS", "600")),
    derandomize="PLAYS" not in os.environ,
    stateful_step_count=25,
    suppress_health_check=[HealthCheck.too_slow],
)
