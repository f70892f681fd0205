"""What a status pass has found, as metrics: the same facts as the conditions tell, and none of its own."""

from __future__ import annotations

import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Literal, get_args

import msgspec

from ..api.conditions import is_true
from ..api.models import NodeRegistryConfig, RegistryMirrorStatus
from ..core.plan import NodeView
from ..core.rollout import Hold
from .metrics import Metrics, Snapshot

State = Literal["unreported", "held", "applying", "waiting", "restarting", "failed", "current"]
RESULTS = ("Succeeded", "RolledBack", "RollbackFailed")
_WENT_BACK = RESULTS[1:]
# As an agent writes it: whole milliseconds. The rest is what a Duration of Kubernetes may say as well.
_LATENCY = re.compile(r"([0-9]+(?:\.[0-9]+)?)(us|ms|s)")
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


class Observer:
    """Shows the state of mirrors and nodes, and counts the restarts that end while it looks on."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        # When the last restart began that was counted, by UID of the NodeRegistryConfig; None before the first look.
        self._counted: dict[str, str] | None = None
        for result in RESULTS:
            metrics.restarts.labels(result)  # a rate needs the zero before the first one

    def observe(
        self,
        statuses: Mapping[str, RegistryMirrorStatus],
        views: Iterable[NodeView],
        holds: Mapping[str, Hold] = MappingProxyType({}),
    ) -> None:
        """Show what a pass came to.

        Takes the status of every RegistryMirror by name, as it is to be written, all nodes, and why nodes have to
        wait, by name. What is in none of them is shown no longer.
        """
        views = tuple(views)
        self._mirrors(statuses)
        self._metrics.latencies.show(_latencies(views))
        states = Counter(state(view) for view in views)
        self._metrics.rollout.show({(name,): states[name] for name in get_args(State)})
        held = Counter(hold.reason for hold in holds.values())
        self._metrics.held.show({(reason,): count for reason, count in held.items()})
        went_back = Counter(_went_back(view.config) for view in views)
        self._metrics.rolled_back.show({(result,): went_back[result] for result in _WENT_BACK})
        self._restarts(views)

    def clear(self) -> None:
        """Show nothing of mirrors and nodes any more: for who no longer leads, and does not know them."""
        for metric in vars(self._metrics).values():
            if isinstance(metric, Snapshot):
                metric.show({})
        self._counted = None

    def _mirrors(self, statuses: Mapping[str, RegistryMirrorStatus]) -> None:
        nodes: dict[tuple[str, ...], float] = {}
        ready: dict[tuple[str, ...], float] = {}
        conditions: dict[tuple[str, ...], float] = {}
        endpoints: dict[tuple[str, ...], float] = {}
        for name, status in statuses.items():
            ready[name,] = is_true(status.conditions, "Ready")
            for key, count in (msgspec.to_builtins(status.nodes) or {}).items():
                nodes[name, key] = count
            for item in status.conditions:
                conditions[name, item.type, item.status, item.reason] = 1
            for found in status.endpoints:
                endpoints[name, found.url, "reachable"] = found.reachable
                endpoints[name, found.url, "unreachable"] = found.unreachable
        self._metrics.nodes.show(nodes)
        self._metrics.mirrors.show(ready)
        self._metrics.conditions.show(conditions)
        self._metrics.endpoints.show(endpoints)

    def _restarts(self, views: Iterable[NodeView]) -> None:
        counted: dict[str, str] = {}
        for view in views:
            if view.config is None:
                continue
            uid, restart = view.config.metadata.uid, view.config.status.restart
            before = "" if self._counted is None else self._counted.get(uid, "")
            counted[uid] = before
            if restart is None or restart.result not in RESULTS or restart.started_at == before:
                continue
            counted[uid] = restart.started_at
            if self._counted is not None:  # what ended before we came was counted by whoever was here then
                self._metrics.restarts.labels(restart.result).inc()
        self._counted = counted


def state(view: NodeView) -> State:
    """Say how far a node is with what it is to have."""
    config, bundle = view.config, view.plan.bundle
    if config is None:
        return "unreported"
    status = config.status
    if status.restart is not None and status.restart.result == "InProgress":
        return "restarting"
    if is_true(status.conditions, "Stalled"):
        return "failed"
    if status.runtime is None:
        return "unreported"
    if bundle is None:
        return "failed"
    if config.spec.revision != bundle.revision:
        return "held"
    if status.applied_revision != bundle.revision:
        return "applying"
    return "waiting" if status.waiting_for_restart else "current"


def _went_back(config: NodeRegistryConfig | None) -> str:
    """How the last restart ended if the node went back from the revision that it is told; else nothing."""
    restart = config.status.restart if config is not None else None
    if config is None or restart is None or restart.revision != config.spec.revision:
        return ""
    return restart.result if restart.result in _WENT_BACK else ""


def _latencies(views: Iterable[NodeView]) -> dict[tuple[str, ...], float]:
    """The median and the longest latency by URL, over the nodes that the endpoint answers."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    for view in views:
        for item in view.config.status.endpoints if view.config is not None else ():
            latency = _seconds(item.latency) if item.reachable else None
            if latency is not None:
                found[item.url].append(latency)
    shown: dict[tuple[str, ...], float] = {}
    for url, values in found.items():
        shown[url, "0.5"] = statistics.median(values)
        shown[url, "1"] = max(values)
    return shown


@lru_cache(maxsize=4096)
def _seconds(latency: str) -> float | None:
    """A latency as an agent reports it, in seconds; None if it cannot be read."""
    match = _LATENCY.fullmatch(latency)
    return float(match[1]) * _UNITS[match[2]] if match else None
