"""gather → decide → apply, for one key at a time. Deciding is core's; here is what is read for it and written."""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import msgspec
from msgspec.structs import replace

from ..api.conditions import find, is_true
from ..api.errors import InvalidError
from ..api.models import (
    BundleRef,
    NodeRegistryConfig,
    NodeRegistryConfigSpec,
    RegistryMirrorPolicySpec,
    RegistryMirrorStatus,
)
from ..core import bundle as bundles
from ..core import probing
from ..core.bundle import Bundle
from ..core.garbage import collectable
from ..core.plan import NodePlan, Planner
from ..core.resolve import ResolvedMirror, resolve
from ..core.status import NodeView, Tally, mirror_status, tally, transitions
from ..kube import events
from ..kube.client import Api
from ..kube.errors import ApiError
from ..kube.resources import (
    BUNDLE_KEY,
    BUNDLE_LABELS,
    CONFIGS,
    CONTROLLER,
    MIRRORS,
    NODES,
    POLICIES,
    SECRETS,
    Resource,
)
from .metrics import Metrics
from .store import MirrorInfo, NodeInfo, Store
from .workqueue import Key, WorkQueue

_log = logging.getLogger(__name__)

STATUS: Key = ("status", "")
GARBAGE: Key = ("garbage", "")
_STATUS_DELAY = 0.05
_GARBAGE_INTERVAL = 300.0
_GARBAGE_GRACE = 600.0


