"""Nodes as the controller sees them, in every state of an agent, for the tests of the status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from registry_mirror.api.errors import InvalidError
from registry_mirror.api.models import NodeRegistryConfig, RegistryMirrorSpec, RegistryMirrorStatus, RuntimeName
from registry_mirror.core.bundle import Bundle, MirrorProblem
from registry_mirror.core.plan import NodePlan, NodeView, Prints
from registry_mirror.core.rollout import Hold
from registry_mirror.core.status import mirror_status
from registry_mirror.core.tally import Tally, tally
from tests.pure.builders import parsed

NOW, LATER = "2026-08-01T10:00:00Z", "2026-08-01T10:05:00Z"
SPEC = parsed("docker.io", endpoints=[{"url": "https://mirror.example.com"}]).spec
RUNTIME: RuntimeName = "k3s"
BUNDLE = Bundle(revision="new", runtime=RUNTIME, files=())
IN_FORCE = NodePlan(BUNDLE, frozenset({"m"}))
WAITS = NodePlan(BUNDLE, frozenset({"m", "other"}), needs_start={"credentials for x": frozenset({"m"})})
CONFLICT = NodePlan(BUNDLE, frozenset({"winner"}), conflicts={"m": "winner"})
PROBLEM = NodePlan(BUNDLE, frozenset(), problems={"m": MirrorProblem("m", "RewriteUnsupported", "exclude the nodes")})

Progress = Literal[
    "applied",
    "applying",
    "untold",
    "stalled",
    "drifted",
    "silent",
    "silent and stalled",
    "waiting",
    "rolled back",
    "stalled before",
    "waiting before",
]
_HAVE_OLD = ("applying", "untold", "rolled back", "stalled before", "waiting before")


def config(progress: Progress) -> NodeRegistryConfig:
    told, applied = "old" if progress == "untold" else "new", "old" if progress in _HAVE_OLD else "new"
    conditions = []
    if "stalled" in progress:
        conditions.append({"type": "Stalled", "status": "True", "reason": "DiskFull", "message": "no space left"})
    if progress == "rolled back":
        conditions.append({"type": "Stalled", "status": "True", "reason": "RolledBack", "message": "it did not start"})
    if progress == "drifted":
        conditions.append({"type": "Drifted", "status": "True", "reason": "Changed"})
    status: dict[str, Any] = {"appliedRevision": applied, "conditions": conditions}
    if "silent" not in progress:
        status["runtime"] = {"name": RUNTIME}
    if progress.startswith("waiting"):
        status["waitingForRestart"] = ["credentials for x"]
    return msgspec.convert(
        {"metadata": {"name": "n"}, "spec": {"revision": told}, "status": status}, NodeRegistryConfig
    )


def node(name: str, progress: Progress | None = "applied", plan: NodePlan = IN_FORCE) -> NodeView:
    return NodeView(name, plan, config(progress) if progress is not None else None)


def status_of(
    *nodes: NodeView,
    spec: RegistryMirrorSpec | None = SPEC,
    error: InvalidError | None = None,
    old: RegistryMirrorStatus | None = None,
    holds: Mapping[str, Hold] | None = None,
    known: Mapping[str, Prints] | None = None,
    now: str = NOW,
) -> RegistryMirrorStatus:
    return mirror_status(
        generation=3,
        spec=spec,
        error=error,
        tally=tally(nodes, holds or {}, known or {}).get("m", Tally()),
        old=old or RegistryMirrorStatus(),
        now=now,
    )
