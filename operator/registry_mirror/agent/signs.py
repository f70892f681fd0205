"""What shows that a runtime works, and that it came back from a restart: its service, its own answers, the node's
heartbeat.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from ..api.errors import TransientError
from ..kube.errors import ApiError
from .clock import Clock
from .cri import Runtime
from .service import Service, Unit
from .state import Attempt

_STABLE = 5.0  # how long the runtime has to have answered
_MAX_STARTS = 3  # by the service manager, after which the runtime is not going to come back


@dataclass(frozen=True, slots=True)
class Tools:
    """What a restart takes besides the node's files.

    ``beat`` gives the time of the node's last heartbeat (renewTime of its Lease, RFC 3339) or raises ApiError; None
    where there is no cluster. ``api_depends`` says that the node's way to the API server is part of what is restarted.
    """

    service: Service
    runtime: Runtime
    clock: Clock
    now: Callable[[], str]
    beat: Callable[[], str] | None = None
    api_depends: bool = False


@dataclass(frozen=True, slots=True)
class Missing:
    """What is not as it must be. ``final``: nor is it going to be. ``idle``: the service has not been restarted yet.
    ``unknown``: it cannot be told, and all the rest is well.
    """

    text: str
    final: bool = False
    idle: bool = False
    unknown: bool = False


class Signs:
    """Looks for the signs after a restart, and remembers since when the runtime has answered."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._since: float | None = None
        self._first_beat = ""

    def reset(self) -> None:
        """Begin anew: there is another restart."""
        self._since = None
        self._first_beat = ""

    def unhealthy(self) -> str:
        """Say why the runtime cannot be said to work; empty if it does (CRI Version, Status and ListImages)."""
        try:
            health = self._tools.runtime.health()
        except TransientError as error:
            return error.message
        if not health.ready:
            return f"the runtime is not ready: {health.message}"
        return "" if health.images else "the runtime does not list its images"

    def missing(self, attempt: Attempt) -> Missing | None:
        """Say what is not yet as it must be after that restart, or None if all is well."""
        try:
            unit = self._tools.service.unit(attempt.unit)
        except TransientError as error:
            return Missing(f"the service manager does not answer: {error.message}")
        found = _of_service(unit, attempt)
        why = "" if found is not None else self.unhealthy()
        if found is not None or why:
            self._since = None
            return found or Missing(why)
        now = self._tools.clock.seconds()
        if self._since is None:
            self._since = now
        if now - self._since < _STABLE:
            return Missing(f"the runtime has answered for less than {_STABLE:g} s")
        return self._heartbeat(attempt, unit.entered_at if unit is not None else 0)

    def _heartbeat(self, attempt: Attempt, entered_at: int) -> Missing | None:
        if self._tools.beat is None:
            return None
        try:
            beat = self._tools.beat()
        except ApiError as error:
            return Missing(f"the node's heartbeat cannot be read: {error.message}", unknown=True)
        if beat and beat != attempt.beat and microseconds(beat) > entered_at:
            return None
        # The node's clock may have been set back since the start; what follows on a beat that came after it did too.
        if beat and self._first_beat and beat != self._first_beat:
            return None
        self._first_beat = self._first_beat or beat
        return Missing("the runtime answers, but the node has had no heartbeat since")


def _of_service(unit: Unit | None, attempt: Attempt) -> Missing | None:
    if unit is None:
        return Missing("the service is gone", final=True)
    if unit.active == "failed":
        return Missing(f"the service failed ({unit.result})", final=True)
    # Fewer than before: it counts anew from the restart that it was told to make (OpenRC).
    ended = unit.restarts - attempt.restarts if unit.restarts >= attempt.restarts else unit.restarts
    if ended >= _MAX_STARTS:
        return Missing(f"the service ended {ended} times after its start", final=True)
    if unit.entered_at == attempt.entered:
        return Missing(f"the service has not been started again (it is {unit.active})", idle=unit.active == "active")
    if unit.active != "active":
        return Missing(f"the service is {unit.active}")
    return None


def microseconds(text: str) -> int:
    """Give a time (RFC 3339) in microseconds since 1970."""
    return int(datetime.fromisoformat(text).timestamp() * 1_000_000)
