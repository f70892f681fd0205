"""What a pass over the node comes to in the status of its NodeRegistryConfig."""

from __future__ import annotations

from msgspec.structs import replace

from .. import __version__
from ..api.conditions import Condition, condition, merge
from ..api.errors import InvalidError, ProblemError, WaitingError
from ..api.models import (
    EndpointResult,
    NodeRegistryConfig,
    NodeRegistryConfigStatus,
    RestartStatus,
)
from .apply import Outcome, waiting_for_restart
from .engine import Pass
from .host import HostError
from .live import Live
from .restart import in_flight
from .state import Attempt, State

_MAX_WAITING = 512  # as the schema has it
_MAX_TEXT = 1024


def status(
    config: NodeRegistryConfig, done: Pass, endpoints: tuple[EndpointResult, ...], now: str
) -> NodeRegistryConfigStatus:
    """Give the status to report after a pass, what could not be seen this time as it was.

    Takes the object as it is, the pass, what is known of the endpoints, and the present time (RFC 3339).
    """
    old, state = config.status, done.state
    applied = state.revision if state is not None else old.applied_revision
    waiting = waiting_for_restart(state) if state is not None else old.waiting_for_restart
    conditions = _conditions(config, done, applied, waiting)
    return NodeRegistryConfigStatus(
        observed_generation=config.metadata.generation,
        applied_revision=applied,
        last_good_revision=_last_good(state) if state is not None else old.last_good_revision,
        agent_version=__version__,
        runtime=done.facts if done.facts is not None else old.runtime,
        file_count=len(state.originals) if state is not None else old.file_count,
        waiting_for_restart=waiting[:_MAX_WAITING],
        restart=_restart(state.attempt) if state is not None else old.restart,
        endpoints=endpoints,
        conditions=merge(old.conditions, conditions, generation=config.metadata.generation, now=now),
    )


def refused(config: NodeRegistryConfig, problem: ProblemError, now: str) -> NodeRegistryConfigStatus:
    """Give the status to report where the agent does not even look at the node: what is known of that stays."""
    return status(config, Pass(problem=problem), config.status.endpoints, now)


def _last_good(state: State) -> str:
    """The revision that a rollback would put back, or the present one where nothing waits for a proof."""
    return state.good.revision if state.good is not None else state.revision


def _restart(attempt: Attempt | None) -> RestartStatus | None:
    if attempt is None:
        return None
    return RestartStatus(
        revision=attempt.revision,
        started_at=attempt.started_at,
        finished_at=attempt.finished_at,
        result=attempt.result,
        message=attempt.message[:_MAX_TEXT],
        log=attempt.log,
    )


def _conditions(
    config: NodeRegistryConfig, done: Pass, applied: str, waiting: tuple[str, ...]
) -> tuple[Condition, ...]:
    restarting = done.state is not None and in_flight(done.state)
    problem = None if restarting and isinstance(done.problem, WaitingError) else done.problem
    found = [_applied(config, problem, applied), _required(waiting, restarting, problem)]
    health = _healthy(done.live, restarting)
    if health is not None:
        found.append(health)
    return (*found, _drifted(config, done.outcome), _stalled(problem))


def _applied(config: NodeRegistryConfig, problem: ProblemError | None, applied: str) -> Condition:
    wanted = config.spec.revision
    if problem is not None and not (isinstance(problem, WaitingError) and wanted == applied != ""):
        return condition("Applied", False, problem.reason, problem.message)
    if not wanted or config.spec.bundle is None:
        return condition("Applied", False, "NoRevision", "the controller has not given this node a revision yet")
    if applied != wanted:
        return condition("Applied", False, "Restarting", f"revision {applied or 'none'} is on the node")
    return condition("Applied", True, "Applied", f"revision {applied} is on the node")


def _stalled(problem: ProblemError | None) -> Condition:
    """A full disk or a link in the path takes somebody to mend it; an API server that does not answer comes back."""
    if isinstance(problem, InvalidError | HostError):
        return condition("Stalled", True, problem.reason, problem.message)
    return condition("Stalled", False, "Working", "")


def _required(waiting: tuple[str, ...], restarting: bool, problem: ProblemError | None) -> Condition:
    if restarting:
        return condition("RestartRequired", True, "Restarting", "the runtime is being restarted")
    if not waiting:
        return condition("RestartRequired", False, "NotRequired", "")
    text = f"a restart of the runtime brings into force: {', '.join(waiting)}"
    if isinstance(problem, WaitingError):
        return condition("RestartRequired", True, problem.reason, f"{text}; {problem.message}")
    return condition("RestartRequired", True, "StartSettings", text)


def _healthy(live: Live | None, restarting: bool) -> Condition | None:
    if restarting:
        return condition("RuntimeHealthy", False, "Restarting", "the runtime is being restarted")
    if live is None:
        return None
    if live.state in ("Listening", "Hidden"):
        return condition("RuntimeHealthy", True, "Listening", "")
    return condition("RuntimeHealthy", False, "RuntimeNotAnswering", str(live))


def _drifted(config: NodeRegistryConfig, outcome: Outcome) -> Condition:
    """A repair stays visible until the next revision, so that a tool that keeps changing files is noticed."""
    if outcome.left:
        paths = ", ".join(outcome.left[:5])
        if config.spec.keep_drift:
            text = f"changed by something else, and left so as RegistryMirrorPolicy default says: {paths}"
            return condition("Drifted", True, "Reported", text)
        text = f"changed by something else again and again, and left so for now: {paths}. Find out what else writes it"
        return condition("Drifted", True, "CoOwned", text)
    if outcome.repaired:
        text = f"changed by something else and repaired: {', '.join(outcome.repaired[:5])}"
        return condition("Drifted", False, "Repaired", text)
    for item in config.status.conditions:
        if (
            item.type == "Drifted"
            and item.reason == "Repaired"
            and item.observed_generation == config.metadata.generation
        ):
            return replace(item)
    return condition("Drifted", False, "NoDrift", "")
