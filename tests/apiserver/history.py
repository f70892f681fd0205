"""What has happened, by the API server's own account: every version of every NodeRegistryConfig and Node, as its watch
gave them, and what must hold of them. No log of ours is asked.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from registry_mirror.core.rollout import limit
from registry_mirror.kube.errors import ApiError
from registry_mirror.kube.resources import CONFIGS, CONTROLLER, NODES, Resource
from registry_mirror.kube.rest import Rest, from_kubeconfig

_WATCH_SECONDS = 5  # short: that the server ends a watch, and we go on from there, is nothing special
_RETRY = 0.2
_CAUGHT_UP = 60.0
_SERVER = "node-role.kubernetes.io/control-plane"

Json = Mapping[str, Any]


class Gap(Exception):
    """Something may have happened that nobody saw: nothing is proven by such a history."""


@dataclass(frozen=True, slots=True)
class Event:
    """One version of an object; ``version`` is that of the change, and orders the events of all kinds."""

    kind: str
    type: str
    version: int
    body: Json

    @property
    def name(self) -> str:
        return str(self.body["metadata"]["name"])


def _listed(rest: Rest, resource: Resource) -> Json:
    """All objects, once the API server has made room for those of a CRD that has just come (429 until then)."""
    deadline = time.monotonic() + _CAUGHT_UP
    while True:
        try:
            return rest.list(resource)
        except ApiError as error:
            if error.status != 429 or time.monotonic() > deadline:
                raise
        time.sleep(_RETRY)


class Recorder:
    """Records from the beginning of the `with` block on; what was there then comes first, as ADDED."""

    def __init__(self, kubeconfig: Path) -> None:
        self._kubeconfig = kubeconfig
        self._events: dict[Resource, list[Event]] = {}
        self._stop = threading.Event()
        self._broken: Exception | None = None

    def __enter__(self) -> Recorder:
        for resource in (CONFIGS, NODES):
            rest = Rest(from_kubeconfig(self._kubeconfig))
            found = _listed(rest, resource)
            self._events[resource] = [_event(resource, "ADDED", item) for item in found["items"]]
            begin = (rest, resource, found["metadata"]["resourceVersion"])
            threading.Thread(target=self._follow, args=begin, name="recorder", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()  # the threads are daemons: they end with the watches that they have open

    def history(self) -> list[Event]:
        """All events up to now, in order. Raises Gap if there may have been others."""
        rest = Rest(from_kubeconfig(self._kubeconfig))
        deadline = time.monotonic() + _CAUGHT_UP
        while not all(self._has_all(rest, resource) for resource in self._events):
            if self._broken is not None:
                raise self._broken
            if time.monotonic() > deadline:
                raise Gap(f"the watch has not caught up within {_CAUGHT_UP:g} s")
            time.sleep(_RETRY)
        if self._broken is not None:
            raise self._broken
        return sorted((event for events in self._events.values() for event in events), key=lambda event: event.version)

    def _has_all(self, rest: Rest, resource: Resource) -> bool:
        """Whether the history ends, or has already gone beyond, where the objects are now."""
        there = {
            (item["metadata"]["name"], item["metadata"]["resourceVersion"]) for item in rest.list(resource)["items"]
        }
        seen = {(event.name, event.body["metadata"]["resourceVersion"]) for event in list(self._events[resource])}
        return there <= seen

    def _follow(self, rest: Rest, resource: Resource, version: str) -> None:
        try:
            while not self._stop.is_set():
                try:
                    for item in rest.watch(resource, seconds=_WATCH_SECONDS, resourceVersion=version):
                        if item["type"] == "BOOKMARK":
                            continue  # no event; nor do we go on from what it says
                        if item["type"] == "ERROR":
                            raise Gap(f"the watch of {resource.plural} cannot go on after {version}: {item['object']}")
                        event = _event(resource, item["type"], item["object"])
                        self._events[resource].append(event)
                        version = str(event.version)
                except ApiError as error:
                    if error.status == 410:
                        raise Gap(f"the watch of {resource.plural} cannot go on after {version}") from None
                    self._stop.wait(_RETRY)
        except Exception as error:
            self._broken = error


def _event(resource: Resource, type_: str, body: Json) -> Event:
    return Event(resource.kind, type_, int(body["metadata"]["resourceVersion"]), body)


# ---- what the events come to -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Slot:
    """A restart that may be going on: granted at a generation; ``withdrawn`` at another, if it was."""

    granted: int
    revision: str
    before: str  # when the restart before it had begun
    withdrawn: int | None = None


@dataclass(slots=True)
class Moment:
    """How all was after an event. ``slots``: whose restart may be going on, by uid; ``grant``: this event gave one."""

    event: Event
    configs: dict[str, Json] = field(default_factory=dict)
    nodes: dict[str, Json] = field(default_factory=dict)
    slots: dict[str, _Slot] = field(default_factory=dict)
    grant: bool = False

    @property
    def in_flight(self) -> set[str]:
        """The nodes whose runtime may be restarting."""
        return {
            name
            for name, body in self.configs.items()
            if body["metadata"]["uid"] in self.slots or _restart(body).get("result") == "InProgress"
        }

    @property
    def away(self) -> set[str]:
        """The nodes that are not ready, or cordoned."""
        return {name for name, body in self.nodes.items() if not _well(body)}

    def server(self, name: str) -> bool:
        """Whether the control plane runs there."""
        return _SERVER in (self.nodes.get(name, {}).get("metadata", {}).get("labels") or {})


def moments(history: Iterable[Event]) -> Iterator[Moment]:
    """Play it through; gives the same object again and again, changed."""
    found: Moment | None = None
    for event in history:
        found = Moment(event) if found is None else found
        found.event, found.grant = event, False
        objects = found.nodes if event.kind == NODES.kind else found.configs
        old = objects.get(event.name)
        if event.type == "DELETED":
            objects.pop(event.name, None)
            found.slots.pop(event.body["metadata"]["uid"], None)
        else:
            objects[event.name] = event.body
            if event.kind == CONFIGS.kind:
                _see(found, old, event.body)
        yield found


def _see(moment: Moment, old: Json | None, new: Json) -> None:
    uid, generation = new["metadata"]["uid"], new["metadata"].get("generation", 0)
    same = old is not None and old["metadata"]["uid"] == uid
    was = bool(same and old is not None and _spec(old).get("restartAllowed"))
    allowed = bool(_spec(new).get("restartAllowed"))
    if allowed and not was:
        moment.grant = True
        moment.slots[uid] = _Slot(generation, _spec(new).get("revision", ""), _restart(new).get("startedAt", ""))
    slot = moment.slots.get(uid)
    if slot is None:
        return
    if allowed:
        slot.withdrawn = None
    elif slot.withdrawn is None:
        slot.withdrawn = generation
    if _over(slot, new):
        del moment.slots[uid]


def _over(slot: _Slot, body: Json) -> bool:
    """Whether the agent has answered to the grant, and will not restart for it, or not any more."""
    status, restart = body.get("status") or {}, _restart(body)
    if restart.get("result") == "InProgress":
        return False
    seen = status.get("observedGeneration", 0)
    if slot.withdrawn is not None and seen >= slot.withdrawn:
        return True
    if seen < slot.granted:
        return False
    ended = restart.get("startedAt", "") != slot.before
    applied = bool(status.get("appliedRevision")) and status.get("appliedRevision") == _spec(body).get("revision")
    return ended or (applied and not status.get("waitingForRestart")) or _stalled(body)


# ---- what must hold --------------------------------------------------------------------------------------------------


def over_budget(history: Iterable[Event], value: int | str) -> list[str]:
    """Say when more restarts were in flight than maxUnavailable, or one was begun although as many nodes were away."""
    found = []
    for moment in moments(history):
        budget, busy = limit(value, max(len(moment.nodes), 1)), moment.in_flight
        if len(busy) > budget:
            found.append(f"at {moment.event.version}: {sorted(busy)} with maxUnavailable {value}")
        elif moment.grant and len(busy | (moment.away - {moment.event.name})) > budget:
            found.append(f"at {moment.event.version}: {moment.event.name} beside {sorted(busy | moment.away)}")
    return found


def most_in_flight(history: Iterable[Event]) -> int:
    """How many restarts were in flight at once at most."""
    return max((len(moment.in_flight) for moment in moments(history)), default=0)


def servers_at_once(history: Iterable[Event]) -> int:
    """How many restarts of control-plane nodes were in flight at once at most."""
    return max((sum(map(moment.server, moment.in_flight)) for moment in moments(history)), default=0)


def reached(history: Iterable[Event], revision: str) -> set[str]:
    """The nodes that were ever told to have a revision."""
    return {
        event.name for event in history if event.kind == CONFIGS.kind and _spec(event.body).get("revision") == revision
    }


def revisions(history: Iterable[Event]) -> list[str]:
    """The revisions that nodes were told, in the order in which the first node was."""
    found = (_spec(event.body).get("revision", "") for event in history if event.kind == CONFIGS.kind)
    return list(dict.fromkeys(filter(None, found)))


@dataclass(frozen=True, slots=True)
class Grant:
    """That a node may restart: for which revision, and when by the API server's clock (seconds since 1970)."""

    name: str
    uid: str
    revision: str
    version: int
    at: float


