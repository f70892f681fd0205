"""gather → decide → apply, for one key at a time. Deciding is core's; here is what is read for it and written."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec

from ..api.models import RegistryMirrorStatus
from ..core.plan import NodeView
from ..core.rollout import Decision
from ..core.status import mirror_status, policy_status, transitions
from ..core.tally import Tally, tally
from ..core.windows import problems
from ..kube import events
from ..kube.client import Api
from ..kube.resources import CONFIGS, CONTROLLER, MIRRORS, NODES, POLICIES, Resource
from .bundles import Bundles
from .election import Ledger
from .metrics import Metrics
from .node_events import NodeEvents
from .observe import Observer
from .plans import Plans, owned
from .rollout import Rollout
from .startup import Startup
from .store import MirrorInfo, NodeInfo, Store
from .workqueue import Key, WorkQueue

ROLLOUT: Key = ("rollout", "")
STATUS: Key = ("status", "")
POLICY: Key = ("policy", "")
GARBAGE: Key = ("garbage", "")
_ROLLOUT_DELAY = 0.02
_STATUS_DELAY = 0.05
_STATUSES_A_SECOND = 200.0
_GARBAGE_INTERVAL = 300.0


class Reconciler:
    """Works on keys: ``node NAME`` (its object is there, or goes), ``rollout`` (tells all nodes what they are to have),
    ``status`` (sums up all mirrors in one pass), ``mirror NAME``, ``taint NAME``, ``events NAME`` (about a node),
    ``policy`` and ``garbage``.
    """

    def __init__(
        self,
        store: Store,
        api: Api,
        metrics: Metrics,
        *,
        key: bytes,
        bundle_namespace: str,
        now: Callable[[], str],
        ledger: Ledger | None = None,
    ) -> None:
        """Take the picture of the cluster, the API server, the key for digests, the clock (RFC 3339), and where to
        announce what is written to nodes, if there is anybody to tell.
        """
        self.queue = WorkQueue(self.handle, metrics.observe)
        self._store = store
        self._api = api
        self._metrics = metrics
        self._observer = Observer(metrics)
        self._now = now
        self._plans = Plans(store, key)
        self._bundles = Bundles(api, bundle_namespace, self._count)
        self._rollout = Rollout(store, api, self._plans, self._bundles, self._count, ledger=ledger or Ledger())
        self._startup = Startup(store, api, self._plans, self._count, now)
        self._node_events = NodeEvents()
        self._wanted: dict[str, RegistryMirrorStatus] = {}
        self._status_seconds = 0.0

    # ---- what a change means -------------------------------------------------------------------------------------

    def changed(self, resource: Resource, name: str) -> None:
        """Put on the queue whatever a change of that object may touch."""
        if resource == NODES:
            self._startup.note(name)
        if resource in (NODES, CONFIGS):
            self.queue.add(("node", name))
        elif resource == POLICIES:
            self.queue.add(POLICY)
        else:
            self._plans.forget()
        self._look()

    def resync(self) -> None:
        """Put everything on the queue."""
        for name in {*self._store.nodes, *self._store.configs}:
            self._startup.note(name)
            self.queue.add(("node", name))
        self._look()
        self.queue.add(POLICY)
        self.queue.add(GARBAGE)

    def _look(self, after: float = 0.0) -> None:
        """Have all nodes looked at, soon or after so many seconds; in a large cluster, not for more than a third of the
        time, and with many mirrors not so often that their statuses are what the API server is busy with.
        """
        self.queue.add(ROLLOUT, max(after, _ROLLOUT_DELAY, 2 * self._rollout.seconds))
        often = len(self._store.mirrors) / _STATUSES_A_SECOND
        self.queue.add(STATUS, max(after, _STATUS_DELAY, 2 * self._status_seconds, often))

    async def handle(self, key: Key) -> None:
        """Work on one key; raises one of the closed set of errors to have it retried."""
        kind, name = key
        match kind:
            case "node":
                await self._node(name)
            case "mirror":
                await self._mirror(name)
            case "rollout":
                await self._roll()
            case "status":
                started = time.monotonic()
                self._status()
                self._status_seconds = time.monotonic() - started
            case "taint":
                await self._startup.act(name)
            case "events":
                await self._events(name)
            case "policy":
                await self._policy()
            case "garbage":
                await self._bundles.collect(self._store.configs)
                self.queue.add(GARBAGE, _GARBAGE_INTERVAL)

    # ---- nodes ---------------------------------------------------------------------------------------------------

    async def recover(self) -> None:
        """Learn from the bundles in use how mirrors were when they were last good; call before the first pass.

        Without it, an object whose Secret vanished while the controller was down would lose its files on every node.
        """
        for bundle in await self._bundles.recover(self._store.configs.values()):
            self._plans.learn(bundle)

    async def _node(self, name: str) -> None:
        """Have an object for the node, and none without it; what the object says is the rollout's business."""
        node, config = self._store.node(name), self._store.configs.get(name)
        if config is not None and (node is None or not owned(config, node)):
            # Without its node, or left behind by one of the same name: the garbage collector would come too, later.
            await self._api.delete(CONFIGS, name, uid=config.metadata.uid)
            self._count(CONFIGS)
            self._store.forget(CONFIGS, name)
            self.changed(CONFIGS, name)
            return
        if node is None or config is not None:
            return
        spec = self._rollout.target(NodeView(name, self._plans.current().plan(None, node.labels)), Decision())
        body = {"metadata": {"ownerReferences": [_owner(node)]}, "spec": msgspec.to_builtins(spec)}
        await self._api.apply(CONFIGS, name, body, manager=CONTROLLER)
        self._count(CONFIGS)

    async def _roll(self) -> None:
        again = await self._rollout.run()
        if again is not None:
            self._look(again)

    # ---- status --------------------------------------------------------------------------------------------------

    def _status(self) -> None:
        """Sum up all nodes for all mirrors, and put those on the queue whose status has to change."""
        picture = self._rollout.look()
        tallies = tally(picture.views, picture.decision.holds, self._plans.known)
        statuses = {
            name: self._mirror_status(info, tallies.get(name, Tally())) for name, info in self._store.mirrors.items()
        }
        self._observer.observe(statuses, picture.views, picture.decision.holds)
        self._wanted = {name: found for name, found in statuses.items() if found != self._store.mirrors[name].status}
        for name in self._wanted:
            self.queue.add(("mirror", name))
        for name in self._startup.look(picture.views, picture.decision.holds):
            self.queue.add(("taint", name))
        if self._startup.again is not None:
            self.queue.add(STATUS, self._startup.again)
        for name in self._node_events.look(picture.views):
            self.queue.add(("events", name))

    def _mirror_status(self, info: MirrorInfo, found: Tally) -> RegistryMirrorStatus:
        return mirror_status(
            generation=info.metadata.generation,
            spec=info.mirror.spec if info.mirror is not None else None,
            error=self._plans.errors.get(info.metadata.name),
            tally=found,
            old=info.status,
            now=self._now(),
            probe=self._plans.policy().probe,
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
            await events.emit(self._api, MIRRORS, name, info.metadata.uid, transition, self._now())

    async def _events(self, name: str) -> None:
        node = self._store.node(name)
        for transition in self._node_events.take(name):
            if node is not None:
                await events.emit(self._api, NODES, name, node.uid, transition, self._now())

    async def _policy(self) -> None:
        policy = self._store.policy
        if policy is None:
            return
        errors = tuple(problems(policy.spec.rollout.windows))
        wanted = policy_status(policy.metadata.generation, errors, policy.status, self._now())
        if wanted == policy.status:
            return
        body = {"status": msgspec.to_builtins(wanted)}
        answer = await self._api.apply(POLICIES, "default", body, manager=CONTROLLER, subresource="status")
        self._count(POLICIES)
        self._store.put(POLICIES, answer)

    def _count(self, resource: Resource) -> None:
        self._metrics.writes.labels(resource.kind).inc()


def _owner(node: NodeInfo) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Node", "name": node.name, "uid": node.uid}
