"""Who may go next: which nodes are given what they are to have, and which may restart their runtime for it.

Everything is worked out anew from what is observed at each pass; there are no counters to leak (safety.md, Invariants).
What a start of the runtime reads is proven on a few nodes first. Until it is, no other node has it even on its disk: a
reboot would read it there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice

from ..api.models import Rollout
from .members import Member
from .words import SHOWN, some

# Live changes are no outage; this bounds how many nodes take one on at a time, and with it the load on the API server.
_LIVE_AT_ONCE = 0.25
_LIVE_AT_LEAST = 50


@dataclass(frozen=True, slots=True)
class Hold:
    """Why a node has to wait."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Decision:
    """``give``: who is told what it is to have; ``allow``: who may restart; ``holds``: who has to wait, and why;
    ``again``: when to look again without being told of a change (seconds since 1970), or None.
    """

    give: frozenset[str] = frozenset()
    allow: frozenset[str] = frozenset()
    holds: Mapping[str, Hold] = field(default_factory=dict)
    again: float | None = None


def decide(
    members: Sequence[Member],
    rollout: Rollout,
    soak: float,
    now: float,
    window: bool,
    until: float | None,
    closed: str = "waiting for a maintenance window of RegistryMirrorPolicy default",
) -> Decision:
    """Say who may go on.

    Takes all nodes, the rules, how long the canaries are watched (seconds), the time (seconds since 1970), whether
    restarts are allowed at this time, when that may change (None: never), and what to say as long as they are not.
    """
    found = _Pass(members, rollout, soak, now, window, until, closed)
    if rollout.paused:
        hold = Hold("Paused", "rollout.paused is set in RegistryMirrorPolicy default")
        holds = {item.name: hold for item in members if item.changed or (item.waiting and not item.granted)}
        return Decision(allow=frozenset(found.allow), holds=holds)
    return found.decide()


