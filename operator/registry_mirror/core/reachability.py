"""From how many nodes each endpoint of a mirror answers, as its status says it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from ..api.conditions import Condition, condition
from ..api.models import EndpointResult, EndpointStatus, Probe, RegistryMirrorSpec
from .plan import NodePlan, NodeView
from .words import counted, short

_MAX_ENDPOINTS = 16
_MAX_TEXT = 1000


@dataclass(slots=True)
class EndpointTally:
    """What one endpoint of one mirror looks like over all nodes that have reported it; ``behind`` counts the nodes that
    have it behind the others.
    """

    reachable: int = 0
    failures: list[tuple[str, EndpointResult]] = field(default_factory=list)
    behind: int = 0

    def message(self) -> str:
        """Say why it does not answer, with one node as an example; empty if it does."""
        if not self.failures:
            return ""
        node, result = min(self.failures, key=lambda item: item[0])
        text = f"{result.reason} on {node}: {result.message}"
        if self.behind:
            text += f"; it is put behind the others on {counted(self.behind)}"
        return short(text, _MAX_TEXT)


Endpoints = Mapping[str, EndpointTally]


def add(plan: NodePlan, nodes: Iterable[NodeView], endpoints_of: Callable[[str], dict[str, EndpointTally]]) -> None:
    """Add what nodes that share a plan report of the endpoints that they are to have.

    ``endpoints_of`` gives what is known of a mirror's endpoints, by URL.
    """
    answers: Counter[str] = Counter()
    failures: defaultdict[str, list[tuple[str, EndpointResult]]] = defaultdict(list)
    for node in nodes:
        found = node.config.status.endpoints if node.config is not None else ()
        answers.update({item.url for item in found if item.reachable})
        for item in found:
            if not item.reachable:
                failures[item.url].append((node.name, item))
    for mirror in plan.bundle.sources if plan.bundle is not None else ():
        behind = plan.behind.get(mirror.name, frozenset())
        for url in dict.fromkeys(item.url for item in mirror.endpoints):
            count = answers[url] + len(failures.get(url, ()))
            if count:
                tally = endpoints_of(mirror.name).setdefault(url, EndpointTally())
                tally.reachable += answers[url]
                tally.failures += failures.get(url, ())
                tally.behind += count if url in behind else 0


def statuses(spec: RegistryMirrorSpec | None, endpoints: Endpoints) -> tuple[EndpointStatus, ...]:
    """Give the counts for the status, in the order of the spec (by URL if that cannot be read)."""
    urls = sorted(endpoints) if spec is None else dict.fromkeys(item.url for item in spec.endpoints)
    return tuple(
        EndpointStatus(url=url, reachable=found.reachable, unreachable=len(found.failures), message=found.message())
        for url in urls
        if (found := endpoints.get(url)) is not None
    )[:_MAX_ENDPOINTS]


def summary(spec: RegistryMirrorSpec | None, endpoints: Endpoints, probe: Probe) -> Condition:
    """Give the condition EndpointsReachable."""
    if probe.mode == "Off":
        return _unknown("probe.mode is Off in RegistryMirrorPolicy default")
    found = statuses(spec, endpoints)
    if not found:
        return _unknown("no node has reported on an endpoint yet" if spec is None or spec.endpoints else "")
    failing = [item for item in found if item.unreachable]
    if not failing:
        return condition("EndpointsReachable", True, "AllReachable", "every endpoint answers every node that asked it")
    text = "; ".join(
        f"{item.url} does not answer {item.unreachable} of {counted(item.reachable + item.unreachable)}: {item.message}"
        for item in failing
    )
    none = all(not item.reachable for item in found)
    text = short(text, _MAX_TEXT)
    return condition("EndpointsReachable", False, "NoneReachable" if none else "SomeUnreachable", text)


def _unknown(message: str) -> Condition:
    return Condition(type="EndpointsReachable", status="Unknown", reason="NotProbed", message=message)
