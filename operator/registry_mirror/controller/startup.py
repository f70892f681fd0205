"""The startup taint: new nodes lose it when their mirrors are in place; where it stays, an Event says why."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from ..api.errors import InvalidError
from ..core import startup
from ..core.plan import NodeView
from ..core.rollout import Hold
from ..core.select import matches
from ..core.startup import Keep
from ..core.status import Transition
from ..kube import events
from ..kube.client import Api
from ..kube.errors import ApiError
from ..kube.resources import NODES, Resource
from .plans import Plans
from .store import NodeInfo, Store

# The policy may come a moment after the controller; an agent's image is pulled, and a restart takes its time.
_IGNORED_AFTER = 10.0
_KEPT_AFTER = 120.0
_TRIES = 5


class Startup:
    """Knows the nodes with the taint, and nothing of the others; ``again`` is after how many seconds to look again
    without being told of a change, or None.
    """

    def __init__(
        self,
        store: Store,
        api: Api,
        plans: Plans,
        count: Callable[[Resource], None],
        now: Callable[[], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the picture of the cluster, the API server, the plans, what is told of each write, the time for Events
        (RFC 3339) and the clock (seconds).
        """
        self.again: float | None = None
        self._store = store
        self._api = api
        self._plans = plans
        self._count = count
        self._now = now
        self._clock = clock
        self._tainted: dict[str, str] = {}  # the UID by the name
        self._wanted: dict[str, Keep | None] = {}
        self._since: dict[tuple[str, str], float] = {}  # since when a node keeps its taint for a reason
        self._told: set[tuple[str, str]] = set()

    def note(self, name: str) -> None:
        """Take in that a Node may have changed."""
        node = self._store.node(name)
        before = self._tainted.pop(name, None)
        if node is not None and node.tainted:
            self._tainted[name] = node.uid
        if before is not None and before != self._tainted.get(name):
            self._wanted.pop(name, None)
            self._since = {key: since for key, since in self._since.items() if key[0] != before}
            self._told = {key for key in self._told if key[0] != before}

    # ---- deciding ------------------------------------------------------------------------------------------------

    def look(self, views: Iterable[NodeView], holds: Mapping[str, Hold]) -> list[str]:
        """Decide from what is known about the nodes with the taint; gives the names of those to ``act`` on."""
        self._wanted, self.again = {}, None
        if not self._tainted:
            return []
        now, enabled = self._clock(), self._plans.policy().startup_taint
        for view in views:
            node = self._store.node(view.name) if view.name in self._tainted else None
            if node is None:
                continue
            keep = self._missing(node, view, holds.get(view.name)) if enabled else startup.IGNORED
            if keep is None or self._is_due(node, keep, now):
                self._wanted[view.name] = keep
        return list(self._wanted)

    def _missing(self, node: NodeInfo, view: NodeView, hold: Hold | None) -> Keep | None:
        return startup.missing(view, hold, dict(self._broken(node, view)))

    def _broken(self, node: NodeInfo, view: NodeView) -> Iterable[tuple[str, InvalidError]]:
        """The mirrors that are meant for a node, but have never been good. Of one whose spec cannot be read, nobody
        knows what it is meant for.
        """
        plan = view.plan
        for name, error in self._plans.errors.items():
            known = name in plan.in_force or name in plan.problems or name in plan.conflicts
            mirror = self._store.mirrors[name].mirror if name in self._store.mirrors else None
            if not known and mirror is not None and matches(mirror.spec.node_selector, node.labels):
                yield name, error

    def _is_due(self, node: NodeInfo, keep: Keep, now: float) -> bool:
        """Tell whether somebody should hear of it now, and has not yet."""
        key = (node.uid, keep.reason)
        if key in self._told:
            return False
        patience = _IGNORED_AFTER if keep == startup.IGNORED else 0.0 if keep.lasting else _KEPT_AFTER
        left = self._since.setdefault(key, now) + patience - now
        if left > 0:
            self.again = left if self.again is None else min(self.again, left)
        return left <= 0

    # ---- carrying out --------------------------------------------------------------------------------------------

    async def act(self, name: str) -> None:
        """Do what was decided for a node last. Raises ApiError if the taint could not be removed."""
        node = self._store.node(name)
        if node is None or name not in self._wanted:
            return
        keep = self._wanted[name]
        if keep is not None:
            key = (node.uid, keep.reason)
            if key not in self._told:
                self._told.add(key)
                await self._tell(node, startup.told(keep, name), keep.reason)
        elif await self._remove(node):
            await self._tell(node, startup.REMOVED, startup.REMOVED.reason)

    async def _remove(self, node: NodeInfo) -> bool:
        """Remove the taint; gives False if it is gone already, or the node is."""
        for attempt in range(_TRIES):
            body = await self._api.get(NODES, node.name)
            if body is None or body["metadata"]["uid"] != node.uid:
                return False
            patch = startup.removal(node.uid, body["spec"].get("taints") or ())
            if not patch:
                self._take_in(node.name, body)
                return False
            try:
                self._take_in(node.name, await self._api.patch(NODES, node.name, patch))
            except ApiError as error:
                if error.status == 404:
                    return False
                if error.status not in (409, 422) or attempt + 1 == _TRIES:
                    raise
                continue  # somebody else has written the list meanwhile
            self._count(NODES)
            return True
        raise AssertionError  # the last attempt has returned or raised

    def _take_in(self, name: str, body: dict[str, object]) -> None:
        self._store.put(NODES, body)
        self.note(name)

    async def _tell(self, node: NodeInfo, event: Transition, once: str) -> None:
        await events.emit(self._api, NODES, node.name, node.uid, event, self._now(), once=once)
