"""One pass over a node, with or without a cluster: see what runs, carry a restart on, write what is to be written, and
restart what takes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from msgspec.structs import replace

from ..api.errors import FieldError, InvalidError, ProblemError, WaitingError
from ..api.models import RuntimeFacts, RuntimeName
from ..core.bundle import Bundle
from . import state as memory
from .absence import Absence
from .apply import Outcome, apply, runtime_started, waiting_for_restart
from .clock import Clock
from .detect import find
from .drift import Repairs
from .edits import Change
from .environment import Asked, Started
from .host import Host
from .live import SOCKETS, Live
from .provisioned import heed
from .restart import Restarter, failed, in_flight, rejected
from .signs import Tools
from .state import Attempt, State

READERS = 2.0  # how long a pull may take between two files, in seconds


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be done. ``fetch`` gives the bundle (None: there is none yet) or raises ProblemError; ``deadline`` is
    how long the runtime has to come back after a restart, in seconds; ``keep_drift``: files that others changed stay;
    ``earlier``: what was found before this process began.
    """

    fetch: Callable[[], Bundle | None]
    restart_allowed: bool = False
    deadline: float = 120.0
    keep_drift: bool = False
    earlier: RuntimeFacts | None = None


def _no_service(_: str) -> Started | None:
    return None


@dataclass(slots=True)
class Pass:
    """What one pass found and did; what is None or empty was not reached because of ``problem``.

    ``problem`` is a WaitingError while a restart is going on. ``bundle`` is what was asked for. ``services`` tells how
    a service is started, as the pass has seen it.
    """

    facts: RuntimeFacts | None = None
    live: Live | None = None
    state: State | None = None
    bundle: Bundle | None = None
    outcome: Outcome = field(default_factory=Outcome)
    problem: ProblemError | None = None
    services: Callable[[str], Started | None] = _no_service


