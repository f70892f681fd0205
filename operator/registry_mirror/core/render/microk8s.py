"""MicroK8s since 1.23: containerd's hosts.toml below the arguments of the snap, read at every pull.

The snap's containerd-template.toml sets config_path to that directory (canonical/microk8s
microk8s-resources/default-args/containerd-template.toml), so nothing has to be set there but credentials that no header
can carry. Where the template has no config_path, it has the mirrors (``microk8s_old``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec.structs import replace

from ...api.models import RuntimeFacts
from .. import versions
from ..bundle import MirrorProblem, Rendered
from ..layout import layout
from ..resolve import ResolvedMirror
from . import containerd, microk8s_old

# Which containerd a MicroK8s brings, each from that minor release on (runtimes.md, MicroK8s).
_CONTAINERD = (((1, 35), "2.1.6"), ((1, 30), "1.7.29"), ((1, 25), "1.6.28"), ((1, 23), "1.5.13"))


def render(facts: RuntimeFacts, mirrors: Sequence[ResolvedMirror]) -> Rendered:
    """Give hosts.toml files and the TLS files that they name, TLS files first, and what goes into the template."""
    if not facts.config_path and not layout(facts).edits:
        text = "its containerd-template.toml is not of version 2, as it is since MicroK8s 1.19: upgrade it"
        return Rendered((), {}, tuple(MirrorProblem(item.name, "RuntimeTooOld", text) for item in mirrors))
    facts = replace(facts, containerd_version=facts.containerd_version or _containerd(facts.version))
    engine = containerd.render if facts.config_path else microk8s_old.render
    return engine(facts, _with_docker_hub(facts, mirrors, engine))


def _with_docker_hub(
    facts: RuntimeFacts,
    mirrors: Sequence[ResolvedMirror],
    engine: Callable[[RuntimeFacts, Sequence[ResolvedMirror]], Rendered],
) -> Sequence[ResolvedMirror]:
    """Have "*" hold for Docker Hub as well, which MicroK8s has settings of its own for, so that it would be exempt.

    microk8s-resources/default-args: certs.d/docker.io/hosts.toml, before 1.23 a mirror docker.io in the template.
    """
    every = [mirror for mirror in mirrors if mirror.registry == "*"]
    if not every or any(mirror.registry == "docker.io" for mirror in mirrors) or engine(facts, every).problems:
        return mirrors
    return (*mirrors, replace(every[0], registry="docker.io"))


def _containerd(version: str) -> str:
    """Give the version of containerd in a MicroK8s, or nothing if that is not known: then a recent one is assumed."""
    known = versions.parse(version)
    return next((brought for since, brought in _CONTAINERD if known is not None and known[:2] >= since), "")
