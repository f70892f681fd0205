"""What is wrong in a cluster, or with one node of it, by all rules there are for that."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from msgspec.structs import replace

from ..finding import Finding, ordered
from . import conditions, endpoints, install, mirrors, nodes, references
from .picture import Picture

Rule = Callable[[Picture], Iterator[Finding]]

_OF_A_NODE: tuple[Rule, ...] = (
    install.of_controller,
    conditions.findings,
    nodes.of_agents,
    nodes.of_taints,
    nodes.of_runtimes,
    references.of_references,
    references.of_certificates,
    endpoints.of_endpoints,
    mirrors.of_nodes,
    mirrors.of_sharing,
)
_OF_ALL: tuple[Rule, ...] = (
    install.findings,
    nodes.of_versions,
    mirrors.of_policy,
    mirrors.of_labels,
    mirrors.of_precedence,
    endpoints.of_clear_text,
    endpoints.of_pull_secrets,
    endpoints.of_wildcards,
)


def diagnosed(seen: Picture) -> tuple[Finding, ...]:
    """Give what is wrong in the cluster."""
    return ordered(finding for rule in (*_OF_A_NODE, *_OF_ALL) for finding in rule(seen))


def diagnosed_node(seen: Picture) -> tuple[Finding, ...]:
    """Give what is wrong with one node, and with what it is to have. Takes the picture of it alone (``narrowed``)."""
    return ordered(finding for rule in (*_OF_A_NODE, mirrors.of_failures) for finding in rule(seen))


def narrowed(seen: Picture, name: str) -> Picture:
    """Leave all other nodes out, and the mirrors that are not for this one. The overview is the caller's."""
    kept = {key: item for key, item in seen.mirrors.items() if item.spec is None or seen.is_for(item.spec, name)}
    return replace(
        seen,
        mirrors=kept,
        nodes=None if seen.nodes is None else {key: item for key, item in seen.nodes.items() if key == name},
        configs={key: item for key, item in seen.configs.items() if key == name},
    )
