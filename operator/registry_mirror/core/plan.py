"""What every node is to have, worked out from all mirrors and one node's facts and labels.

Nodes that look alike (same runtime facts, same values of the labels that any selector asks for, same endpoints to put
behind the others) share one plan, so the work grows with the number of kinds of nodes, not with the number of nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set as AbstractSet
from dataclasses import dataclass, field, replace

import msgspec

from ..api.errors import InvalidError
from ..api.models import LabelSelector, NodeRegistryConfig, RuntimeFacts
from .bundle import Bundle, MirrorProblem, Rendered, encode, seal
from .layout import layout
from .probing import demoted, moved
from .render import render
from .resolve import ResolvedMirror
from .select import Selection, select

Prints = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class NodePlan:
    """The plan for one kind of node.

    ``bundle`` is None while the agent has not reported which runtime it found, and if all of it is too much for one
    Secret: then the node keeps what it has. ``in_force`` names the mirrors that the
    bundle carries; ``conflicts`` maps each mirror that had to stand back to the one that won; ``problems`` maps each
    mirror that cannot be had on such a node to the reason; ``needs_start`` maps the settings that wait for a start of
    the runtime to the mirrors that want them. ``behind`` maps each mirror whose order differs from the user's to the
    endpoints that were put behind the others. ``prints`` has for each mirror in force all that its files are made of: a
    mirror with an equal one in another plan is in force the same way there.
    """

    bundle: Bundle | None
    in_force: frozenset[str]
    conflicts: Mapping[str, str] = field(default_factory=dict)
    problems: Mapping[str, MirrorProblem] = field(default_factory=dict)
    needs_start: Mapping[str, frozenset[str]] = field(default_factory=dict)
    embedded_registry: bool = False
    behind: Mapping[str, frozenset[str]] = field(default_factory=dict)
    prints: Prints = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node as the controller sees it: its plan, and its NodeRegistryConfig if there is one."""

    name: str
    plan: NodePlan
    config: NodeRegistryConfig | None = None


_Kind = tuple[bytes, tuple[tuple[str, str], ...]]
# Which endpoints do not answer changes with the weather: plans for it are forgotten, those for a kind of node are not.
_MAX_DEMOTED = 256


class Planner:
    """Plans nodes for one state of all mirrors; make a new one when a mirror or a source changes."""

    def __init__(self, mirrors: Iterable[ResolvedMirror], key: bytes) -> None:
        """Take the mirrors and the key for digests (16 to 64 bytes)."""
        self._mirrors = tuple(mirrors)
        self._key = key
        self._label_keys = frozenset(_label_keys(self._mirrors))
        self._plans: dict[_Kind, NodePlan] = {}
        self._demoted: dict[tuple[_Kind, frozenset[tuple[str, frozenset[str]]]], NodePlan] = {}

    def plan(
        self, facts: RuntimeFacts | None, labels: Mapping[str, str], unreachable: AbstractSet[str] = frozenset()
    ) -> NodePlan:
        """Give the plan for a node with those facts (None: not reported yet) and labels, on which those endpoints are
        to go behind the others.
        """
        relevant = tuple(sorted((key, labels[key]) for key in self._label_keys if key in labels))
        kind = (msgspec.json.encode(facts), relevant)
        found = self._plans.get(kind)
        if found is None:
            found = self._plans[kind] = self._make(facts, select(self._mirrors, labels))
        if facts is None or found.bundle is None or not unreachable:
            return found
        behind = frozenset(moved(found.bundle.sources, unreachable))
        if not behind:
            return found
        other = self._demoted.get((kind, behind))
        if other is None:
            if len(self._demoted) >= _MAX_DEMOTED:
                self._demoted.clear()
            other = self._with_order(found, facts, select(self._mirrors, labels), dict(behind))
            self._demoted[kind, behind] = other
        return other

    def _make(self, facts: RuntimeFacts | None, selection: Selection) -> NodePlan:
        names = frozenset(mirror.name for mirror in selection.mirrors)
        if facts is None:
            return NodePlan(None, names, selection.conflicts)
        rendered = _render(facts, selection.mirrors)
        problems = {problem.mirror: problem for problem in rendered.problems}
        sources = tuple(mirror for mirror in selection.mirrors if mirror.name not in problems)
        bundle = seal(facts.name, rendered, sources, self._key)
        error = _too_large(bundle)
        if error is not None:
            problems |= {item.name: MirrorProblem(item.name, error.reason, error.detail) for item in sources}
            return NodePlan(None, frozenset(), selection.conflicts, problems)
        return NodePlan(
            bundle=bundle,
            in_force=names - problems.keys(),
            conflicts=selection.conflicts,
            problems=problems,
            needs_start={name: setting.mirrors for name, setting in rendered.start_settings.items()},
            embedded_registry=facts.embedded_registry is not None,
            prints=_prints(facts, sources),
        )

    def _with_order(
        self, plan: NodePlan, facts: RuntimeFacts, selection: Selection, behind: Mapping[str, frozenset[str]]
    ) -> NodePlan:
        """Give the plan with another order of endpoints; unchanged where that order would not be live, or would have
        another mirror left out: a mirror that hangs is no reason for a restart.

        The bundle's sources stay as the user wrote them: they are what the controller recovers its objects from.
        """
        assert plan.bundle is not None  # plan() has looked
        mirrors = tuple(demoted(item, behind.get(item.name, frozenset())) for item in selection.mirrors)
        rendered = _render(facts, mirrors)
        bundle = seal(facts.name, rendered, plan.bundle.sources, self._key)
        same = {item.mirror for item in rendered.problems} == plan.problems.keys()
        if not same or bundle.start_settings != plan.bundle.start_settings or _too_large(bundle) is not None:
            return plan
        return replace(plan, bundle=bundle, behind=behind, prints=_prints(facts, plan.bundle.sources, behind))


def _render(facts: RuntimeFacts, mirrors: tuple[ResolvedMirror, ...]) -> Rendered:
    problem = unsupported(facts)
    if problem is None:
        return render(facts, mirrors)
    reason, message = problem
    return Rendered((), {}, tuple(MirrorProblem(mirror.name, reason, message) for mirror in mirrors))


def unsupported(facts: RuntimeFacts) -> tuple[str, str] | None:
    """Say why nothing can be rendered for a runtime, as reason and message; None if something can."""
    if not facts.config_path and facts.name not in ("k0s", "crio") and not layout(facts).edits:
        return (
            "ConfigPathNotSet",
            "containerd reads no hosts.toml on this node, and its configuration is none that the operator edits "
            "(version 2 or 3, and nothing about the plugin in a file that it imports): set config_path = "
            f'"/etc/containerd/certs.d" in {facts.config_file}, restart containerd once, and the agent goes on by '
            "itself",
        )
    return None


def _prints(
    facts: RuntimeFacts, sources: Iterable[ResolvedMirror], behind: Mapping[str, frozenset[str]] | None = None
) -> Prints:
    return {item.name: (facts, item, (behind or {}).get(item.name)) for item in sources}


def _too_large(bundle: Bundle) -> InvalidError | None:
    try:
        encode(bundle)
    except InvalidError as error:
        return error
    return None


def _label_keys(mirrors: Iterable[ResolvedMirror]) -> Iterator[str]:
    for mirror in mirrors:
        for selector in (mirror.node_selector, *(endpoint.node_selector for endpoint in mirror.endpoints)):
            yield from _selector_keys(selector)


def _selector_keys(selector: LabelSelector | None) -> Iterator[str]:
    if selector is not None:
        yield from selector.match_labels
        yield from (item.key for item in selector.match_expressions)
