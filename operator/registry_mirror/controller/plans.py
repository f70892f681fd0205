"""What every node is to have, from the picture of the cluster; worked out anew only where something has changed."""

from __future__ import annotations

from collections.abc import Iterable

from ..api.errors import InvalidError
from ..api.models import NodeRegistryConfig, RegistryMirrorPolicySpec
from ..core import probing
from ..core.bundle import Bundle
from ..core.plan import NodePlan, NodeView, Planner, Prints
from ..core.resolve import ResolvedMirror, resolve
from .store import NodeInfo, Store


class Plans:
    """Plans for all nodes; ``errors`` says what is wrong with which RegistryMirror, by name, and ``known`` what mirrors
    were made of in the revisions that nodes have, or are to have.
    """

    def __init__(self, store: Store, key: bytes) -> None:
        """Take the picture of the cluster and the key for digests (16 to 64 bytes)."""
        self.errors: dict[str, InvalidError] = {}
        self.known: dict[str, Prints] = {}
        self._store = store
        self._key = key
        self._planner: Planner | None = None
        self._last_good: dict[str, ResolvedMirror] = {}

    def forget(self) -> None:
        """Plan anew: a mirror, or a Secret or ConfigMap, has changed."""
        self._planner = None

    def learn(self, bundle: Bundle) -> None:
        """Take from a bundle in use how its mirrors were when they were last good."""
        for source in bundle.sources:
            known = self._last_good.get(source.uid)
            if known is None or known.generation < source.generation:
                self._last_good[source.uid] = source

    def policy(self) -> RegistryMirrorPolicySpec:
        """The rules: those of the policy, or the defaults."""
        policy = self._store.policy
        return policy.spec if policy is not None else RegistryMirrorPolicySpec()

    def current(self) -> Planner:
        """The planner for the present objects; brings ``errors`` up to date."""
        if self._planner is None:
            self._planner = Planner(self._resolved(), self._key)
        return self._planner

    def views(self) -> list[NodeView]:
        """All nodes, each with its plan and its NodeRegistryConfig."""
        planner, demote = self.current(), self.policy().probe.mode == "Demote"
        found = []
        for name, node in self._store.nodes.items():
            config = self._store.configs.get(name)
            if config is not None and not owned(config, node):
                config = None  # that of an earlier node of the same name
            found.append(NodeView(name, _plan(planner, node, config, demote), config))
        self._note(found)
        return found

    def _note(self, views: Iterable[NodeView]) -> None:
        needed: set[str] = set()
        for view in views:
            if view.plan.bundle is not None:
                self.known[view.plan.bundle.revision] = view.plan.prints
                needed.add(view.plan.bundle.revision)
            if view.config is not None:
                needed.add(view.config.status.applied_revision)
        self.known = {revision: prints for revision, prints in self.known.items() if revision in needed}

    def _resolved(self) -> list[ResolvedMirror]:
        """Every mirror as it is to be, or as it last was good where it is broken now."""
        sources = self._store.sources()
        self.errors = {}
        for name, info in self._store.mirrors.items():
            try:
                if info.mirror is None:
                    raise info.error or AssertionError
                self._last_good[info.metadata.uid] = resolve(info.mirror, sources)
            except InvalidError as error:
                self.errors[name] = error
        alive = {info.metadata.uid for info in self._store.mirrors.values()}
        self._last_good = {uid: mirror for uid, mirror in self._last_good.items() if uid in alive}
        return list(self._last_good.values())


def _plan(planner: Planner, node: NodeInfo, config: NodeRegistryConfig | None, demote: bool) -> NodePlan:
    facts = config.status.runtime if config is not None else None
    unreachable = probing.unreachable(config.status.endpoints if config is not None and demote else ())
    return planner.plan(node.complete(facts) if facts is not None else None, node.labels, unreachable)


def owned(config: NodeRegistryConfig, node: NodeInfo) -> bool:
    """Tell whether the object is that of this very node, and not of an earlier one of its name."""
    return any(owner.uid == node.uid for owner in config.metadata.owner_references)
