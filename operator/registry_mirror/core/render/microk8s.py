"""MicroK8s since 1.23: containerd's hosts.toml below the arguments of the snap, read at every pull.

The snap's containerd-template.toml sets config_path to that directory (canonical/microk8s
microk8s-resources/default-args/containerd-template.toml), so nothing has to be set and nothing restarted.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from ...api.models import RuntimeFacts
from .. import versions
from ..bundle import MirrorProblem, Rendered
from ..resolve import ResolvedMirror
from . import containerd

# Which containerd a MicroK8s brings, each from that minor release on (runtimes.md, MicroK8s).
_CONTAINERD = (((1, 35), "2.1.6"), ((1, 30), "1.7.29"), ((1, 25), "1.6.28"), ((1, 23), "1.5.13"))


def render(facts: RuntimeFacts, mirrors: Sequence[ResolvedMirror]) -> Rendered:
    """Give hosts.toml files and the TLS files that they name, TLS files first; none of it takes a restart."""
    if versions.known_below(facts.version, 1, 23):
        text = (
            f"MicroK8s {facts.version} has no hosts.toml, so every change would take a restart; this version of the "
            "operator supports 1.23 and later"
        )
        return Rendered((), {}, tuple(MirrorProblem(item.name, "RuntimeTooOld", text) for item in mirrors))
    brought = facts.containerd_version or _containerd(facts.version)
    return containerd.render(replace(facts, containerd_version=brought), mirrors)


def _containerd(version: str) -> str:
    """Give the version of containerd in a MicroK8s, or nothing if that is not known: then a recent one is assumed."""
    known = versions.parse(version)
    return next((brought for since, brought in _CONTAINERD if known is not None and known[:2] >= since), "")