def grants(history: Iterable[Event]) -> list[Grant]:
    """Every grant, in order."""
    found = []
    for moment in moments(history):
        if moment.grant:
            body = moment.event.body
            revision = _spec(body).get("revision", "")
            found.append(Grant(moment.event.name, body["metadata"]["uid"], revision, moment.event.version, _at(body)))
    return found


def granted_while(history: Iterable[Event], closed: Callable[[float], bool]) -> list[Grant]:
    """The grants at times at which none should be, by what says so of a time (seconds since 1970)."""
    return [grant for grant in grants(history) if closed(grant.at)]


def granted_twice(history: Iterable[Event]) -> list[str]:
    """Say which restarts were granted again although one for that revision had succeeded, or were granted again while
    nothing had come of the first grant.
    """
    found: list[str] = []
    last: dict[tuple[str, str], str] = {}
    done: set[tuple[str, str]] = set()
    for moment in moments(history):
        event = moment.event
        if event.kind != CONFIGS.kind or event.type == "DELETED":
            continue
        uid, restart = event.body["metadata"]["uid"], _restart(event.body)
        key = (uid, _spec(event.body).get("revision", ""))
        if moment.grant:
            if key in done or last.get(key) == restart.get("startedAt", ""):
                found.append(f"at {event.version}: {event.name} for {key[1]}")
            last[key] = restart.get("startedAt", "")
        if restart.get("result") == "Succeeded":
            done.add((uid, restart.get("revision", "")))
    return found


