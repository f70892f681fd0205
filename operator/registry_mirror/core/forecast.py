"""What a change of the objects would do to nodes: which files change, and whether that takes a restart.

Nodes that change alike come together, so that the answer is as short for 3,000 of them as for 3.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from . import edits
from .bundle import Bundle, Rendered, StartSetting
from .compare import Comparison, Difference, compare
from .layout import layout
from .masked import diff
from .plan import NodePlan, NodeView


@dataclass(frozen=True, slots=True)
class Left:
    """A mirror that would not be in force on these nodes, and why."""

    mirror: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Change:
    """What changes on some nodes, which have one runtime: the paths, what waits for a start of the runtime, what is
    left out, and the files before and after as a unified diff without secrets.
    """

    runtime: str
    nodes: tuple[str, ...]
    differences: tuple[Difference, ...]
    waiting: tuple[str, ...]
    left: tuple[Left, ...]
    diff: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Forecast:
    """All changes, the largest first; the nodes on which nothing changes, by their number, and those that have not
    reported what they run, by name.
    """

    changes: tuple[Change, ...]
    same: int
    unknown: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def restarts(self) -> bool:
        """Whether a runtime has to be restarted for it somewhere."""
        return any(change.waiting for change in self.changes)


@dataclass(slots=True)
class _Group:
    runtime: str
    before: NodePlan
    after: NodePlan
    found: Comparison
    nodes: list[str] = field(default_factory=list)


def forecast(
    before: Iterable[NodeView], after: Iterable[NodeView], asked: Collection[str], notes: Iterable[str] = ()
) -> Forecast:
    """Compare the nodes as they are to be now with how they would be.

    Takes the views of the same nodes, of two planners with the same key, the names of the mirrors that are asked about
    (why they are left out is told even if that is nothing new), and what to say besides.
    """
    later = {view.name: view for view in after}
    groups: dict[tuple[int, int], _Group] = {}
    unknown = []
    for view in before:
        facts = view.config.status.runtime if view.config is not None else None
        plan = later[view.name].plan
        if facts is None:
            unknown.append(view.name)
            continue
        key = id(view.plan), id(plan)
        if key not in groups:
            found = compare(_rendered(view.plan), _rendered(plan, view.plan), layout(facts))
            groups[key] = _Group(facts.name, view.plan, plan, found)
        groups[key].nodes.append(view.name)
    changes, same = _merged(groups.values(), asked)
    return Forecast(changes, same, tuple(sorted(unknown)), tuple(notes))


def _merged(groups: Iterable[_Group], asked: Collection[str]) -> tuple[tuple[Change, ...], int]:
    """Put together what is the same on nodes of several kinds, such as two versions of a runtime."""
    changes: dict[tuple[object, ...], list[str]] = {}
    same = 0
    for group in groups:
        left = tuple(_left(group.before, group.after, asked))
        if not group.found.differences and not left:
            same += len(group.nodes)
            continue
        lines = tuple(_lines(group.before.bundle, group.after.bundle or group.before.bundle))
        key = (group.runtime, group.found.differences, group.found.waiting, left, lines)
        changes.setdefault(key, []).extend(group.nodes)
    found = [
        Change(runtime, tuple(sorted(nodes)), differences, waiting, left, lines)  # type: ignore[arg-type]
        for (runtime, differences, waiting, left, lines), nodes in changes.items()
    ]
    return tuple(sorted(found, key=lambda item: (-len(item.nodes), item.nodes))), same


def _rendered(plan: NodePlan, otherwise: NodePlan | None = None) -> Rendered:
    """Give what was rendered, with digests for the values of settings; without a bundle, a node keeps what it has."""
    bundle = plan.bundle or (otherwise.bundle if otherwise is not None else None)
    if bundle is None:
        return Rendered(())
    settings = {name: StartSetting(value, frozenset()) for name, value in bundle.start_settings.items()}
    return Rendered(bundle.files, settings, edits=bundle.edits)


def _left(before: NodePlan, after: NodePlan, asked: Collection[str]) -> Iterable[Left]:
    for name, problem in sorted(after.problems.items()):
        if name in asked or before.problems.get(name) != problem:
            yield Left(name, problem.reason, problem.message)
    for name, winner in sorted(after.conflicts.items()):
        if name in asked or before.conflicts.get(name) != winner:
            yield Left(name, "LowerPrecedence", f"RegistryMirror {winner} takes precedence")


def _lines(before: Bundle | None, after: Bundle | None) -> Iterable[str]:
    old, new = _texts(before), _texts(after)
    for path in dict.fromkeys((*old, *new)):
        (text, mode), (wanted, wanted_mode) = old.get(path, (None, 0)), new.get(path, (None, 0))
        if text != wanted:
            yield from diff(path, text, wanted)
        elif mode != wanted_mode:
            yield from (
                f"--- {path}",
                f"+++ {path}",
                f"@@ only the mode: {mode:04o} before, {wanted_mode:04o} after @@",
            )


def _texts(bundle: Bundle | None) -> Mapping[str, tuple[str | None, int]]:
    """The files by path; of those that are edited, what is set in them."""
    if bundle is None:
        return {}
    found: dict[str, tuple[str | None, int]] = {file.path: (file.content, file.mode) for file in bundle.files}
    for edit in bundle.edits:
        found[edit.path] = edits.apply(edit, f"version = {edit.config_schema}\n"), 0
    return found
