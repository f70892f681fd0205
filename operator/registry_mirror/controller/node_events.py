"""Events on Nodes, from how the NodeRegistryConfigs change while this controller looks on.

What happened before it came, or while none was there, is told by the conditions alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

from ..api.models import NodeRegistryConfigStatus
from ..core.node_events import transitions
from ..core.plan import NodeView
from ..core.status import Transition

_log = logging.getLogger(__name__)

# Over all nodes: what befalls a whole cluster at once is told by the RegistryMirrors.
MOST_A_MINUTE = 60
_NEW = NodeRegistryConfigStatus()


class NodeEvents:
    """Finds out what there is to tell of nodes whose status has changed since the last look."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Take the clock (seconds)."""
        self._clock = clock
        self._known: dict[str, NodeRegistryConfigStatus] | None = None  # by UID of the object; None before a look
        self._pending: dict[str, list[Transition]] = {}
        self._left = float(MOST_A_MINUTE)
        self._at = clock()

    def look(self, views: Iterable[NodeView]) -> list[str]:
        """Compare all nodes with how they were at the last look; gives the names of those of which to tell."""
        known: dict[str, NodeRegistryConfigStatus] = {}
        found: list[str] = []
        for view in views:
            if view.config is None:
                continue
            uid, status = view.config.metadata.uid, view.config.status
            known[uid] = status
            before = self._known.get(uid, _NEW) if self._known is not None else status
            if before is status:
                continue
            happened = list(transitions(before, status))
            if happened and self._may(len(happened)):
                self._pending.setdefault(view.name, []).extend(happened)
                found.append(view.name)
        self._known = known
        return found

    def take(self, name: str) -> list[Transition]:
        """Give what is to be told of a node, and forget it."""
        return self._pending.pop(name, [])

    def _may(self, number: int) -> bool:
        """Tell whether so many Events may be written now, and count them."""
        now = self._clock()
        self._left = min(float(MOST_A_MINUTE), self._left + (now - self._at) * MOST_A_MINUTE / 60)
        self._at = now
        if self._left < number:
            _log.info("no Event: there were more than %d about nodes in a minute", MOST_A_MINUTE)
            return False
        self._left -= number
        return True
