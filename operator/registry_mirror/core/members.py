"""A node as the rollout sees it: what it was told, what became of that, and whether it is busy or away."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from .bundle import Bundle

Result = Literal["", "InProgress", "Succeeded", "RolledBack", "RollbackFailed"]


@dataclass(frozen=True, slots=True)
class Member:
    """One node of the cluster as the rollout sees it.

    ``wanted`` is the revision that it is to have and ``given`` the one that it was told. The starts stand for what a
    start of the runtime reads: in ``wanted``, in ``given``, in what it would go back to (``good_start``), and in what
    its last restart was for (``tried``, ``tried_start``). ``result`` is that of this restart, which was over at
    ``finished_at`` (seconds since 1970). ``applied`` and ``failed`` are what its agent says of ``given``; ``waiting``:
    a part of that takes a restart; ``seen``: it has answered to the newest order, be that about another revision or
    not; ``late``: it should have said something by now. ``fresh``: nothing runs there yet. ``server``: it runs the
    control plane.
    """

    name: str
    wanted: str
    given: str = ""
    wanted_start: str = ""
    given_start: str = ""
    good_start: str = ""
    applied: bool = False
    failed: bool = False
    waiting: bool = False
    seen: bool = True
    late: bool = False
    granted: bool = False
    result: Result = ""
    tried: str = ""
    tried_start: str = ""
    finished_at: float = 0.0
    ready: bool = True
    schedulable: bool = True
    fresh: bool = False
    server: bool = False

    @property
    def restarting(self) -> bool:
        """Whether a restart is going on, or may begin at any moment: what was granted is so until the agent has said
        that it needs it no more. One that is stuck may begin the moment that it is not, before it hears of anything.
        """
        done = self.rolled_back or (self.seen and self.applied and not self.waiting)
        return self.result == "InProgress" or (self.granted and not done)

    @property
    def in_doubt(self) -> bool:
        """Whether it will be known only later what becomes of what it was told."""
        known = self.in_force or self.rolled_back or (self.seen and (self.failed or self.applied))
        return self.restarting or not known

    @property
    def rolled_back(self) -> bool:
        """Whether it went back from what it was told, or from what a start reads as the same."""
        same = self.tried == self.given or (self.tried_start == self.given_start != "")
        return same and self.result in ("RolledBack", "RollbackFailed")

    @property
    def in_force(self) -> bool:
        """Whether the runtime works with all that it was told."""
        return self.applied and not self.waiting and not self.failed and not self.rolled_back

    @property
    def changed(self) -> bool:
        """Whether it is to have something else than it was told."""
        return self.wanted != self.given

    @property
    def live(self) -> bool:
        """Whether what it is to have next takes no restart: it reads the same as what was given, or as what the runtime
        works with.
        """
        if self.wanted_start == self.good_start:
            return True
        return self.wanted_start == self.given_start and not self.rolled_back

    @property
    def well(self) -> bool:
        """Whether a restart there is nobody's second misfortune."""
        return self.ready and self.schedulable


def start_of(bundle: Bundle) -> str:
    """Give what stands for all that a start of the runtime reads in a bundle, and empty for nothing."""
    if not bundle.start_settings:
        return ""
    parts = [bundle.runtime, *(f"{name}={value}" for name, value in sorted(bundle.start_settings.items()))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