class Engine:
    """Works on one node, pass by pass; what it has to remember is on the node's disk."""

    def __init__(
        self,
        host: Host,
        runtime: RuntimeName | None,
        clock: Clock,
        tools: Callable[[RuntimeFacts, str], Tools | None],
        look: Callable[[], tuple[Live, ...]],
        started: Callable[[str], Started | None],
        absence: Absence | None = None,
    ) -> None:
        """Take the host's files, the runtime (None: find it), a clock, what gives the means to restart the runtime with
        a socket (None where there are none), what tells which runtimes are alive, how a service is started, and what
        the host keeps for when no agent is left.
        """
        self._host = host
        self._runtime = runtime
        self._tools = tools
        self._look = look
        self._started = started
        self._absence = absence
        self._repairs = Repairs(clock.seconds)
        self._clock = clock
        self._wrote_at: float | None = None
        self._facts: RuntimeFacts | None = None
        self._restarter: tuple[str, Restarter] | None = None

    def run(self, order: Order) -> Pass:
        """Do one pass. Never raises for what can go wrong on a node."""
        done = Pass(services=Asked(self._started))
        try:
            state = memory.load(self._host)
            if self._absence is not None:
                state = self._absence.returned(state)
            earlier = self._facts or order.earlier
            done.facts, done.live = find(self._host, self._look(), self._runtime, state, done.services, earlier)
            self._facts = done.facts
            done.state = state
            done.state = state = self._see(state, done, order)
            if in_flight(state):
                self._follow(done, state)
            elif state.attempt is not None and (restarter := self._restarter_for(done)) is not None:
                restarter.tidy()
            done.bundle = order.fetch()
            if done.bundle is not None:
                self._apply(done, order, done.bundle)
            if self._absence is not None:
                self._absence.settle(done.state, done.facts)
        except ProblemError as error:
            done.problem = error
        return done

    # ---- restarts ------------------------------------------------------------------------------------------------

    def _restarter_for(self, done: Pass) -> Restarter | None:
        """The one for the runtime that is there now; it remembers things from pass to pass."""
        assert done.facts is not None
        socket = _socket(done)
        if self._restarter is None or self._restarter[0] != socket:
            tools = self._tools(done.facts, socket)
            if tools is None:
                return None
            self._restarter = socket, Restarter(self._host, tools)
        return self._restarter[1]

    def _see(self, before: State, done: Pass, order: Order) -> State:
        """Take note of a start of the runtime. One that read settings which no start had proven is seen through."""
        if in_flight(before):
            return before
        if done.live is not None and done.live.unit:
            before = replace(before, unit=done.live.unit)
        failing = self._failing(before, done)
        if failing is not None:
            return failing.observe(before, before.unit, order.deadline)
        state = runtime_started(before, self._host.modified(_socket(done)))
        if state == before or not before.revision:  # a node that was never given anything is left alone
            return state
        restarter = self._restarter_for(done)
        unit = done.live.unit if done.live is not None else ""
        if before.good is not None and state.in_force != before.in_force and restarter is not None and unit:
            return restarter.observe(replace(before, runtime_start=state.runtime_start), unit, order.deadline)
        if not waiting_for_restart(state):
            state = replace(state, good=None)
        memory.save(self._host, state)
        return state

    def _failing(self, state: State, done: Pass) -> Restarter | None:
        """Give what brings the runtime back if it is down, does not start, and would read settings that are unproven.

        One that somebody has stopped is left alone. Raises TransientError.
        """
        down = done.live is None or done.live.state in ("Dead", "Missing")
        if not down or state.good is None or memory.on_disk(state) == state.in_force:
            return None
        restarter = self._restarter_for(done)
        return restarter if restarter is not None and restarter.fails_to_start(state.unit) else None

    def _follow(self, done: Pass, state: State) -> None:
        """Carry on with the restart in flight. Raises WaitingError until it is over."""
        restarter = self._restarter_for(done)
        if restarter is None:
            text = "the runtime is not there, and there is no service manager to ask for it"
            raise WaitingError("Restarting", text, after=5.0)
        done.state, after = restarter.follow(state)
        if after is not None:
            assert state.attempt is not None
            raise WaitingError("Restarting", f"{state.attempt.unit} is being restarted", after=after)
        # Its socket is that of the start that was seen through.
        done.state = runtime_started(done.state, self._host.modified(_socket(done)))
        memory.save(self._host, done.state)

    # ---- files ---------------------------------------------------------------------------------------------------

    def _apply(self, done: Pass, order: Order, bundle: Bundle) -> None:
        assert done.state is not None
        assert done.facts is not None
        done.state = heed(self._host, done.state, bundle, done.facts)
        attempt = rejected(done.state, bundle.revision)
        if attempt is not None:
            raise InvalidError("node", (FieldError("", "", _failure(attempt, done.state)),), attempt.result)
        if done.state.revision != bundle.revision:
            self._repairs.forget()
        done.state, done.outcome = apply(
            self._host,
            done.state,
            bundle,
            done.facts,
            lambda path: not order.keep_drift and self._repairs.allow(path),
            self._readers,
            lambda state, changes: self._begun(state, done, changes),
        )
        self._repairs.note(done.outcome.repaired)
        self._forgive(done)
        # k0s restarts its containerd by itself (k0s pkg/component/worker/containerd, watchDropinConfigs).
        if waiting_for_restart(done.state) and order.restart_allowed and done.facts.name != "k0s":
            self._restart(done, order)

    def _begun(self, state: State, done: Pass, changes: list[Change]) -> None:
        if self._absence is not None and done.facts is not None:
            self._absence.keep(state, done.facts, changes)

    def _forgive(self, done: Pass) -> None:
        """Forget a restart that failed once the node works with another revision: whoever asks for the first one again
        has mended what kept the runtime from it, or finds that out on one node.
        """
        state = done.state
        if state is not None and state.attempt is not None and failed(state.attempt) and not waiting_for_restart(state):
            done.state = replace(state, attempt=None)
            memory.save(self._host, done.state)

    def _readers(self, writing: bool) -> bool:
        """A pull opens the TLS files that a hosts.toml names some time after it has read that; where one is gone, it
        fails, the fallback included (seen with containerd 2.4.2 under load).
        """
        now = self._clock.seconds()
        if writing or self._wrote_at is None:
            self._wrote_at = now
        return now - self._wrote_at < READERS

    def _restart(self, done: Pass, order: Order) -> None:
        assert done.state is not None
        restarter = self._restarter_for(done)
        if restarter is None or done.live is None or not done.live.unit:
            text = (
                "the runtime cannot be restarted from here: no service of systemd or OpenRC was found for it. "
                "Restart it by hand"
            )
            raise InvalidError("node", (FieldError("", "", text),), "RestartUnsupported")
        done.state = restarter.begin(done.state, done.live.unit, order.deadline)
        raise WaitingError("Restarting", f"{done.live.unit} is being restarted", after=1.0)


def _socket(done: Pass) -> str:
    """Where the runtime listens, or is going to."""
    assert done.facts is not None
    return done.live.socket if done.live is not None else SOCKETS[done.facts.name]


def _failure(failed: Attempt, state: State) -> str:
    """Say why the node went back, in the runtime's own words as far as there are some."""
    # The service manager's lines about the service say nothing that the message does not.
    manager = (f"{failed.unit}: ", "Starting ", "Started ", "Stopping ", "Stopped ", "Failed to start ")
    lines = [line for line in failed.log if not line.startswith(manager)][-3:]
    told = f". Its last lines: {' | '.join(lines)}" if lines else ""
    back = state.revision or "none, as it was before"
    return f"{failed.message}, with revision {failed.revision}; the node is back on revision {back}{told}"
