"""Kubernetes Events, for what a person reading ``kubectl describe`` wants to hear of."""

from __future__ import annotations

import hashlib
import logging
import uuid

from ..core.status import Transition
from .client import Api
from .errors import ApiError
from .resources import CONTROLLER, EVENTS, Resource

_log = logging.getLogger(__name__)

# Where Events of cluster-scoped objects live (client-go tools/record).
NAMESPACE = "default"
_MAX_NOTE = 1024
_SUFFIX = 16


async def emit(
    api: Api, resource: Resource, name: str, uid: str, transition: Transition, now: str, *, once: str = ""
) -> None:
    """Write one Event about a cluster-scoped object. Where that fails it is only logged: the conditions say the same.

    ``once`` stands for what is told: for the same object it is written once for as long as the API server keeps it,
    whoever writes it. kubectl describe finds Events on a Node by its UID, and by its name in place of the UID, which is
    what kubelets write (kubectl 0.36, describe.go).
    """
    suffix = hashlib.sha256(f"{uid} {once}".encode()).hexdigest() if once else uuid.uuid4().hex
    body = {
        "metadata": {"name": f"{name[:230]}.{suffix[:_SUFFIX]}", "namespace": NAMESPACE},
        "involvedObject": {"apiVersion": resource.api_version, "kind": resource.kind, "name": name, "uid": uid},
        "type": transition.type,
        "reason": transition.reason,
        "message": transition.message[:_MAX_NOTE],
        "source": {"component": CONTROLLER},
        "reportingComponent": CONTROLLER,
        "reportingInstance": CONTROLLER,
        "action": transition.reason,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "eventTime": None,
        "count": 1,
    }
    try:
        await api.create(EVENTS, body, NAMESPACE)
    except ApiError as error:
        _log.warning("no Event: %s", error.message)