class Reconciler:
    """Works on keys: ``node NAME``, ``mirror NAME``, ``status`` (sums up all mirrors in one pass) and ``garbage``."""

    def __init__(
        self, store: Store, api: Api, metrics: Metrics, *, key: bytes, bundle_namespace: str, now: Callable[[], str]
    ) -> None:
        """Take the picture of the cluster, the API server, the key for digests and the clock (RFC 3339)."""
        self.queue = WorkQueue(self.handle, metrics.observe)
        self._store = store
        self._api = api
        self._metrics = metrics
        self._key = key
        self._namespace = bundle_namespace
        self._now = now
        self._planner: Planner | None = None
        self._errors: dict[str, InvalidError] = {}
        self._last_good: dict[str, ResolvedMirror] = {}
        self._known_bundles: set[str] = set()
        self._wanted: dict[str, RegistryMirrorStatus] = {}
        self._status_seconds = 0.0

    # ---- what a change means -------------------------------------------------------------------------------------

    def changed(self, resource: Resource, name: str) -> None:
        """Put on the queue whatever a change of that object may touch."""
        if resource in (NODES, CONFIGS):
            self.queue.add(("node", name))
        else:
            if resource != POLICIES:
                self._planner = None
            for node in self._store.nodes:
                self.queue.add(("node", node))
        self._summarise()

    def resync(self) -> None:
        """Put everything on the queue."""
        for name in {*self._store.nodes, *self._store.configs}:
            self.queue.add(("node", name))
        self._summarise()
        self.queue.add(GARBAGE)

    def _summarise(self) -> None:
        """Have all nodes summed up soon; in a large cluster, not for more than a third of the time."""
        self.queue.add(STATUS, max(_STATUS_DELAY, 2 * self._status_seconds))

    async def handle(self, key: Key) -> None:
        """Work on one key; raises one of the closed set of errors to have it retried."""
        kind, name = key
        match kind:
            case "node":
                await self._node(name)
            case "mirror":
                await self._mirror(name)
            case "status":
                started = time.monotonic()
                self._status()
                self._status_seconds = time.monotonic() - started
            case "garbage":
                await self._garbage()

    # ---- nodes ---------------------------------------------------------------------------------------------------

    async def _node(self, name: str) -> None:
        node, config = self._store.node(name), self._store.configs.get(name)
        if config is not None and (node is None or not _owned(config, node)):
            # Without its node, or left behind by one of the same name: the garbage collector would come too, later.
            await self._api.delete(CONFIGS, name, uid=config.metadata.uid)
            self._count(CONFIGS)
            self._store.forget(CONFIGS, name)
            self.changed(CONFIGS, name)
            return
        if node is None:
            return
        plan = self._plan(node, config)
        spec = self._spec(plan, config)
        if plan.bundle is not None and spec.revision == plan.bundle.revision:
            await self._ensure_bundle(plan.bundle, config)
        if config is None or config.spec != spec:
            body = {"metadata": {"ownerReferences": [_owner(node)]}, "spec": msgspec.to_builtins(spec)}
            await self._api.apply(CONFIGS, name, body, manager=CONTROLLER)
            self._count(CONFIGS)

    def _spec(self, plan: NodePlan, config: NodeRegistryConfig | None) -> NodeRegistryConfigSpec:
        """What the node is told: the revision as before while its runtime is unknown or the rollout is paused."""
        spec = config.spec if config is not None else NodeRegistryConfigSpec()
        if plan.bundle is not None and not self._policy().rollout.paused:
            spec = NodeRegistryConfigSpec(revision=plan.bundle.revision, bundle=BundleRef(name=plan.bundle.name))
        return replace(spec, probe=probing.for_node(self._policy().probe))

    def _policy(self) -> RegistryMirrorPolicySpec:
        policy = self._store.policy
        return policy.spec if policy is not None else RegistryMirrorPolicySpec()

    def _plan(self, node: NodeInfo, config: NodeRegistryConfig | None) -> NodePlan:
        facts = config.status.runtime if config is not None else None
        demote = self._policy().probe.mode == "Demote"
        unreachable = probing.unreachable(config.status.endpoints if config is not None and demote else ())
        complete = node.complete(facts) if facts is not None else None
        return self._current_planner().plan(complete, node.labels, unreachable)

    def _current_planner(self) -> Planner:
        if self._planner is None:
            self._planner = Planner(self._resolved(), self._key)
        return self._planner

    def _resolved(self) -> list[ResolvedMirror]:
        """Every mirror as it is to be, or as it last was good where it is broken now."""
        sources = self._store.sources()
        self._errors = {}
        for name, info in self._store.mirrors.items():
            try:
                if info.mirror is None:
                    raise info.error or AssertionError
                self._last_good[info.metadata.uid] = resolve(info.mirror, sources)
            except InvalidError as error:
                self._errors[name] = error
        alive = {info.metadata.uid for info in self._store.mirrors.values()}
        self._last_good = {uid: mirror for uid, mirror in self._last_good.items() if uid in alive}
        return list(self._last_good.values())

    async def _ensure_bundle(self, bundle: Bundle, config: NodeRegistryConfig | None) -> None:
        if config is not None:
            applied = find(config.status.conditions, "Applied")
            if applied is not None and applied.reason == "BundleNotFound":
                self._known_bundles.discard(bundle.name)
        if bundle.name in self._known_bundles:
            return
        body = {
            "metadata": {"name": bundle.name, "labels": BUNDLE_LABELS},
            "type": "registrymirror.io/bundle",
            "immutable": True,
            "data": {BUNDLE_KEY: base64.b64encode(bundles.encode(bundle)).decode()},
        }
        if await self._api.create(SECRETS, body, self._namespace):
            self._count(SECRETS)
        self._known_bundles.add(bundle.name)

    # ---- status --------------------------------------------------------------------------------------------------

    def _status(self) -> None:
        """Sum up all nodes for all mirrors, and put those on the queue whose status has to change."""
        self._current_planner()  # it knows what is wrong with which object, also where there is no node
        views = [
            NodeView(name, self._plan(node, self._store.configs.get(name)), self._store.configs.get(name))
            for name, node in self._store.nodes.items()
        ]
        tallies = tally(views, self._policy().rollout.paused)
        self._wanted = {}
        for name, info in self._store.mirrors.items():
            status = self._mirror_status(info, tallies.get(name, Tally()))
            self._show(name, status)
            if status != info.status:
                self._wanted[name] = status
                self.queue.add(("mirror", name))
        self._forget_metrics()

    def _mirror_status(self, info: MirrorInfo, found: Tally) -> RegistryMirrorStatus:
        return mirror_status(
            generation=info.metadata.generation,
            spec=info.mirror.spec if info.mirror is not None else None,
            error=self._errors.get(info.metadata.name),
            tally=found,
            old=info.status,
            now=self._now(),
            probe=self._policy().probe,
        )

    async def _mirror(self, name: str) -> None:
        info, wanted = self._store.mirrors.get(name), self._wanted.get(name)
        if info is None or wanted is None or wanted == info.status:
            return
        body = {"status": msgspec.to_builtins(wanted)}
        answer = await self._api.apply(MIRRORS, name, body, manager=CONTROLLER, subresource="status")
        self._count(MIRRORS)
        self._store.put(MIRRORS, answer)
        for transition in transitions(info.status.conditions, wanted.conditions):
            try:
                await events.emit(self._api, MIRRORS, name, info.metadata.uid, transition, self._now())
            except ApiError as error:
                _log.warning("no Event: %s", error.message)  # the condition says the same

    def _show(self, name: str, status: RegistryMirrorStatus) -> None:
        self._metrics.mirrors.labels(name).set(is_true(status.conditions, "Ready"))
        for state, count in msgspec.to_builtins(status.nodes).items():
            self._metrics.nodes.labels(name, state).set(count)

    def _forget_metrics(self) -> None:
        for labels in list(self._metrics.mirrors._metrics):
            if labels[0] not in self._store.mirrors:
                self._metrics.mirrors.remove(*labels)
        for labels in list(self._metrics.nodes._metrics):
            if labels[0] not in self._store.mirrors:
                self._metrics.nodes.remove(*labels)

    # ---- bundles -------------------------------------------------------------------------------------------------

    async def recover(self) -> None:
        """Learn from the bundles in use how mirrors were when they were last good; call before the first pass.

        Without it, an object whose Secret vanished while the controller was down would lose its files on every node.
        """
        for name in {config.spec.bundle.name for config in self._store.configs.values() if config.spec.bundle}:
            secret = await self._api.get(SECRETS, name, self._namespace)
            if secret is None:
                continue
            self._known_bundles.add(name)
            try:
                found = bundles.decode(base64.b64decode((secret.get("data") or {}).get(BUNDLE_KEY, "")))
            except InvalidError as error:
                _log.warning("Secret %s/%s: %s", self._namespace, name, error.message)
                continue
            for source in found.sources:
                known = self._last_good.get(source.uid)
                if known is None or known.generation < source.generation:
                    self._last_good[source.uid] = source

    async def _garbage(self) -> None:
        items, _ = await self._api.list(
            SECRETS, self._namespace, metadata_only=True, labelSelector=_selector(BUNDLE_LABELS)
        )
        now = time.time()
        aged = [(item["metadata"]["name"], now - _timestamp(item["metadata"]["creationTimestamp"])) for item in items]
        for name in collectable(aged, self._store.configs.values(), grace=_GARBAGE_GRACE):
            self._known_bundles.discard(name)
            await self._api.delete(SECRETS, name, self._namespace)
            self._count(SECRETS)
        self.queue.add(GARBAGE, _GARBAGE_INTERVAL)

    def _count(self, resource: Resource) -> None:
        self._metrics.writes.labels(resource.kind).inc()


def _owned(config: NodeRegistryConfig, node: NodeInfo) -> bool:
    return any(owner.uid == node.uid for owner in config.metadata.owner_references)


def _owner(node: NodeInfo) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Node", "name": node.name, "uid": node.uid}


def _selector(labels: Mapping[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def _timestamp(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
