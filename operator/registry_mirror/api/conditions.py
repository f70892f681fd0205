"""Conditions as Kubernetes defines them (metav1.Condition), and the one way they are merged.

``lastTransitionTime`` moves only when ``status`` changes; everything else may change without a transition. That makes
two merges of the same facts byte-equal, so that nothing is written when nothing happened.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

from msgspec import Meta, Struct
from msgspec.structs import replace

MAX_MESSAGE = 4096


class Condition(Struct, frozen=True, kw_only=True, rename="camel"):
    """One observation about an object; ``reason`` is CamelCase and stable, ``message`` is for a person."""

    type: Annotated[str, Meta(max_length=64)]
    status: Literal["True", "False", "Unknown"]
    observed_generation: Annotated[int, Meta(ge=0)] = 0
    last_transition_time: str = "1970-01-01T00:00:00Z"
    reason: Annotated[str, Meta(max_length=128)]
    message: Annotated[str, Meta(max_length=MAX_MESSAGE)] = ""


def condition(type_: str, status: bool, reason: str, message: str) -> Condition:
    """Give a condition without time and generation: ``merge`` fills those in."""
    if len(message) > MAX_MESSAGE:
        message = message[: MAX_MESSAGE - 1] + "…"
    return Condition(type=type_, status="True" if status else "False", reason=reason, message=message)


def merge(old: Sequence[Condition], new: Iterable[Condition], *, generation: int, now: str) -> tuple[Condition, ...]:
    """Give the new conditions, each with the time of its last transition.

    Takes the conditions that the object has, those it should have, the generation that was observed and the present
    time (RFC 3339, UTC). The order is that of ``new``; types that are only in ``old`` are dropped.
    """
    before = {item.type: item for item in old}
    result = []
    for item in new:
        previous = before.get(item.type)
        same = previous is not None and previous.status == item.status
        since = previous.last_transition_time if previous is not None and same else now
        result.append(replace(item, observed_generation=generation, last_transition_time=since))
    return tuple(result)


def find(conditions: Iterable[Condition], type_: str) -> Condition | None:
    """Give the condition of that type, or None."""
    return next((item for item in conditions if item.type == type_), None)


def is_true(conditions: Iterable[Condition], type_: str) -> bool:
    """Tell whether the condition is there and its status is True."""
    found = find(conditions, type_)
    return found is not None and found.status == "True"
