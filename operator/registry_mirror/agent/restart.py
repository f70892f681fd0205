"""Restarting the runtime so that whatever happens, the node ends with one that works: with what it was to read, or with
what it read last.

A restart is a row of short steps, each on record before it is taken. Between them the agent may die, and the host's
dead-man puts the last good files back when nobody says in time that all is well (safety.md, Rollback that survives us).
"""

from __future__ import annotations

import logging

from msgspec.structs import replace

from ..api.errors import FieldError, InvalidError, ProblemError, TransientError, WaitingError
from ..kube.errors import ApiError
from . import good, hidden, rollback, state as memory
from .host import Host
from .service import Unit
from .signs import Missing, Signs, Tools, microseconds
from .state import Attempt, State

_log = logging.getLogger(__name__)

DEAD_MAN = "registry-mirror-rollback"
_MARGIN = 30.0  # the dead-man's, after the deadline: at that the agent goes first if it is there
_QUIET = 30.0  # how long containers that are being made are waited for
_LOST = 15.0  # a request after which nothing happened for so long is made again
_BACK = 60.0  # for the runtime to answer after a rollback
_POLL = 1.0
_LINES = 20
_UNASKED = -1


def in_flight(state: State) -> bool:
    """Tell whether a restart, or the rollback after one, is going on: nothing else is to be changed meanwhile."""
    return state.attempt is not None and state.attempt.result == "InProgress"


def rejected(state: State, revision: str) -> Attempt | None:
    """Give the attempt that showed that the runtime does not start with a revision, if it was the last one."""
    attempt = state.attempt
    if attempt is None or attempt.revision != revision or not failed(attempt):
        return None
    return attempt


def failed(attempt: Attempt) -> bool:
    """Tell whether the node went back from what a restart was for."""
    return attempt.result in ("RolledBack", "RollbackFailed")


