"""Which mirror is in force for which registry on a node, and which object has to stand back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from msgspec.structs import replace

from ..api.models import LabelSelector, LabelSelectorRequirement
from .resolve import ResolvedMirror


@dataclass(frozen=True, slots=True)
class Selection:
    """The mirrors of one node: those in force (ordered by registry), and for each that lost, the name of its winner."""

    mirrors: tuple[ResolvedMirror, ...]
    conflicts: Mapping[str, str]


def matches(selector: LabelSelector | None, labels: Mapping[str, str]) -> bool:
    """Tell whether a label selector matches; None matches everything, as does an empty selector."""
    if selector is None:
        return True
    return all(labels.get(key) == value for key, value in selector.match_labels.items()) and all(
        _requirement(item, labels) for item in selector.match_expressions
    )


def _requirement(item: LabelSelectorRequirement, labels: Mapping[str, str]) -> bool:
    """As labels.Requirement.Matches in apimachinery: NotIn also matches a node that lacks the label."""
    match item.operator:
        case "In":
            return labels.get(item.key) in item.values
        case "NotIn":
            return labels.get(item.key) not in item.values
        case "Exists":
            return item.key in labels
        case "DoesNotExist":
            return item.key not in labels


def select(mirrors: Iterable[ResolvedMirror], labels: Mapping[str, str]) -> Selection:
    """Choose one mirror per registry for a node with those labels.

    The highest priority wins, then the oldest object, then the name. Endpoints whose own selector does not match the
    node are left out of the result.
    """
    candidates: dict[str, list[ResolvedMirror]] = {}
    for mirror in mirrors:
        if matches(mirror.node_selector, labels):
            candidates.setdefault(mirror.registry, []).append(mirror)
    chosen, conflicts = [], {}
    for _, group in sorted(candidates.items()):
        winner, *losers = sorted(group, key=precedence)
        chosen.append(_for_node(winner, labels))
        conflicts.update({loser.name: winner.name for loser in losers})
    return Selection(tuple(chosen), conflicts)


def precedence(mirror: ResolvedMirror) -> tuple[int, str, str]:
    """A sort key: what sorts first takes precedence. RFC 3339 times in UTC sort as text."""
    return -mirror.priority, mirror.created, mirror.name


def _for_node(mirror: ResolvedMirror, labels: Mapping[str, str]) -> ResolvedMirror:
    kept = tuple(endpoint for endpoint in mirror.endpoints if matches(endpoint.node_selector, labels))
    return mirror if len(kept) == len(mirror.endpoints) else replace(mirror, endpoints=kept)
