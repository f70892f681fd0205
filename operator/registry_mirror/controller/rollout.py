"""The rollout: who is told what, and who may restart, decided over all nodes at once and carried out.

A pass begins when all writes of the one before it are over and known, those of the leader before us among them (see
writes.py). So two passes never grant a slot twice, and whoever takes over from us finds every grant in the API.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..api.conditions import find, is_true
from ..api.errors import InvalidError
from ..api.grammar import duration_seconds
from ..api.models import BundleRef, MaintenanceWindow, NodeRegistryConfig, NodeRegistryConfigSpec
from ..core import probing
from ..core.bundle import Bundle
from ..core.members import Member
from ..core.plan import NodeView
from ..core.rollout import Decision, decide
from ..core.times import seconds
from ..core.windows import Opening, opening
from ..kube.client import Api
from ..kube.resources import CONFIGS, Resource
from .bundles import Bundles
from .election import Ledger
from .plans import Plans
from .store import NodeInfo, Store
from .writes import Order, Writes

_LATE = 10.0  # an agent that has not answered for so long may be gone
_FRESH = 600.0


@dataclass(frozen=True, slots=True)
class Picture:
    """All nodes at one moment, what was decided for them, and the resourceVersion of each NodeRegistryConfig then."""

    views: list[NodeView]
    decision: Decision
    versions: Mapping[str, str]


class Rollout:
    """Decides over all nodes, and writes what each is told; ``seconds`` is how long the last decision took."""

    def __init__(
        self,
        store: Store,
        api: Api,
        plans: Plans,
        bundles: Bundles,
        count: Callable[[Resource], None],
        clock: Callable[[], float] = time.time,
        ledger: Ledger | None = None,
    ) -> None:
        """Take the picture of the cluster, the API server, the plans, the bundles, what is told of each write, the
        clock (seconds since 1970), and where to announce writes.
        """
        self.seconds = 0.0
        self._store = store
        self._plans = plans
        self._bundles = bundles
        self._count = count
        self._clock = clock
        self._writes = Writes(store, api, count, ledger or Ledger())
        self._asked: dict[tuple[str, str], float] = {}  # since when which node has not answered to which revision
        self._finished: dict[tuple[str, str], float] = {}  # when we saw the restarts that ended in the future
        self._opening: tuple[tuple[MaintenanceWindow, ...], Opening] | None = None

    # ---- deciding ------------------------------------------------------------------------------------------------

    def look(self) -> Picture:
        """Decide from what is known; changes nothing."""
        started, now = time.monotonic(), self._clock()
        views = self._plans.views()
        nodes = self._store.nodes
        members = [self._member(nodes[view.name], view, now) for view in views]
        rollout = self._plans.policy().rollout
        try:
            found, closed = self._window(rollout.windows, now), "waiting for a maintenance window"
            if found.until is not None and not found.open:
                closed += f", the next of which opens at {_time(found.until)}"
        except InvalidError as error:
            found, closed = Opening(False, None), f"RegistryMirrorPolicy default: {error.detail}"
        decision = decide(members, rollout, duration_seconds(rollout.canary.soak), now, found.open, found.until, closed)
        self.seconds = time.monotonic() - started
        return Picture(views, decision, {view.name: self._store.version(CONFIGS, view.name) for view in views})

    def _window(self, windows: tuple[MaintenanceWindow, ...], now: float) -> Opening:
        """Look at the windows again only when it may have changed."""
        if self._opening is not None and self._opening[0] == windows:
            known = self._opening[1]
            if known.until is None or now < known.until:
                return known
        found = opening(windows, now)
        self._opening = windows, found
        return found

    def _member(self, node: NodeInfo, view: NodeView, now: float) -> Member:
        config, bundle = view.config, view.plan.bundle
        if config is None:
            return Member(name=node.name, wanted="", ready=node.ready, schedulable=node.schedulable, server=node.server)
        spec, status = config.spec, config.status
        seen = status.observed_generation == config.metadata.generation
        # Without ``seen``: an order that changes something else says nothing about what is in force.
        applied = bool(spec.revision) and status.applied_revision == spec.revision
        failed = seen and is_true(status.conditions, "Stalled")
        restart = status.restart
        start = self._bundles.start
        return Member(
            name=node.name,
            wanted=bundle.revision if bundle is not None else spec.revision,
            given=spec.revision,
            wanted_start=self._bundles.note(bundle) if bundle is not None else start(spec.revision),
            given_start=start(spec.revision),
            good_start=start(status.last_good_revision),
            applied=applied,
            failed=failed,
            waiting=bool(status.waiting_for_restart),
            seen=seen,
            late=self._is_late(node, spec.revision, applied or failed, now),
            granted=spec.restart_allowed,
            result=restart.result if restart is not None else "",
            tried=restart.revision if restart is not None else "",
            tried_start=start(restart.revision) if restart is not None else "",
            finished_at=self._ended(node, restart.finished_at, now) if restart is not None else 0.0,
            ready=node.ready,
            schedulable=node.schedulable,
            fresh=(node.tainted or not status.applied_revision) and not node.server and now - node.created_at < _FRESH,
            server=node.server,
        )

    def _is_late(self, node: NodeInfo, revision: str, answered: bool, now: float) -> bool:
        key = (node.uid, revision)
        if answered or not revision:
            self._asked.pop(key, None)
            return False
        return now - self._asked.setdefault(key, now) >= _LATE

    def _ended(self, node: NodeInfo, finished_at: str, now: float) -> float:
        """When a restart was over: by our clock if the node's is ahead, or its soak would never end."""
        at = seconds(finished_at)
        if at <= now and (node.uid, finished_at) not in self._finished:
            return at
        return min(at, self._finished.setdefault((node.uid, finished_at), now))

    # ---- carrying out --------------------------------------------------------------------------------------------

    async def run(self) -> float | None:
        """Decide, and write what has to be written; gives after how many seconds to look again, or None: at once after
        a write, for our own writes come back as nothing new.

        Raises ProblemError if a write failed; all others were made then, but no new restart was allowed. Neither is one
        where an object was not as it was looked at.
        """
        await self._writes.learn()
        picture = self.look()
        decision = picture.decision
        orders: dict[str, Order] = {}
        wanted: dict[str, Bundle] = {}
        for view in picture.views:
            if view.config is None:
                continue
            target = self.target(view, decision)
            bundle = view.plan.bundle
            if bundle is not None and target.revision == bundle.revision:
                wanted[bundle.name] = bundle
                if _misses_bundle(view.config):
                    self._bundles.missing(bundle.name)
            if target != view.config.spec:
                orders[view.name] = Order(view.config, picture.versions[view.name], target)
        for bundle in wanted.values():
            await self._bundles.ensure(bundle)
        if not orders:
            self._forget()
            return self._again(decision)
        await self._writes.announce(orders)
        if await self._writes.write({name: order for name, order in orders.items() if not order.grants}):
            await self._writes.write({name: order for name, order in orders.items() if order.grants})
        self._forget()
        return 0.0

    def target(self, view: NodeView, decision: Decision) -> NodeRegistryConfigSpec:
        """What a node is told: its revision as before, unless it is given another."""
        spec = view.config.spec if view.config is not None else NodeRegistryConfigSpec()
        revision, bundle = spec.revision, spec.bundle
        if view.name in decision.give and view.plan.bundle is not None:
            revision, bundle = view.plan.bundle.revision, BundleRef(name=view.plan.bundle.name)
        policy = self._plans.policy()
        return NodeRegistryConfigSpec(
            revision=revision,
            bundle=bundle,
            restart_allowed=view.name in decision.allow,
            restart_deadline=policy.rollout.deadline,
            keep_drift=policy.drift == "Report",
            probe=probing.for_node(policy.probe),
        )

    def _forget(self) -> None:
        uids = {node.uid for node in self._store.nodes.values()}
        self._asked = {key: since for key, since in self._asked.items() if key[0] in uids}
        self._finished = {key: since for key, since in self._finished.items() if key[0] in uids}

    def _again(self, decision: Decision) -> float | None:
        now = self._clock()
        times = [since + _LATE for since in self._asked.values() if since + _LATE > now] if decision.holds else []
        if decision.again is not None:
            times.append(decision.again)
        return max(min(times) - now, 0.0) if times else None


def _misses_bundle(config: NodeRegistryConfig) -> bool:
    applied = find(config.status.conditions, "Applied")
    return applied is not None and applied.reason == "BundleNotFound"


def _time(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