class Restarter:
    """Carries one restart at a time through its steps; the record has all that matters of them."""

    def __init__(self, host: Host, tools: Tools) -> None:
        self._host = host
        self._tools = tools
        self._signs = Signs(tools)
        self._busy_since: float | None = None
        self._asked_at = 0.0
        self._rolled_at: float | None = None

    # ---- before --------------------------------------------------------------------------------------------------

    def begin(self, state: State, unit_name: str, deadline: float) -> State:
        """Restart the runtime, whose unit is given, for the revision that is on the node; gives the record as saved.

        ``deadline`` is how long it has, in seconds. Raises WaitingError if this is not the moment, InvalidError if it
        cannot be done on this node at all, and TransientError; the runtime has not been touched then.
        """
        if state.good is None:
            text = "there is no last good state to go back to: restart the runtime by hand once"
            raise InvalidError("node", (FieldError("", "", text),), "LastGoodLost")
        good.check(self._host, state)
        unit = self._unit(unit_name)
        self._healthy_before(state)
        beat = self._beat_before()
        self._quiesce()
        attempt = Attempt(
            revision=state.revision,
            unit=unit_name,
            started_at=self._tools.now(),
            deadline=deadline,
            boot=self._tools.clock.boot(),
            began=self._tools.clock.seconds(),
            entered=unit.entered_at,
            restarts=unit.restarts,
            beat=beat,
        )
        state = self._arm(state, attempt)
        self._restart(unit_name)
        return state

    def observe(self, state: State, unit_name: str, deadline: float) -> State:
        """See a start through that nobody asked for, as if it had been; gives the record as saved.

        It has read settings that no start had proven. Raises TransientError.
        """
        unit = self._unit(unit_name)
        attempt = Attempt(
            revision=state.writing or state.revision,
            unit=unit_name,
            started_at=self._tools.now(),
            deadline=deadline,
            boot=self._tools.clock.boot(),
            began=self._tools.clock.seconds(),
            entered=_UNASKED,
            restarts=unit.restarts,
        )
        return self._arm(state, attempt)

    def fails_to_start(self, unit_name: str) -> bool:
        """Tell whether a service is down and its manager has tried to start it. Raises TransientError."""
        unit = self._tools.service.unit(unit_name) if unit_name else None
        return unit is not None and unit.active in ("failed", "activating")

    def _unit(self, name: str) -> Unit:
        unit = self._tools.service.unit(name)
        if unit is None:
            text = f"there is no service {name}: the runtime cannot be restarted"
            raise InvalidError("node", (FieldError("", "", text),), "RuntimeServiceNotFound")
        return unit

    def _healthy_before(self, state: State) -> None:
        """What did not work before would be laid to the restart's account."""
        why = self._signs.unhealthy()
        if why:
            (why,) = hidden.shown(self._host, state, (why,))
            text = f"the runtime is not restarted as long as it does not work as it is: {why}"
            raise WaitingError("RuntimeNotAnswering", text, after=10.0)

    def _beat_before(self) -> str:
        if self._tools.beat is None:
            return ""
        try:
            return self._tools.beat()
        except ApiError as error:
            text = f"the runtime is not restarted without a way to see the node's heartbeat: {error.message}"
            raise WaitingError("HeartbeatNotReadable", text, after=10.0) from None

    def _quiesce(self) -> None:
        """A restart amid the making of a container leaves it stuck (containerd #10437, #12600)."""
        making = self._tools.runtime.busy()
        clock = self._tools.clock.seconds()
        if not making:
            self._busy_since = None
            return
        if self._busy_since is None:
            self._busy_since = clock
        if clock - self._busy_since < _QUIET:
            text = f"waiting for {making} containers that are being made before the runtime is restarted"
            raise WaitingError("Quiescing", text, after=_POLL)
        self._busy_since = None

    def _arm(self, state: State, attempt: Attempt) -> State:
        """Have the host go back by itself, and put on record that this was done, before and after."""
        # What an earlier restart may have left would be taken for the outcome of this one.
        self._tools.service.cancel(DEAD_MAN)
        rollback.clear(self._host)
        state = self._save(replace(state, attempt=attempt))
        command = rollback.prepare(self._host, good.restores(state), attempt.unit, self._tools.service.kind)
        hidden.remember(self._host, state)
        self._tools.service.schedule(DEAD_MAN, attempt.deadline + _MARGIN, command)
        self._signs.reset()
        self._asked_at = 0.0
        began = self._tools.clock.seconds()
        return self._save(replace(state, attempt=replace(attempt, phase="Restarting", began=began)))

    def _restart(self, unit: str) -> None:
        self._asked_at = self._tools.clock.seconds()
        try:
            self._tools.service.restart(unit)
        except TransientError as error:  # whether it was taken shows; until the deadline it is asked for again
            _log.warning("restart %s: %s", unit, error.message)

    # ---- after ---------------------------------------------------------------------------------------------------

    def follow(self, state: State) -> tuple[State, float | None]:
        """Take the next step of the restart in flight, if it is time for one.

        Gives the record as saved, and after how many seconds to come again: None when it is over. Raises HostError.
        """
        attempt = state.attempt
        assert attempt is not None
        if attempt.boot != self._tools.clock.boot():
            # The dead-man went with the other boot, and that start was the restart.
            boot, now = self._tools.clock.boot(), self._tools.clock.seconds()
            renewed = replace(attempt, boot=boot, began=now, entered=_UNASKED)
            return self._save(replace(state, attempt=renewed)), _POLL
        if attempt.phase == "Checking":
            return self._check(state, attempt)
        match rollback.outcome(self._host):
            case "committed":
                return self._succeed(state, attempt), None
            case "done":
                return self._go_back(state, attempt), _POLL
            case "started":  # it runs, or has died with the machine, and then nobody else starts it again
                self._roll_back()
                return state, _POLL
        if attempt.phase == "Arming":
            self._disarm()
            # A start that nobody asked for is to be seen again, and seen through.
            start = 0 if attempt.entered == _UNASKED else state.runtime_start
            return self._save(replace(state, attempt=None, runtime_start=start)), _POLL
        if attempt.phase == "RollingBack":
            self._roll_back()
            return state, _POLL
        return self._watch(state, attempt)

    def _watch(self, state: State, attempt: Attempt) -> tuple[State, float | None]:
        missing = self._signs.missing(attempt)
        now = self._tools.clock.seconds()
        late = now - attempt.began > attempt.deadline
        if missing is None or (late and missing.unknown and not self._tools.api_depends):
            if not rollback.commit(self._host):
                return state, _POLL  # the host was first
            return self._succeed(state, attempt), None
        if late or missing.final:
            return self._give_up(state, attempt, missing), _POLL
        if missing.idle and now - self._asked_at > _LOST:
            self._restart(attempt.unit)
        return state, _POLL

    def _give_up(self, state: State, attempt: Attempt, missing: Missing) -> State:
        why = missing.text if missing.final else f"after {attempt.deadline:g} s, {missing.text}"
        (message,) = hidden.shown(self._host, state, (f"{attempt.unit}: {why}",))
        turned = replace(attempt, phase="RollingBack", message=message, log=self._lines(state, attempt))
        state = self._save(replace(state, attempt=turned))
        _log.warning("%s: going back to revision %s", message, state.good.revision if state.good else "none")
        self._roll_back()
        return state

    def _lines(self, state: State, attempt: Attempt) -> tuple[str, ...]:
        try:
            said = self._tools.service.log(attempt.unit, microseconds(attempt.started_at), _LINES)
        except ProblemError as error:  # a rollback does not wait for it
            _log.warning("the log of %s: %s", attempt.unit, error.message)
            return ()
        return hidden.shown(self._host, state, said)

    # ---- the two ends --------------------------------------------------------------------------------------------

    def _succeed(self, state: State, attempt: Attempt) -> State:
        done = replace(
            attempt, phase="Done", result="Succeeded", finished_at=self._tools.now(), message=f"{attempt.unit} is back"
        )
        # Amid a change, what was read is neither: the change goes on, and what was good before is needed for its proof.
        good_before = state.good if state.writing else None
        state = self._save(replace(state, in_force=memory.on_disk(state), good=good_before, attempt=done))
        self._disarm()
        memory.sweep(self._host, state)
        return state

    def _roll_back(self) -> None:
        now = self._tools.clock.seconds()
        if self._rolled_at is not None and now - self._rolled_at < _LOST:
            return
        self._rolled_at = now
        try:
            self._tools.service.run_now(DEAD_MAN, rollback.command())
        except TransientError as error:  # then the timer does it
            _log.warning("rollback: %s", error.message)

    def _go_back(self, state: State, attempt: Attempt) -> State:
        """The host has put the last good files back."""
        message = attempt.message or f"{attempt.unit}: nobody saw the restart through, so the host went back by itself"
        missing = rollback.skipped(self._host)
        if missing:
            message += f" (but: {'; '.join(missing)})"
        checking = replace(
            attempt,
            phase="Checking",
            message=message,
            log=attempt.log or self._lines(state, attempt),
            began=self._tools.clock.seconds(),
        )
        for path in state.good.files if state.good is not None and state.writing else ():
            self._host.clean(path)
        before = good.returned(state) if state.good is not None else state
        state = self._save(replace(before, attempt=checking))
        self._rolled_at = None
        self._disarm()
        memory.sweep(self._host, state)
        return state

    def _check(self, state: State, attempt: Attempt) -> tuple[State, float | None]:
        why = self._signs.unhealthy()
        if why and self._tools.clock.seconds() - attempt.began < _BACK:
            return state, _POLL
        done = replace(attempt, phase="Done", result="RolledBack", finished_at=self._tools.now())
        if why:
            (why,) = hidden.shown(self._host, state, (why,))
            text = f"{attempt.message}; the last good files are back, and still {why}"
            done = replace(done, result="RollbackFailed", message=text)
        self.tidy()
        return self._save(replace(state, attempt=done)), None

    def tidy(self) -> None:
        """Take back what a restart that is over has left on the host, if nobody could do that at its end.

        Raises HostError.
        """
        if rollback.outcome(self._host) != "none":
            self._disarm()

    def _disarm(self) -> None:
        try:
            self._tools.service.cancel(DEAD_MAN)
        except TransientError as error:  # what it would do is already said to be done
            _log.warning("cancel the dead-man: %s", error.message)
            return
        rollback.clear(self._host)

    def _save(self, state: State) -> State:
        memory.save(self._host, state)
        return state
