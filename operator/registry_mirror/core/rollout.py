"""Who may go next: which nodes are given what they are to have, and which may restart their runtime for it.

Everything is worked out anew from what is observed at each pass; there are no counters to leak (safety.md, Invariants).
What a start of the runtime reads is proven on a few nodes first. Until it is, no other node has it even on its disk: a
reboot would read it there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..api.models import Rollout

# Live changes are no outage; this bounds how many nodes take one on at a time, and with it the load on the API server.
_LIVE_AT_ONCE = 0.25
_LIVE_AT_LEAST = 50

Result = Literal["", "InProgress", "Succeeded", "RolledBack", "RollbackFailed"]


@dataclass(frozen=True, slots=True)
class Member:
    """One node of the cluster as the rollout sees it.

    ``wanted`` is the revision that it is to have and ``given`` the one that it was told; ``wanted_start`` and
    ``given_start`` stand for what a start of the runtime reads in them (equal: the change is live). ``applied`` and
    ``failed`` are what its agent says of ``given``; ``waiting``: a part of that takes a restart. ``result`` is that of
    the last restart, which was for ``tried`` and over at ``finished_at`` (seconds since 1970). ``fresh``: nothing runs
    there yet. ``server``: it runs the control plane.
    """

    name: str
    wanted: str
    given: str = ""
    wanted_start: str = ""
    given_start: str = ""
    applied: bool = False
    failed: bool = False
    waiting: bool = False
    granted: bool = False
    result: Result = ""
    tried: str = ""
    finished_at: float = 0.0
    ready: bool = True
    schedulable: bool = True
    fresh: bool = False
    server: bool = False

    @property
    def restarting(self) -> bool:
        """Whether a restart is going on, or may begin at any moment."""
        return self.result == "InProgress" or (self.granted and self.waiting and not self.rolled_back)

    @property
    def rolled_back(self) -> bool:
        """Whether it went back from the revision that it was told."""
        return self.tried == self.given and self.result in ("RolledBack", "RollbackFailed")

    @property
    def in_force(self) -> bool:
        """Whether the runtime works with all that it was told."""
        return self.applied and not self.waiting and not self.failed and not self.rolled_back

    @property
    def live(self) -> bool:
        """Whether what it is to have next takes no restart."""
        return self.wanted_start == self.given_start or (not self.given and not self.wanted_start)


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
    members: Sequence[Member], rollout: Rollout, soak: float, now: float, window: bool, until: float | None
) -> Decision:
    """Say who may go on.

    Takes all nodes with a plan, the rules, how long the canaries are watched (seconds), the time (seconds since 1970),
    whether restarts are allowed at this time, and when that changes (None: never).
    """
    if rollout.paused:
        hold = Hold("Paused", "rollout.paused is set in RegistryMirrorPolicy default")
        return Decision(holds={item.name: hold for item in members if item.wanted != item.given or item.waiting})
    return _Pass(members, rollout, soak, now, window, until).decide()


class _Pass:
    def __init__(
        self,
        members: Sequence[Member],
        rollout: Rollout,
        soak: float,
        now: float,
        window: bool,
        until: float | None,
    ) -> None:
        self.members = sorted(members, key=_order)
        self.rollout = rollout
        self.soak, self.now = soak, now
        self.window, self.until = window, until
        self.budget = limit(rollout.max_unavailable, len(members))
        self.give: set[str] = set()
        self.allow: set[str] = set()
        self.holds: dict[str, Hold] = {}
        self.times: list[float] = []

    def decide(self) -> Decision:
        self._live()
        self._restarts()
        if self.until is not None and self.holds:
            self.times.append(self.until)
        return Decision(frozenset(self.give), frozenset(self.allow), self.holds, min(self.times, default=None))

    # ---- changes that take no restart ----------------------------------------------------------------------------

    def _live(self) -> None:
        """A live change reaches the canaries first too, but is not watched longer than until they have it."""
        changed = [item for item in self.members if item.wanted != item.given and item.live]
        busy = sum(not item.applied and not item.failed for item in self.members if item.wanted == item.given)
        room = max(_LIVE_AT_LEAST, math.ceil(_LIVE_AT_ONCE * len(self.members))) - busy
        for revision, group in _grouped(changed, lambda item: item.wanted).items():
            has = [item for item in self.members if item.given == revision]
            failed = [item for item in has if item.failed]
            proven = sum(item.applied and not item.failed for item in has) >= self._canaries(group)
            if len(failed) >= (self.budget if proven else 1):
                self._hold(group, _halted(failed))
                continue
            free = len(group) if proven else self._canaries(group) - len(has)
            for item in group:
                if free > 0 and room > 0:
                    self.give.add(item.name)
                    free, room = free - 1, room - 1
                else:
                    text = "waiting for the first nodes" if not proven else "waiting for its turn"
                    self.holds[item.name] = Hold("RolloutPending", text)

    # ---- changes that take a restart -----------------------------------------------------------------------------

    def _restarts(self) -> None:
        changed = [item for item in self.members if item.wanted != item.given and not item.live]
        waiting = [item for item in self.members if item.wanted == item.given and item.waiting and not item.rolled_back]
        if self.rollout.restart == "Never":
            self.give.update(item.name for item in changed)
            return
        for item in self.members:
            if item.restarting and item.wanted == item.given:
                self.allow.add(item.name)  # what was begun goes on, whatever came in between
        for item in (*changed, *waiting):
            if item.fresh and item.name not in self.allow:
                self._start(item)
        groups = _grouped(
            [item for item in (*waiting, *changed) if item.name not in self.allow], lambda item: item.wanted_start
        )
        for start, group in groups.items():
            self._group(start, group)

    def _group(self, start: str, group: list[Member]) -> None:
        tried = [item for item in self.members if item.given_start == start and item.given]
        failed = [item for item in tried if item.rolled_back or (item.failed and item.wanted == item.given)]
        good = [item for item in tried if item.in_force]
        canaries = self._canaries((*group, *good))
        since = sorted(item.finished_at for item in good)
        proven = len(good) >= canaries
        if len(failed) >= (self.budget if proven else 1):
            self._hold(group, _halted(failed))
            return
        ends = since[canaries - 1] + self.soak if proven else 0.0
        if proven and self.now < ends:
            self.times.append(ends)
            self._hold(
                group, Hold("Soaking", f"the first {canaries} nodes are watched for {ends - self.now:.0f} s more")
            )
            return
        free = len(group) if proven else canaries - len(good) - sum(item.restarting for item in tried)
        for item in group:
            if free <= 0:
                self.holds[item.name] = Hold("CanaryPending", "waiting for the first nodes to come back")
            elif self._may(item):
                self._start(item)
                free -= 1

    def _may(self, item: Member) -> bool:
        """Tell whether there is a slot for that node now; notes why not."""
        if not self.window:
            text = "waiting for a maintenance window of RegistryMirrorPolicy default"
            self.holds[item.name] = Hold("OutsideWindow", text)
            return False
        away = [other for other in self.members if self._away(other) and other.name != item.name]
        if len(away) >= self.budget:
            names = ", ".join(other.name for other in away[:3])
            text = f"rollout.maxUnavailable is {self.rollout.max_unavailable}, and not available are: {names}"
            self.holds[item.name] = Hold("WaitingForSlot", text)
            return False
        well = [other for other in self.members if self._is_due(other) and other.name not in self.allow]
        if not (item.ready and item.schedulable) and well:
            text = "a node that is not ready, or cordoned, comes after all others"
            self.holds[item.name] = Hold("WaitingForSlot", text)
            return False
        if item.server and any(other.server for other in away):
            self.holds[item.name] = Hold("WaitingForSlot", "control-plane nodes are restarted one at a time")
            return False
        if item.server and any(not other.server for other in well):
            self.holds[item.name] = Hold("WaitingForSlot", "control-plane nodes come after all others")
            return False
        return True

    def _away(self, item: Member) -> bool:
        return item.name in self.allow or item.restarting or not item.ready or not item.schedulable

    def _is_due(self, item: Member) -> bool:
        return item.ready and item.schedulable and (item.waiting or (item.wanted != item.given and not item.live))

    def _start(self, item: Member) -> None:
        if item.wanted != item.given:
            self.give.add(item.name)
        self.allow.add(item.name)

    def _canaries(self, group: Iterable[Member]) -> int:
        return min(max(self.rollout.canary.nodes, 1), max(sum(1 for _ in group), 1))

    def _hold(self, group: Iterable[Member], hold: Hold) -> None:
        self.holds.update((item.name, hold) for item in group)


def _order(item: Member) -> tuple[bool, bool, bool, str]:
    """Those that are doing well first, control-plane nodes last."""
    return item.server, not item.ready, not item.schedulable, item.name


def _grouped(members: Iterable[Member], key: Callable[[Member], str]) -> dict[str, list[Member]]:
    groups: dict[str, list[Member]] = {}
    for item in members:
        groups.setdefault(key(item), []).append(item)
    return groups


def _halted(failed: Sequence[Member]) -> Hold:
    names = ", ".join(item.name for item in failed[:3])
    text = f"halted: it failed on {names}. Change the object, or take it back; the rollout goes on by itself"
    return Hold("RolloutHalted", text)


def limit(value: int | str, nodes: int) -> int:
    """Give maxUnavailable as a number of nodes, at least one: a percentage is rounded up."""
    if isinstance(value, int):
        return max(value, 1)
    return max(math.ceil(nodes * int(value.rstrip("%")) / 100), 1)