class _Pass:
    def __init__(
        self,
        members: Sequence[Member],
        rollout: Rollout,
        soak: float,
        now: float,
        window: bool,
        until: float | None,
        closed: str,
    ) -> None:
        self.members = sorted(members, key=_order)
        self.rollout = rollout
        self.soak, self.now = soak, now
        self.window, self.until, self.closed = window, until, closed
        self.budget = limit(rollout.max_unavailable, len(members))
        self.give: set[str] = set()
        # What was begun goes on, whatever came in between.
        self.allow = {item.name for item in members if item.granted and item.restarting}
        self.holds: dict[str, Hold] = {}
        self.times: list[float] = []
        self.away = {item.name: item for item in self.members if item.restarting or not item.well}
        self.due: dict[bool, set[str]] = {False: set(), True: set()}  # by whether they run the control plane

    def decide(self) -> Decision:
        self._live()
        self._restarts()
        if self.until is not None and self.holds:
            self.times.append(self.until)
        return Decision(frozenset(self.give), frozenset(self.allow), self.holds, min(self.times, default=None))

    # ---- changes that take no restart ----------------------------------------------------------------------------

    def _live(self) -> None:
        """A live change reaches the canaries first too, but is not watched longer than until they have it.

        Where no agent answers, it goes on without: such a node must not keep the others from what they need.
        """
        having = _grouped((item for item in self.members if item.given), lambda item: item.given)
        at_work = (item for item in self.members if item.ready and not item.late and not item.changed)
        busy = sum(not item.applied and not item.failed for item in at_work)
        room = max(_LIVE_AT_LEAST, math.ceil(_LIVE_AT_ONCE * len(self.members))) - busy
        changed = (item for item in self.members if item.changed and item.live)
        for revision, group in _grouped(changed, lambda item: item.wanted).items():
            has = having.get(revision, [])
            failed = [item for item in has if item.failed]
            canaries = self._canaries(len(group))
            proven = sum(item.applied and not item.failed for item in has) >= canaries
            if len(failed) >= (self.budget if proven else 1):
                self.give.update(item.name for item in group if proven and item.fresh)
                self._hold((item for item in group if item.name not in self.give), _halted(failed))
                continue
            first = [item for item in has if item.applied or not item.late]
            free = len(group) if proven else canaries - len(first)
            for item in group:
                if free > 0 and room > 0:
                    self.give.add(item.name)
                    free, room = free - 1, room - 1
                else:
                    text = f"waiting for the first nodes ({_names(first)})" if not proven else "waiting for its turn"
                    self.holds[item.name] = Hold("RolloutPending", text)

    # ---- changes that take a restart -----------------------------------------------------------------------------

    def _restarts(self) -> None:
        changed = [item for item in self.members if item.changed and not item.live]
        waiting = [item for item in self.members if not item.changed and item.waiting and item.seen]
        for item in waiting:
            if item.rolled_back:  # of another revision, but a start would read the same
                self.holds[item.name] = _halted([item])
        waiting = [item for item in waiting if not item.rolled_back]
        if self.rollout.restart == "Never":
            self.give.update(item.name for item in changed)
            return
        tried = _grouped((item for item in self.members if item.given), lambda item: item.given_start)
        todo = (item for item in (*waiting, *changed) if item.changed or item.name not in self.allow)
        ready: list[tuple[list[Member], int | None]] = []
        for start, group in _grouped(todo, lambda item: item.wanted_start).items():
            found = self._prove(group, tried.get(start, []))
            if found is None:
                continue
            ready.append(found)
            for item in group:
                if item.well and item.name not in self.allow:
                    self.due[item.server].add(item.name)
        for group, free in ready:
            self._next(group, free)

    def _prove(self, group: list[Member], tried: list[Member]) -> tuple[list[Member], int | None] | None:
        """Take those who are to have one start, and those who were told it; gives who of them may go on, and how many
        at most (None: all), or None if they are halted. Notes why the others may not.
        """
        failed = [item for item in tried if item.rolled_back or (item.failed and not item.changed)]
        good = [item for item in tried if item.in_force]
        canaries = self._canaries(len(group) + len(good))
        proven = len(good) >= canaries
        # Nothing runs there, and what they get is known to work elsewhere.
        fresh = [item for item in group if proven and item.fresh]
        for item in fresh:
            self._start(item)
        left = [item for item in group if not (proven and item.fresh)]
        if len(failed) >= (self.budget if proven else 1):
            self._hold(left, _halted(failed))
            return None
        if not proven:
            at_work = [item for item in tried if item.in_doubt]
            free = canaries - len(good) - len(at_work)
            if free <= 0:
                text = f"waiting for the first nodes to come back ({_names(at_work)})"
                self._hold(group, Hold("CanaryPending", text))
            return (group, free) if free > 0 else ([], 0)
        ends = sorted(item.finished_at for item in good)[canaries - 1] + self.soak if canaries else 0.0
        if self.now >= ends:
            return left, None
        self.times.append(ends)
        number = f"first {canaries} nodes are" if canaries > 1 else "first node is"
        self._hold(left, Hold("Soaking", f"the {number} watched until {_time(ends)}"))
        return [], 0

    def _next(self, group: list[Member], free: int | None) -> None:
        """Start those for whom there is a slot: as canaries, at most ``free`` of them."""
        first = sorted(group, key=_canary_order) if free is not None else group
        for item in first:
            if free is not None and free <= 0:
                self.holds[item.name] = Hold("CanaryPending", "waiting for the first nodes")
            elif item.fresh or self._may(item):
                self._start(item)
                free = free - 1 if free is not None else None

    def _may(self, item: Member) -> bool:
        """Tell whether there is a slot for that node now; notes why not."""
        why = self._why_not(item)
        if why is not None:
            self.holds[item.name] = why
        return why is None

    def _why_not(self, item: Member) -> Hold | None:
        if not self.window:
            return Hold("OutsideWindow", self.closed)
        others = len(self.away) - (item.name in self.away)
        if others >= self.budget:
            shown = list(islice((other for other in self.away.values() if other.name != item.name), SHOWN))
            names = _names(shown, others)
            text = f"rollout.maxUnavailable is {self.rollout.max_unavailable}, and not available are: {names}"
            return Hold("WaitingForSlot", text)
        if not item.well and any(self.due.values()):
            return Hold("WaitingForSlot", "a node that is not ready, or cordoned, comes after all others")
        if item.server and any(other.server and other.name != item.name for other in self.away.values()):
            return Hold("WaitingForSlot", "control-plane nodes are restarted one at a time")
        if item.server and self.due[False]:
            return Hold("WaitingForSlot", "control-plane nodes come after all others")
        return None

    def _start(self, item: Member) -> None:
        if item.changed:
            self.give.add(item.name)
        self.allow.add(item.name)
        self.away[item.name] = item
        self.due[item.server].discard(item.name)

    def _canaries(self, nodes: int) -> int:
        return min(self.rollout.canary.nodes, max(nodes, 1))

    def _hold(self, group: Iterable[Member], hold: Hold) -> None:
        self.holds.update((item.name, hold) for item in group)


def _order(item: Member) -> tuple[bool, bool, bool, bool, str]:
    """Those that are doing well first, control-plane nodes last."""
    return item.server, not item.ready, not item.schedulable, item.failed, item.name


def _canary_order(item: Member) -> tuple[bool, bool, bool]:
    """Who has it on the disk already; where it failed before, it harms nobody else; and where nothing runs, nobody."""
    return item.changed, not item.rolled_back, not (item.fresh and item.ready)


def _grouped(members: Iterable[Member], key: Callable[[Member], str]) -> dict[str, list[Member]]:
    groups: dict[str, list[Member]] = {}
    for item in members:
        groups.setdefault(key(item), []).append(item)
    return groups


def _halted(failed: Sequence[Member]) -> Hold:
    text = f"halted: it failed on {_names(failed)}. Change the object, or take it back; the rollout goes on by itself"
    return Hold("RolloutHalted", text)


def _names(members: Sequence[Member], count: int = 0) -> str:
    """Name the first of so many nodes."""
    return some([item.name for item in members[:SHOWN]], max(count, len(members)))


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(math.ceil(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def limit(value: int | str, nodes: int) -> int:
    """Give maxUnavailable as a number of nodes, at least one: a percentage is rounded down, as the API says."""
    if isinstance(value, int):
        return max(value, 1)
    return max(nodes * int(value.rstrip("%")) // 100, 1)
