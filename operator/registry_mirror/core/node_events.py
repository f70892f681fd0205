"""What happens to a node that a person who reads ``kubectl describe node`` wants to know: few things, and each once.

A live change is none of them: it takes nothing from the node.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..api.conditions import Condition, find
from ..api.models import NodeRegistryConfigStatus, RestartStatus
from .status import Transition

_WENT_BACK = ("RolledBack", "RollbackFailed")
_DRIFT = ("Repaired", "Reported", "CoOwned")


def transitions(old: NodeRegistryConfigStatus, new: NodeRegistryConfigStatus) -> Iterator[Transition]:
    """Give an Event on the Node for each step from one status of its NodeRegistryConfig to a later one: the runtime is
    being restarted, was, or went back; the node is Stalled, or no longer; something else changed files of ours.

    From a status that nobody has reported yet, nothing is said of restarts and files: that is older than what we know.
    """
    if old.observed_generation:
        yield from _restart(old.restart, new.restart)
    before, after = find(old.conditions, "Stalled"), find(new.conditions, "Stalled")
    if after is not None and after.status == "True":
        same = before is not None and (before.status, before.reason) == (after.status, after.reason)
        if not same and after.reason not in _WENT_BACK:  # the restart has said so
            yield Transition("Warning", after.reason, after.message)
    elif after is not None and before is not None and before.status == "True":
        yield Transition("Normal", "Recovered", f"no longer stalled: {before.reason}")
    if old.observed_generation:
        yield from _drift(find(old.conditions, "Drifted"), find(new.conditions, "Drifted"))


def _restart(old: RestartStatus | None, new: RestartStatus | None) -> Iterator[Transition]:
    if new is None or (old is not None and (old.started_at, old.result) == (new.started_at, new.result)):
        return
    if new.result == "InProgress":
        yield Transition("Normal", "RuntimeRestarting", f"the runtime is being restarted for revision {new.revision}")
    elif new.result == "Succeeded":
        yield Transition("Normal", "RuntimeRestarted", f"the runtime was restarted and works with {new.revision}")
    else:
        what = "it works with its last good files" if new.result == "RolledBack" else "nor with its last good files"
        text = f"the runtime did not come back with revision {new.revision}; {what}"
        yield Transition("Warning", new.result, f"{text}. {new.message}" if new.message else text)


def _drift(old: Condition | None, new: Condition | None) -> Iterator[Transition]:
    if new is not None and new.reason in _DRIFT and (old is None or old.reason != new.reason):
        yield Transition("Warning", new.reason, new.message)
