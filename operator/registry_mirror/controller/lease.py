"""The Lease by which one of several controllers leads: what stands in it, and what to do about it. No I/O, no clock.

As client-go's tools/leaderelection: who stands by lets the holder's time run from when it saw the Lease change, by its
own monotonic clock; the times in the Lease are for people. Two things are added:

- A term is told by holder, acquireTime and leaseTransitions together. So a process that comes back under the identity
  of one that died (a container that was restarted in its Pod) takes over at once, and can never be mistaken for it.
- Before a leader writes NodeRegistryConfigs, it names them in the Lease. Whoever comes next finds there which writes
  may still be under way, and makes each of them void before it decides anything (writes.py, ``learn``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..api.models import GROUP
from ..kube.resources import CONTROLLER, LEASES

NAME = CONTROLLER
LEASE_SECONDS = 15
RENEW_DEADLINE = 10.0
RETRY = 2.0

# The NodeRegistryConfigs that the holder writes, or whose write has not been answered; ALL: too many to name.
WRITING = f"{GROUP}/writing"
ALL = "*"
_MOST_NAMED = 100

Json = Mapping[str, Any]
Step = Literal["create", "acquire", "renew", "wait", "lost"]


@dataclass(frozen=True, slots=True)
class Term:
    """One uninterrupted time of one leader."""

    holder: str
    acquired: str
    number: int


@dataclass(frozen=True, slots=True)
class Record:
    """A Lease as it was read; ``body`` is all of it."""

    term: Term
    seconds: float
    writing: frozenset[str]
    version: str
    body: Json


def read(body: Json) -> Record:
    """Take a Lease from the API server, whatever others have written into it."""
    metadata, spec = body.get("metadata") or {}, body.get("spec") or {}
    seconds = spec.get("leaseDurationSeconds")
    return Record(
        term=Term(
            holder=str(spec.get("holderIdentity") or ""),
            acquired=str(spec.get("acquireTime") or ""),
            number=_whole(spec.get("leaseTransitions")) or 0,
        ),
        seconds=float(_whole(seconds) or LEASE_SECONDS),
        writing=frozenset(str((metadata.get("annotations") or {}).get(WRITING) or "").split()),
        version=str(metadata.get("resourceVersion") or ""),
        body=body,
    )


def decide(record: Record | None, identity: str, mine: Term | None, seen: float, now: float) -> Step:
    """Say what to do: ``lost`` only to one who leads.

    Takes the Lease (None: there is none), our identity, our term while we lead, when this very version of the Lease was
    first seen, and the present time, both by our monotonic clock.
    """
    if mine is not None:
        return "renew" if record is not None and record.term == mine else "lost"
    if record is None:
        return "create"
    if record.term.holder in ("", identity) or now >= seen + record.seconds:
        return "acquire"
    return "wait"


def taken(record: Record | None, identity: str, at: str) -> Json:
    """Give the Lease with which to take over, in a new term; ``at`` is the time for people to read.

    Without a Lease nobody knows which writes are under way: all may be.
    """
    term = Term(identity, at, record.term.number + 1 if record is not None else 0)
    if record is None:
        new = {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": {"name": NAME}}
        return _held(new, term, at, {ALL})
    return _held(record.body, term, at, record.writing)


def renewed(record: Record, at: str, writing: Collection[str]) -> Json:
    """Give the Lease with which to go on: with another time, and with what is being written."""
    return _held(record.body, record.term, at, writing)


def released(record: Record, at: str, writing: Collection[str]) -> Json:
    """Give the Lease that anybody may take at once, as client-go releases it."""
    term = Term("", at, record.term.number)
    body = _held(record.body, term, at, writing)
    return {**body, "spec": {**body["spec"], "leaseDurationSeconds": 1}}


def named(names: Collection[str]) -> frozenset[str]:
    """Give what stands in the Lease for those names."""
    return frozenset(names) if ALL not in names and len(names) <= _MOST_NAMED else frozenset({ALL})


def _held(body: Json, term: Term, at: str, writing: Collection[str]) -> Json:
    metadata = body["metadata"]
    annotations = {key: value for key, value in (metadata.get("annotations") or {}).items() if key != WRITING}
    if writing:
        annotations[WRITING] = " ".join(sorted(named(writing)))
    spec = {
        **(body.get("spec") or {}),
        "holderIdentity": term.holder,
        "leaseDurationSeconds": LEASE_SECONDS,
        "acquireTime": term.acquired,
        "renewTime": at,
        "leaseTransitions": term.number,
    }
    return {**body, "metadata": {**metadata, "annotations": annotations}, "spec": spec}


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