def restarts(history: Iterable[Event]) -> Counter[tuple[str, str]]:
    """How often the runtime of each node was restarted for each revision, by name and revision."""
    seen: set[tuple[str, str, str]] = set()
    for event in history:
        if event.kind == CONFIGS.kind and (restart := _restart(event.body)):
            seen.add((event.name, restart.get("revision", ""), restart.get("startedAt", "")))
    return Counter((name, revision) for name, revision, _ in seen)


def since(history: Sequence[Event], version: int) -> list[Event]:
    """The history from a version on: what was there then comes first, as ADDED."""
    state: dict[tuple[str, str], Event] = {}
    for event in history:
        if event.version > version:
            continue
        if event.type == "DELETED":
            state.pop((event.kind, event.name), None)
        else:
            state[event.kind, event.name] = event
    there = sorted(state.values(), key=lambda event: event.version)
    before = [Event(event.kind, "ADDED", event.version, event.body) for event in there]
    return [*before, *(event for event in history if event.version > version)]


def _spec(body: Json) -> Json:
    return body.get("spec") or {}


def _restart(body: Json) -> Json:
    return (body.get("status") or {}).get("restart") or {}


def _conditions(body: Json) -> dict[str, str]:
    return {item["type"]: item["status"] for item in (body.get("status") or {}).get("conditions") or ()}


def _stalled(body: Json) -> bool:
    return _conditions(body).get("Stalled") == "True"


def _well(node: Json) -> bool:
    return _conditions(node).get("Ready") == "True" and not _spec(node).get("unschedulable")


def _at(body: Json) -> float:
    fields = body["metadata"].get("managedFields") or ()
    times = [item["time"] for item in fields if item["manager"] == CONTROLLER and "time" in item]
    return max((datetime.fromisoformat(text).timestamp() for text in times), default=0.0)
