"""What an agent does when it is told to end: find out whether the operator is being uninstalled, and if so put the node
back as it was found.

No finalizer holds anything for it: one whose controller has gone is what blocks the deletion of namespaces and
applications for ever. A Pod has its grace period, and whoever deletes a Pod waits for that.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from ..api.errors import ProblemError
from ..kube.errors import ApiError
from ..kube.resources import CONFIGS
from ..kube.rest import Rest
from .local import LocalNode

_log = logging.getLogger(__name__)

_DEADLINE = 120.0  # nothing is restarted: it is for a restart that goes on already
_PAUSE = 1.0
_TIMES = 3  # in a row: rights that are replaced are missing for a moment
_DENIED = (401, 403)


def leave(rest: Rest, name: str, node: LocalNode, patience: float) -> None:
    """Put the node of that name back if the operator is being uninstalled; see ``uninstalled``. Never raises.

    Nothing is restarted: all agents end at the same time. What the runtime has read stays in force until its next
    start, which reads what was there before.
    """
    if not uninstalled(rest, name, patience):
        return
    _log.info("the operator is being uninstalled: putting back what was there before")
    try:
        done = node.restore(restart=False, deadline=_DEADLINE, report=lambda text: _log.info("%s", text))
    except ProblemError as error:
        _log.error("%s: %s", error.reason, error.message)
        return
    later = f"; at its next start, the runtime forgets: {', '.join(done.waiting)}" if done.waiting else ""
    _log.info("put back %d files%s", len(done.restored), later)


def uninstalled(
    rest: Rest,
    node: str,
    patience: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Tell whether the operator is being uninstalled, and not only this Pod replaced, moved or restarted.

    It is where the agent's object is gone or going, or its account or rights are: with the manifests go the CRDs, the
    roles and the namespace, in no particular order, so this looks again and again for ``patience`` seconds. An API
    server that does not answer says nothing.
    """
    end, seen = clock() + patience, 0
    while True:
        seen = seen + 1 if _gone(rest, node) else 0
        if seen >= _TIMES:
            return True
        if clock() >= end and not seen:
            return False
        sleep(_PAUSE)


def _gone(rest: Rest, node: str) -> bool:
    try:
        found = rest.get(CONFIGS, node)
    except ApiError as error:
        return error.status in _DENIED
    return found is None or bool(found["metadata"].get("deletionTimestamp"))
