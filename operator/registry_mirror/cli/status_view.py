"""How ``registry-mirror status`` shows what it found to a person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import click

from ..core.node_groups import NodeGroup
from ..core.overview import Finding, Kind, Leader, MirrorLine, Overview
from ..core.words import counted, some
from .screen import age, paragraph, safe, table

_COLOURS = {
    **{"Ready": "green", "in force": "green", "Reconciling": "yellow", "Stalled": "red", "failed": "red"},
    **dict.fromkeys(("drifted", "waiting", "changing", "restarting", "silent"), "yellow"),
}
_TITLES: Mapping[Kind, str] = {
    "wrong": "Somebody has to do something",
    "going on": "Under way",
    "notice": "Worth a look",
}
_MOST = 15


def whole(found: Overview, now: float, width: int = 0) -> Iterator[str]:
    """Give the lines for the cluster, at that time (seconds since 1970), for a terminal of that width (0: none)."""
    counts = {
        state: sum(item.state == state for item in found.mirrors) for state in ("Ready", "Reconciling", "Stalled")
    }
    states = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    nodes = "nodes unknown" if found.nodes is None else counted(found.nodes, "node")
    yield f"{counted(len(found.mirrors), 'mirror')}{f' ({states})' if states else ''}, {nodes}{_leads(found.leader)}"
    if found.mirrors:
        yield ""
        header = ("MIRROR", "REGISTRY", "STATE", "REASON", "NODES", "FAILED", "ENDPOINTS", "SINCE")
        yield from table(header, (_row(item, now) for item in found.mirrors[:_MOST]), _COLOURS)
        rest = found.mirrors[_MOST:]
        if rest:
            # They are sorted by state, so that those left out are the ones to look at least.
            left = {state: sum(item.state == state for item in rest) for state in counts}
            yield f"and {len(rest)} more: {', '.join(f'{count} {state}' for state, count in left.items() if count)}"
    yield from _nodes(found.groups, now)
    yield from _findings(found.findings, now, width)
    yield from _unread(found)


def one(found: Overview, now: float, width: int = 0) -> Iterator[str]:
    """Give the lines for the only mirror in it; takes the same as ``whole``."""
    (item,) = found.mirrors
    since = f", for {age(item.since, now)}" if age(item.since, now) else ""
    yield f"{safe(item.name)} ({safe(item.registry)}): {_coloured(item.state)} {safe(item.reason)}{since}".rstrip()
    yield from paragraph(item.message, width)
    counts = item.nodes
    yield (
        f"  nodes: {counts.selected} selected, {counts.applied} applied, {counts.pending} pending, "
        f"{counts.failed} failed, {counts.drifted} drifted"
    )
    if item.reachability:
        yield ""
        rows = ((end.url, str(end.reachable), str(end.unreachable), end.message) for end in item.reachability)
        yield from table(("ENDPOINT", "ANSWERS", "SILENT", "WHY"), rows)
    if item.failures:
        yield ""
        yield from table(("NODE", "REASON", "MESSAGE"), ((bad.node, bad.reason, bad.message) for bad in item.failures))
        if counts.failed > len(item.failures):
            yield f"and {counts.failed - len(item.failures)} more"
    yield from _nodes(found.groups, now)
    yield from _findings(tuple(bad for bad in found.findings if bad.subject != item.name), now, width)
    yield from _unread(found)


def _row(item: MirrorLine, now: float) -> tuple[str, ...]:
    answering = "?" if item.answering is None else str(item.answering)
    return (
        item.name,
        item.registry,
        item.state,
        item.reason,
        f"{item.nodes.applied}/{item.nodes.selected}",
        str(item.nodes.failed),
        f"{answering}/{item.endpoints}",
        age(item.since, now),
    )


def _nodes(groups: tuple[NodeGroup, ...], now: float) -> Iterator[str]:
    if not groups:
        return
    yield ""
    rows = (
        (
            item.runtime,
            item.version,
            item.state,
            item.reason,
            str(item.count),
            age(item.since, now),
            some(item.names, item.count),
        )
        for item in groups[:_MOST]
    )
    yield from table(("RUNTIME", "VERSION", "STATE", "REASON", "COUNT", "SINCE", "NODES"), rows, _COLOURS)
    if len(groups) > _MOST:
        yield f"and {counted(sum(item.count for item in groups[_MOST:]), 'node')} in {len(groups) - _MOST} more groups"


def _findings(findings: tuple[Finding, ...], now: float, width: int) -> Iterator[str]:
    for kind, title in _TITLES.items():
        found = [item for item in findings if item.kind == kind]
        if not found:
            continue
        yield ""
        yield title
        for item in found[:_MOST]:
            since = age(item.since, now)
            told = ", ".join(part for part in (item.reason, f"for {since}" if since else "") if part)
            remedy = f" → {item.remedy}" if item.remedy else ""
            yield from paragraph(f"{item.subject}{f' ({told})' if told else ''}: {item.message}{remedy}", width)
        if len(found) > _MOST:
            yield f"  and {len(found) - _MOST} more"


def _unread(found: Overview) -> Iterator[str]:
    if found.notes:
        yield ""
        yield from (f"note: {safe(note)}" for note in found.notes)


def _leads(leader: Leader | None) -> str:
    if leader is None:
        return ""
    return f", {safe(leader.holder)} leads" if leader.alive else ", no controller works"


def _coloured(state: str) -> str:
    return click.style(state, fg=_COLOURS[state])
