"""From mirrors to the files of a runtime: one module a runtime, found by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ...api.models import RuntimeFacts, RuntimeName
from ..bundle import Rendered
from ..resolve import ResolvedMirror
from . import containerd, crio, k0s, k3s, microk8s

Renderer = Callable[[RuntimeFacts, Sequence[ResolvedMirror]], Rendered]

RENDERERS: Mapping[RuntimeName, Renderer] = {
    "k3s": k3s.render,
    "rke2": k3s.render,
    "containerd": containerd.render,
    "microk8s": microk8s.render,
    "k0s": k0s.render,
    "crio": crio.render,
}


def render(facts: RuntimeFacts, mirrors: Sequence[ResolvedMirror]) -> Rendered:
    """Render the mirrors that are in force on a node (at most one a registry) for its runtime."""
    return RENDERERS[facts.name](facts, mirrors)
